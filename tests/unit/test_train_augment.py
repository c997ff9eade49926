import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mammoflow.train.augment import augment, jitter, random_affine, warp
from mammoflow.train.data import TARGET_STRIDE, rasterise

SIZE = (256, 128)


def centre(maps):
    """Centre of mass (x, y) of each (1, h, w) map in pixels of an image of SIZE."""
    height, width = maps.shape[-2:]
    y = (torch.arange(height) + 0.5) * SIZE[0] / height
    x = (torch.arange(width) + 0.5) * SIZE[1] / width
    mass = maps[:, 0].sum((1, 2))
    return torch.stack([(maps[:, 0] * x).sum((1, 2)) / mass, (maps[:, 0] * y[:, None]).sum((1, 2)) / mass], 1)


@given(st.floats(0, 120), st.floats(0, 240), st.floats(1, 60), st.floats(1, 60))
def test_the_target_holds_the_area_of_the_box(xmin, ymin, width, height):
    xmax, ymax = min(xmin + width, SIZE[1]), min(ymin + height, SIZE[0])
    target = rasterise(np.array([[xmin, ymin, xmax, ymax]]), SIZE)
    assert target.shape == (1, 32, 16)
    assert float(target.sum()) * TARGET_STRIDE**2 == pytest.approx((xmax - xmin) * (ymax - ymin), abs=0.1)


def test_overlapping_boxes_do_not_add_up():
    box = [8, 8, 24, 24]
    assert torch.equal(rasterise(np.array([box, box]), SIZE), rasterise(np.array([box]), SIZE))
    assert rasterise(None, SIZE).sum() == 0


def test_lesion_and_target_stay_in_register():
    torch.manual_seed(0)
    views, target = torch.zeros(64, 1, *SIZE), torch.zeros(64, 1, 32, 16)
    for number in range(64):
        x, y = int(torch.randint(20, 80, ())), int(torch.randint(40, 180, ()))
        views[number, 0, y : y + 30, x : x + 20] = 1
        target[number] = rasterise(np.array([[x, y, x + 20, y + 30]]), SIZE)
    theta = random_affine(64, *SIZE)
    moved_views, moved_target = warp(views, theta), warp(target, theta)
    assert (centre(moved_views) - centre(moved_target)).abs().max() < 1.5
    assert (centre(moved_views) - centre(views)).abs().mean() > 5  # they did move
    # augment() uses the same map for both.
    changed, changed_target = augment(views, target)
    assert (centre(changed) - centre(changed_target)).abs().max() < 2.5


def test_rotation_does_not_shear():
    torch.manual_seed(1)
    views = torch.zeros(200, 1, *SIZE)
    views[:, 0, 108:148, 44:84] = 1  # a square in the middle of a frame that is none
    moved = warp(views, random_affine(200, *SIZE))
    middle = centre(moved)
    y, x = torch.meshgrid(torch.arange(SIZE[0]) + 0.5, torch.arange(SIZE[1]) + 0.5, indexing="ij")
    dx, dy = x - middle[:, 0, None, None], y - middle[:, 1, None, None]
    mass = moved[:, 0].sum((1, 2))
    spread_x, spread_y = ((moved[:, 0] * d.square()).sum((1, 2)) / mass for d in (dx, dy))
    mixed = (moved[:, 0] * dx * dy).sum((1, 2)) / mass
    assert torch.allclose(spread_x, spread_y, rtol=0.03)
    assert (mixed / spread_x).abs().max() < 0.03
    assert 0.78 < (mass / 1600).min() < (mass / 1600).max() < 1.28  # areas change by the scale squared only


def test_only_vertical_flips():
    torch.manual_seed(2)
    views = torch.zeros(100, 1, *SIZE)
    views[:, 0, 20:60, :40] = 1  # at the chest wall, in the upper half
    x, y = centre(warp(views, random_affine(100, *SIZE))).T
    assert (x < 64).all()
    assert 25 < int((y > 128).sum()) < 75


def test_background_stays_black_and_values_in_range():
    torch.manual_seed(3)
    views = torch.rand(8, 1, *SIZE)
    views[..., 64:] = 0
    changed = jitter(views)
    assert (changed[..., 64:] == 0).all()
    assert changed.min() >= 0
    assert changed.max() <= 1
    means = changed[..., :64].mean((1, 2, 3))
    assert means.std() > 0.01


def test_a_seed_repeats():
    views, target = torch.rand(4, 1, *SIZE), torch.rand(4, 1, 32, 16)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(augment(views, target))
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert not torch.equal(results[0][0], results[2][0])


def test_an_identity_map_changes_nothing():
    views = torch.rand(2, 1, *SIZE)
    identity = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).repeat(2, 1, 1)
    assert torch.allclose(warp(views, identity), views, atol=1e-4)
    assert F.mse_loss(warp(views, identity), views) < 1e-8
