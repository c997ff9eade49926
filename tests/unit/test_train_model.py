import subprocess
import sys

import pytest
import torch
from torch import nn

from mammoflow.errors import UserError
from mammoflow.train.ema import DECAY, MovingAverage
from mammoflow.train.losses import batch_losses, localisation
from mammoflow.train.model import BreastModel, pool, to_unit_range
from mammoflow.train.module import learning_rate_factor

ENCODER = "test_convnext"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return BreastModel(ENCODER).eval()


def test_pooling_is_a_softmax_over_all_patches_of_a_bag():
    torch.manual_seed(0)
    patches, scores, bag = torch.randn(5, 7, 3), torch.randn(5, 7) * 30, torch.tensor([0, 1, 0, 2, 1])
    pooled, weights = pool(patches, scores, bag, 3)
    for number in range(3):
        mine = bag == number
        expected = torch.softmax(scores[mine].flatten(), 0)
        assert torch.allclose(weights[mine].flatten(), expected, atol=1e-6)
        assert torch.allclose(pooled[number], expected @ patches[mine].flatten(0, 1), atol=1e-5)


def test_views_and_bags_share_the_head(model):
    views = torch.randn(3, 1, 64, 32)
    with torch.inference_mode():
        output = model(views, torch.tensor([0, 0, 1]), 2)
        assert torch.allclose(output.bags[1], output.views[2], atol=1e-5)
        assert torch.allclose(output.attention.sum((1, 2, 3)), torch.ones(3), atol=1e-5)
        assert torch.allclose(output.shares[:2].sum(), torch.tensor(1.0))
        assert torch.allclose(output.shares[2], torch.tensor(1.0))
        assert output.heat.shape == output.attention.shape == (3, 1, 4, 2)
        # The order of views in a bag, and what stands in the other bags, do not matter.
        swapped = model(views[[2, 1, 0]], torch.tensor([1, 0, 0]), 2)
    assert torch.allclose(output.bags, swapped.bags, atol=1e-5)


def test_unmarked_views_teach_the_heat_map_nothing(model):
    views, bag = torch.randn(4, 1, 64, 32), torch.tensor([0, 0, 1, 1])
    label, target = torch.tensor([1.0, 0.0]), torch.rand(4, 1, 8, 4)

    def gradient(marked):
        model.zero_grad()
        _, loss = batch_losses(model(views, bag, 2), label, target, torch.tensor(marked))
        loss.backward()
        return float(loss.detach()), float(model.localise.weight.grad.abs().sum())

    assert gradient([False] * 4) == (0, 0)  # and a gradient is there, as DDP demands
    only_first = gradient([True, False, False, False])
    assert min(only_first) > 0
    with torch.no_grad():
        heat = model(views, bag, 2).heat
    assert only_first[0] == pytest.approx(float(localisation(heat, target)[0]), rel=1e-5)


def test_localisation_falls_as_the_heat_map_meets_the_lesion():
    target = torch.zeros(1, 1, 16, 8)
    target[..., 4:8, 2:4] = 1
    coarse = torch.zeros(1, 1, 8, 4)
    coarse[..., 2:4, 1:2] = 1  # the same place at half the resolution
    losses = [float(localisation(size * (2 * coarse - 1), target)) for size in (-4, 0, 4, 12)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.01


def test_both_depths_become_the_same_grey():
    eight = torch.tensor([[0, 128, 255]], dtype=torch.uint8)
    sixteen = torch.tensor([[0, 128 * 257, 65535]], dtype=torch.uint16)
    assert torch.allclose(to_unit_range(eight), to_unit_range(sixteen))


def test_the_moving_average_follows():
    source = nn.Linear(1, 1, bias=False)
    nn.init.constant_(source.weight, 0.0)
    average = MovingAverage(source)
    nn.init.constant_(source.weight, 1.0)
    average.update(source)
    assert average.model.weight.item() == pytest.approx(0.9)  # decay (1 + 0) / (10 + 0)
    average.updates = 10**6
    average.update(source)
    assert average.model.weight.item() == pytest.approx(1 - 0.1 * DECAY)
    assert not average.model.weight.requires_grad


def test_the_learning_rate_rises_and_falls():
    factors = [learning_rate_factor(step, 100) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == 1
    assert factors[9:] == sorted(factors[9:], reverse=True)
    assert factors[-1] < 0.01


def test_unusable_encoders_are_refused():
    with pytest.raises(UserError, match="no model 'convnext_nanoo'"):
        BreastModel("convnext_nanoo")


def test_an_unreachable_hub_is_one_sentence():
    # A process of its own: the hub's address is read once, at import. Port 9 answers nobody.
    program = (
        "from mammoflow.errors import UserError\n"
        "from mammoflow.train.model import BreastModel\n"
        "try:\n    BreastModel('test_convnext', pretrained=True)\n"
        "except UserError as error:\n    print(error)\n"
    )
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent"}
    path = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment | path)
    assert "the weights of 'test_convnext' could not be fetched" in done.stdout, done.stderr


def test_the_guard_leaves_torchvision_importable():
    import timm
    import torchvision

    from mammoflow.train.guard import ensure_torchvision

    ensure_torchvision()  # a second call changes nothing
    assert torchvision.ops is sys.modules["torchvision.ops"]
    assert timm.create_model("test_resnet", num_classes=1).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 1)


def test_the_moving_average_smooths_the_statistics_of_batches_too():
    model = torch.nn.BatchNorm1d(1, momentum=1.0)  # holds the last batch's mean only
    average = MovingAverage(model)
    expected = 0.0
    for number, mean in enumerate((1.0, -3.0, 5.0)):
        model(torch.tensor([[mean - 1], [mean + 1]]))
        average.update(model)
        decay = (1 + number) / (10 + number)
        expected = decay * expected + (1 - decay) * mean
    assert average.model.running_mean.item() == pytest.approx(expected)
    assert average.model.num_batches_tracked.item() == 3
