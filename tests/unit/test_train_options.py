"""What saves memory changes nothing else; auxiliary heads learn from what is known, on any number of processes."""

import json
import os
import signal
import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from mammoflow import pack, settings, tables
from mammoflow.errors import UserError
from mammoflow.train import command
from mammoflow.train.auxiliary import HEADS, agreement, bag_targets, image_targets
from mammoflow.train.classifier import Classifier
from mammoflow.train.common import chosen_precision
from mammoflow.train.data import Units, collate, split_bags
from mammoflow.train.losses import auxiliary_losses
from mammoflow.train.memory import checkpoint_encoder, kept_for_backward
from mammoflow.train.model import BreastModel, make_encoder
from mammoflow.train.recorder import InterruptedTraining
from mammoflow.train.segmenter import SegmentModel
from mammoflow.train.units import build_units, participants
from training_cohort import one_thread, write_cohort

AUXILIARY = {"density": 0.3, "birads": 0.1, "age": 0.2, "view": 0.3}
SECTION = {
    "cohort": "synthetic",
    "encoder": "test_convnext",  # without batch normalisation: how a batch is cut then changes nothing
    "image_size": [64, 32],
    "epochs": 2,
    "batch_size": 8,
    "learning_rate": 0.003,
    "sampler": "natural",
    "augment": False,
    "workers": 0,
    "accelerator": "cpu",
}
STEPS = 3  # per epoch


@pytest.fixture(scope="module", autouse=True)
def same_threads():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """(cohort, pack) of 40 patients. The grey of an image tells the patient's density, a bright corner its view.

    Every fifth patient has no known density, every fourth no age; BI-RADS is known of malignant breasts and of every
    second other one; one view is neither CC nor MLO.
    """
    root = tmp_path_factory.mktemp("data")
    cohort, store = write_cohort(root)
    manifest = tables.read(cohort / "manifest.parquet", "manifest")
    number = manifest["patient_id"].str[1:].astype(int)
    grade = number // 3 % 4
    for path, one, view in zip(manifest["image_path"], grade, manifest["view_position"], strict=True):
        grey = cv2.imread(str(store / path), cv2.IMREAD_UNCHANGED) * (0.4 + 0.2 * one)
        if view == "MLO":  # the pectoral muscle
            cv2.fillPoly(grey, [np.array([[0, 0], [14, 0], [0, 28]])], 40000)
        cv2.imwrite(str(store / path), grey.clip(0, 65535).astype(np.uint16))
    manifest["breast_density"] = grade.map(dict(enumerate(tables.DENSITIES))).where(number % 5 != 1)
    manifest["age"] = (45 + 8 * grade).where(number % 4 != 1)
    known = (manifest["label_malignant"] == 1) | (number % 4 < 2)
    manifest["breast_birads"] = manifest["label_malignant"].map({0: "BI-RADS 2", 1: "BI-RADS 5"}).where(known)
    manifest.loc[0, "view_position"] = "ML"
    tables.write(tables.finish("manifest", manifest), cohort / "manifest.parquet")
    pack.pack(manifest, store, root / "pack", (64, 32))
    return cohort, root / "pack"


def fit(data, out, *, sources=(), **changes):
    section = settings.resolve_section("run", SECTION | changes)
    command.train("demo", 0, *data, section, 1, out, sources)
    return json.loads((out / "train.json").read_text())


def state(out):
    """Weights after the last step."""
    return torch.load(out / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def curve(out):
    return pd.read_csv(out / "metrics.csv").drop(columns=["images_per_s", "loader_wait_share", "seconds"])


def difference(one, two):
    """Largest difference of any number in two states of the same names."""
    assert one.keys() == two.keys()
    return max(float((one[name].double() - two[name].double()).abs().max()) for name in one)


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    """A training with all auxiliary heads and none of the options."""
    out = tmp_path_factory.mktemp("plain")
    fit(data, out, auxiliary=AUXILIARY)
    return out


# Memory


def test_a_batch_in_parts_teaches_what_the_whole_batch_does(data, plain, tmp_path, monkeypatch):
    """Samples, marked views and known labels are spread unevenly over the parts: their means are over the batch."""
    sizes, gradients = [], []
    losses, clip = Classifier.losses, Classifier.clip_gradients

    def counted(self, part):
        sizes.append(len(part["label"]))
        return losses(self, part)

    def seen(self, *args, **kwargs):
        gradients.append({name: one.grad.clone() for name, one in self.model.named_parameters()})
        clip(self, *args, **kwargs)

    monkeypatch.setattr(Classifier, "losses", counted)
    monkeypatch.setattr(Classifier, "clip_gradients", seen)
    fit(data, tmp_path / "parts", auxiliary=AUXILIARY, accumulate=3)
    assert sizes == 2 * STEPS * [3, 3, 2]
    assert len(gradients) == 2 * STEPS
    fit(data, tmp_path / "whole", auxiliary=AUXILIARY, epochs=1)
    assert sizes[2 * STEPS * 3 :] == STEPS * [8]
    assert difference(gradients[0], gradients[2 * STEPS]) < 2e-5  # the first step, of the same weights
    # AdamW divides by the gradients' size and so makes of rounding what it is over a few steps.
    assert difference(state(tmp_path / "parts"), state(plain)) < 1e-3
    pd.testing.assert_frame_equal(curve(tmp_path / "parts"), curve(plain), atol=1e-3)  # the learning rate, too


def test_an_interrupted_training_in_parts_goes_on(data, tmp_path, monkeypatch, capsys):
    """Also with other options: they decide how a step is computed, not what comes out."""
    changes = {"accumulate": 2, "augment": True}
    fit(data, tmp_path / "whole", **changes)
    original = Classifier.on_train_batch_start

    def signalled(self, batch, batch_idx):
        if self.global_step == STEPS + 1:
            signal.raise_signal(signal.SIGTERM)
        original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "on_train_batch_start", signalled)
        with pytest.raises(InterruptedTraining, match="step 2 of 3 in epoch 1"):
            fit(data, tmp_path / "cut", **changes)
    fit(data, tmp_path / "cut", **changes, gradient_checkpointing=True)
    assert "goes on after 5 steps (1 whole epochs)" in capsys.readouterr().err
    assert difference(state(tmp_path / "cut"), state(tmp_path / "whole")) < 1e-6


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_computing_again_changes_no_weight_and_no_statistic(data, tmp_path, monkeypatch, precision):
    """With batch normalisation, whose running statistics must not see a batch twice."""
    changes = {"encoder": "test_resnet", "epochs": 1, "augment": True, "precision": precision}
    fit(data, tmp_path / "kept", **changes)
    calls, original = [], Classifier.configure_optimizers

    def counted(self):
        self.model.encoder.layer2.register_forward_pre_hook(lambda *_: calls.append(self.trainer.training))
        return original(self)

    monkeypatch.setattr(Classifier, "configure_optimizers", counted)
    fit(data, tmp_path / "again", **changes, gradient_checkpointing=True)
    assert sum(calls) == 2 * STEPS  # each step twice
    assert any("running_var" in name for name in state(tmp_path / "kept"))
    assert difference(state(tmp_path / "again"), state(tmp_path / "kept")) < 1e-6
    kept, again = (load_file(tmp_path / name / "weights.safetensors") for name in ("kept", "again"))
    assert difference(kept, again) < 1e-6


@pytest.mark.parametrize(("name", "at_most"), [("convnext_nano", 0.2), ("resnet34", 0.5), ("efficientnet_b0", 0.2)])
def test_less_is_kept_at_full_resolution(name, at_most):
    size = tuple(settings.resolve_section("run", {"cohort": "a", "image_size": [2048, 1024]})["image_size"])
    with torch.device("meta"):  # shapes without values: nothing is computed
        encoder = make_encoder(name, pretrained=False)
        before = kept_for_backward(encoder, size)
        checkpoint_encoder(encoder, name, size)
        after = kept_for_backward(encoder, size)
    assert before > 1e9
    assert after < at_most * before


def test_less_is_kept_by_a_segmentation():
    with torch.device("meta"):
        model = SegmentModel("resnet34", 1, decoder_channels=64)
        before = kept_for_backward(model, (1024, 512), images=2)
        checkpoint_encoder(model.timm_encoder, "resnet34", (1024, 512))
        assert kept_for_backward(model, (1024, 512), images=2) < 0.75 * before


def test_a_segmentation_in_parts_computes_again_without_a_trace(data, tmp_path):
    changes = {"task": "segment", "encoder": "test_resnet", "segment": {"decoder_channels": 16}, "epochs": 1}
    fit(data, tmp_path / "kept", **changes, accumulate=2)
    fit(data, tmp_path / "again", **changes, accumulate=2, gradient_checkpointing=True)
    assert difference(state(tmp_path / "again"), state(tmp_path / "kept")) < 1e-6


def test_an_encoder_that_cannot_compute_again_is_refused():
    with torch.device("meta"):
        encoder = make_encoder("hrnet_w18_small", pretrained=False)
    with pytest.raises(UserError, match="gradient_checkpointing: timm cannot do this with encoder 'hrnet_w18_small'"):
        checkpoint_encoder(encoder, "hrnet_w18_small", (64, 32))
    encoder.set_grad_checkpointing = lambda enable: None  # takes the wish and does nothing
    with pytest.raises(UserError, match="timm cannot do this"):
        checkpoint_encoder(encoder, "deaf", (64, 32))


def test_a_compiled_model_learns_the_same_under_the_same_names(data, plain, tmp_path, monkeypatch):
    """Captured and differentiated as a graph, then run by torch itself: writing C++ for it takes minutes."""
    graphs, compile_model = [], torch.nn.Module.compile

    def captured(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile_model(self, backend=captured))
    fit(data, tmp_path, auxiliary=AUXILIARY, compile=True)
    assert graphs
    assert difference(state(tmp_path), state(plain)) < 1e-3
    assert load_file(tmp_path / "weights.safetensors").keys() == load_file(plain / "weights.safetensors").keys()


def test_precision_auto_follows_the_device(monkeypatch):
    section = settings.resolve_section("run", SECTION | {"precision": "auto"})
    assert chosen_precision(section) == "32"
    for native, chosen in ((True, "bf16"), (False, "32")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native)
        assert chosen_precision(section | {"accelerator": "auto"}) == chosen
    assert chosen_precision(section | {"precision": "bf16"}) == "bf16"


def test_parts_that_cannot_be_are_refused(data, tmp_path):
    with pytest.raises(UserError, match=r"run\.accumulate 9: each of 1 processes gets 8 samples"):
        fit(data, tmp_path, accumulate=9)
    with pytest.raises(UserError, match=r"single image in some part \(accumulate 5\), .* take 20 or more"):
        fit(data, tmp_path, task="segment", accumulate=5)
    config = {"datasets": {"mias": {}}, "cohorts": {"a": {"datasets": ["mias"]}}}
    for changes, message in [
        ({"accumulate": 5, "processes": 2}, r"runs\.r\.accumulate: a process gets 4 samples"),
        ({"task": "segment", "auxiliary": {"view": 1}}, r"runs\.r\.auxiliary: only classify runs"),
        ({"auxiliary": {"parity": 1}}, r"auxiliary: unknown key 'parity'; allowed: age, birads, density, view"),
    ]:
        with pytest.raises(UserError, match=message):
            settings.check_references(settings.resolve(config | {"runs": {"r": {"cohort": "a"} | changes}}))


# Auxiliary heads


def test_words_of_the_manifest_become_targets():
    rows = pd.DataFrame({
        "breast_density": pd.array(["DENSITY A", "DENSITY D", None, None, None], "string"),
        "breast_birads": pd.array(["BI-RADS 1", "BI-RADS 4B", "BI-RADS 5", "BI-RADS 0", "BI-RADS 6"], "string"),
        "age": pd.array([40, 61, None, 0, 99], "Int64"),
        "view_position": pd.array(["CC", "MLO", "ML", None, "CC"], "string"),
    })  # fmt: skip
    nan = np.nan
    expected = {
        "density": [0, 3, nan, nan, nan],
        "birads": [0, 3, 4, nan, nan],
        "age": [40, 61, nan, 0, 99],
        "view": [0, 1, nan, nan, 0],
    }
    assert list(HEADS) == list(expected) == list(AUXILIARY)
    for name, values in expected.items():
        np.testing.assert_array_equal(HEADS[name].targets(rows), values)
    assert set(settings.schema()["$defs"]["run"]["properties"]["auxiliary"]["properties"]) == set(HEADS)

    # A bag: the denser, the more suspicious, the mean age; each view its own.
    keyed = rows.assign(dataset="d", image_id=["a", "b", "c", "d", "e"])
    of_images = image_targets(keyed, HEADS)
    bag = bag_targets([of_images["d", one] for one in "abc"])
    assert {name: values[~values.isnan()].tolist() for name, values in bag.items()} == {
        "density": [3], "birads": [4], "age": [50.5], "view": [0, 1]
    }  # fmt: skip
    assert bag_targets([of_images["d", "d"]])["birads"].isnan().all()


def test_what_is_unknown_teaches_nothing():
    torch.manual_seed(0)
    model = BreastModel("test_convnext", auxiliary=HEADS).eval()
    views, bag = torch.randn(4, 1, 64, 32), torch.tensor([0, 0, 1, 1])

    def taught(**known):
        """Loss and total gradient of each head; what is not in ``known`` is unknown."""
        model.zero_grad()
        targets = {name: torch.full((4 if head.per_view else 2,), torch.nan) for name, head in HEADS.items()}
        for name, (place, value) in known.items():
            targets[name][place] = value
        losses = auxiliary_losses(model(views, bag, 2), targets)
        sum(losses).backward()
        heads = {name: float(head.weight.grad.abs().sum()) for name, head in model.auxiliary.items()}
        body = float(model.encoder.stem_0.weight.grad.abs().sum())
        return {name: float(loss.detach()) for name, loss in zip(HEADS, losses, strict=True)}, heads, body

    losses, heads, body = taught()
    assert set(losses.values()) == set(heads.values()) == {0.0}  # and gradients are there, as DDP demands
    assert body == 0
    for name, value in {"density": 2.0, "birads": 0.0, "age": 70.0, "view": 1.0}.items():
        losses, heads, body = taught(**{name: (1, value)})
        assert body > 0
        assert {one for one, loss in losses.items() if loss} == {one for one, size in heads.items() if size} == {name}
        # The unknown neighbour in the batch changes nothing.
        both, *_ = taught(**{name: (slice(None), value)})
        assert both[name] > losses[name]


def test_grades_are_ordered():
    head = HEADS["density"]
    logits = torch.tensor([[9.0, -9.0, -9.0]])  # B
    assert head.values(logits).tolist() == [1]
    costs = [float(head.losses(logits, torch.tensor([grade]))) for grade in (1.0, 2.0, 3.0)]
    assert costs == sorted(costs)
    assert costs[0] < 0.01 < 2 * costs[1] == pytest.approx(costs[2], rel=1e-3)
    assert agreement(np.array([0, 1, 2, 3]), np.array([0, 1, 2, 3])) == 1
    assert agreement(np.array([1, 1, 1, 1]), np.array([0, 1, 2, np.nan])) == 0
    assert np.isnan(agreement(np.array([1.0]), np.array([np.nan])))


def test_parts_hold_whole_bags(data):
    manifest = tables.read(data[0] / "manifest.parquet", "manifest")
    units = build_units(participants(manifest), "breast")[:5]
    samples = Units(units, pack.PackedImages(data[1]), auxiliary=image_targets(manifest, HEADS))
    batch = collate([samples[index] for index in range(5)])
    parts = split_bags(batch, 2)
    assert [part["index"].tolist() for part in parts] == [[0, 1, 2], [3, 4]]
    for part in parts:
        whole = collate([samples[index] for index in part["index"].tolist()])
        assert part.keys() == whole.keys()
        for name in whole.keys() - {"auxiliary"}:
            assert torch.equal(torch.nan_to_num(part[name]), torch.nan_to_num(whole[name])), name
        for name in HEADS:
            torch.testing.assert_close(part["auxiliary"][name], whole["auxiliary"][name], equal_nan=True)
    assert len(split_bags(batch, 9)) == 5


def test_two_processes_in_parts_compute_what_one_does(data, plain, tmp_path):
    section = SECTION | {"auxiliary": AUXILIARY, "accumulate": 2, "gradient_checkpointing": True}
    arguments = ["train", "demo", "--fold", "0", "--cohort", data[0], "--pack", data[1], "--seed", "1"]
    arguments += ["--out", tmp_path, "--settings", json.dumps(section)]
    launcher = [sys.executable, "-m", "mammoflow.train.launch", "--processes", "2", "--"]
    environment = os.environ | {"OMP_NUM_THREADS": "2"}  # the job's: one each
    done = subprocess.run(
        [*launcher, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "train.json").read_text())["world_size"] == 2
    assert difference(state(tmp_path), state(plain)) < 1e-3
    pd.testing.assert_frame_equal(curve(tmp_path), curve(plain), atol=1e-3)


def test_the_heads_learn_what_can_be_seen(data, tmp_path):
    record = fit(data, tmp_path, auxiliary=AUXILIARY, epochs=14, learning_rate=0.006)
    assert record["auxiliary_known"] == {
        "train": {"density": 20, "birads": 12, "age": 20, "view": 48},
        "val": {"density": 16, "birads": 10, "age": 12, "view": 32},
    }
    last = pd.read_csv(tmp_path / "metrics.csv").iloc[-1]
    for name in ("density", "age", "view"):
        assert last[f"val_{name}"] > 0.5, name  # 0 is chance
    assert record["best_val_auc"] > 0.7
    kept = load_file(tmp_path / "weights.safetensors")
    assert kept["auxiliary.density.weight"].shape[0] == 3
    assert kept["auxiliary.birads.weight"].shape[0] == 4


def test_chains_with_and_without_heads(data, plain, tmp_path, capsys):
    without = fit(data, tmp_path / "without", from_run="demo", sources=[plain], epochs=1)["started_from"]
    assert without["changed"] == {"auxiliary": {"from": sorted(AUXILIARY), "to": []}}
    assert without["started_anew"] == []
    assert without["not_used"] == sorted(f"auxiliary.{name}.{part}" for name in HEADS for part in ("weight", "bias"))
    assert "8 of the source are not used" in capsys.readouterr().err
    heads = {"view": 0.1}
    back = fit(data, tmp_path / "with", from_run="demo", sources=[tmp_path / "without"], epochs=1, auxiliary=heads)
    assert back["started_from"]["started_anew"] == ["auxiliary.view.weight", "auxiliary.view.bias"]
    assert "auxiliary.view.weight" in load_file(tmp_path / "with/weights.safetensors")


def test_a_head_without_any_known_label_is_refused(data, tmp_path):
    cohort = tmp_path / "cohort"
    manifest = tables.read(data[0] / "manifest.parquet", "manifest").assign(breast_density=pd.NA)
    tables.write(tables.finish("manifest", manifest), cohort / "manifest.parquet")
    for name in ("findings.parquet", "digest.json"):
        (cohort / name).write_bytes((data[0] / name).read_bytes())
    with pytest.raises(UserError, match=r"auxiliary\.density: no breast .* outside fold 0 has a known breast_density"):
        fit((cohort, data[1]), tmp_path / "out", auxiliary=AUXILIARY)
