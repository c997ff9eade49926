"""Segmentation's parts: classes, class maps, windows, augmentation in register, loss, candidates."""

import json
from itertools import pairwise

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mammoflow import lesions, outlines, settings, tables
from mammoflow.lesions import IGNORE, Lesion, class_map, class_of, fully_marked, kind_of
from mammoflow.pack import PackedImages, pack
from mammoflow.train.candidates import candidates, hits
from mammoflow.train.segment_data import shares
from mammoflow.train.segment_predict import lesion_dice
from mammoflow.train.segmenter import decide, hard_dice, prepare, segmentation_loss
from mammoflow.train.windows import compose, random_windows, slide, soften, starts, window_at

SIZE = (96, 64)


def blob(x, y, rx, ry, value=1, name="f", malignant=1):
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    ring = np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1)
    return Lesion(name, value, [ring], "polygon", "mass", malignant, None)


@pytest.mark.parametrize(
    ("categories", "malignant", "expected"),
    [
        ("['Mass']", 1, {"lesion": 1, "type": 1, "seed4": 2, "type_x_pathology": 3}),
        ("['Mass']", 0, {"lesion": 1, "type": 1, "seed4": 1, "type_x_pathology": 1}),
        ("['Suspicious Calcification']", 1, {"lesion": 1, "type": 2, "seed4": 3, "type_x_pathology": 4}),
        ("['Suspicious Calcification']", 0, {"lesion": 1, "type": 2, "seed4": 1, "type_x_pathology": 2}),
        ("['Mass', 'Suspicious Calcification']", 1, {"lesion": 1, "type": 1, "seed4": 2, "type_x_pathology": 3}),
        ("['Asymmetry']", 1, {"lesion": 1, "type": IGNORE, "seed4": IGNORE, "type_x_pathology": IGNORE}),
        ("['Asymmetry']", 0, {"lesion": 1, "type": IGNORE, "seed4": 1, "type_x_pathology": IGNORE}),
        ("['Mass']", None, {"lesion": 1, "type": 1, "seed4": IGNORE, "type_x_pathology": IGNORE}),
        (None, 1, {"lesion": 1, "type": IGNORE, "seed4": IGNORE, "type_x_pathology": IGNORE}),
    ],
)
def test_what_class_a_finding_is(categories, malignant, expected):
    assert {name: class_of(kind_of(categories), malignant, name) for name in lesions.CLASS_SETS} == expected


def test_every_class_set_is_offered_by_the_schema_and_scored():
    offered = settings.schema()["$defs"]["segment"]["properties"]["classes"]["enum"]
    assert set(offered) == set(lesions.CLASS_SETS) == set(lesions.SUSPICIOUS)
    for name, names in lesions.CLASS_SETS.items():
        assert all(1 <= value <= len(names) for value in lesions.SUSPICIOUS[name])
        if name in lesions.TELLS_PATHOLOGY:
            assert not any("benign" in names[value - 1] for value in lesions.SUSPICIOUS[name])


def test_lesions_of_an_image_are_merged_by_class_whatever_their_order():
    inside, around, unknown = blob(30, 40, 6, 6, value=2), blob(30, 40, 15, 20, value=1), blob(36, 40, 15, 20, IGNORE)
    maps = [class_map(order, SIZE) for order in ([inside, around, unknown], [unknown, around, inside])]
    assert (maps[0] == maps[1]).all()
    assert maps[0][40, 30] == 2
    assert maps[0][40, 20] == 1
    assert maps[0][40, 49] == IGNORE
    assert (maps[0] == 2).sum() == pytest.approx(np.pi * 36, rel=0.05)
    assert class_map([], SIZE).sum() == 0


def test_a_lesion_smaller_than_a_pixel_is_not_lost():
    assert (class_map([blob(10.5, 10.5, 0.2, 0.2)], SIZE) == 1).sum() == 1


@given(st.floats(0, 64), st.floats(0, 96))
def test_points_inside_an_outline(x, y):
    lesion = blob(30, 40, 12, 20)
    share = ((x - 30) / 12) ** 2 + ((y - 40) / 20) ** 2
    if abs(share - 1) > 0.02:
        assert lesion.covers(x, y) == (share < 1)


def manifest_of(**columns):
    count = len(next(iter(columns.values())))
    rows = {"dataset": ["a"] * count, "image_id": [str(k) for k in range(count)], "label_malignant": [0] * count}
    rows |= {"n_findings": [0] * count, "findings_elsewhere": [0] * count, "label_3cat": [None] * count}
    return pd.DataFrame(rows | columns).convert_dtypes()


def test_images_that_may_hide_a_lesion_are_not_background():
    manifest = manifest_of(
        dataset=["a", "a", "a", "a", "a", "bare", "bare"],
        label_malignant=[1, 1, 1, 0, 0, 0, 0],
        n_findings=[1, 1, 2, 0, 1, 0, 0],
        label_3cat=[None, None, None, None, None, "normal", "benign"],
    )
    boxes = dict.fromkeys(lesions.OUT_BOX, 5.0)
    findings = pd.DataFrame([
        {"dataset": "a", "image_id": "0", "label_malignant": 1, **boxes},
        {"dataset": "a", "image_id": "1", "label_malignant": 0, **boxes},  # the malignant one is not marked
        {"dataset": "a", "image_id": "2", "label_malignant": 1, **boxes},  # one of two is not marked
        {"dataset": "a", "image_id": "4", "label_malignant": 0, **dict.fromkeys(lesions.OUT_BOX, np.nan)},
    ]).convert_dtypes()  # fmt: skip
    assert fully_marked(manifest, findings).tolist() == [True, False, False, True, False, True, False]
    # The one that is wholly marked has a lesion more, which its archive lists with another copy of the picture.
    twin = manifest.assign(findings_elsewhere=pd.array([1, *[0] * 6], dtype="Int64"))
    assert fully_marked(twin, findings).tolist() == [False, False, False, True, False, True, False]


def sections(**changes):
    section = settings.resolve_section("run", {"cohort": "c", "task": "segment"})
    section["segment"] |= changes
    return section


@given(st.integers(0, 10_000), st.sampled_from(["image", "window", "roi"]), st.sampled_from([1, 2, IGNORE]))
@hypothesis_settings(max_examples=25)
def test_image_and_class_map_stay_in_register(seed, sampling, value):
    """An image that is bright where its lesion is still is so after every cut and augmentation."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    x, y, rx, ry = generator.uniform([15, 15, 8, 8], [49, 81, 14, 14])
    mask = torch.from_numpy(np.stack([class_map([blob(x, y, rx, ry, value)], SIZE)] * 4))
    views = (0.5 + 0.5 * (mask == value))[:, None].float()
    section = sections(sampling=sampling, window=[64, 32]) | {"augment": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mammoflow.train.segmenter.jitter", lambda views: views)  # grey values are the test's witness
        moved, target, valid = prepare(views, mask, 3, section)
    size = (64, 32) if sampling != "image" else SIZE
    assert moved.shape == (4, 1, *size)
    assert target.shape == (4, 3, *size)
    assert torch.equal(target.sum(1), torch.ones(4, *size))
    bright = moved[:, 0] > 0.75
    drawn = (valid[:, 0] == 0) if value == IGNORE else (target[:, value] == 1)
    assert (bright ^ drawn).sum() <= 0.03 * max(int(bright.sum()), 100)
    if sampling == "roi" and value != IGNORE:
        assert drawn.flatten(1).any(1).float().mean() >= 0.75  # augmentation may push one out of its window
    if value != IGNORE:
        assert (valid == 1).all()


def test_windows_lie_inside_and_hold_the_lesion():
    torch.manual_seed(0)
    mask = torch.zeros(200, 1, *SIZE, dtype=torch.bool)
    mask[:, :, 2:5, 3:6] = True  # in a corner
    theta = random_windows(mask, (32, 32), always=True)
    ends = theta[:, :, 2].abs() + torch.stack([theta[:, 0, 0], theta[:, 1, 1]], 1)
    assert ends.max() <= 1 + 1e-6
    top = (theta[:, 1, 2] + 1) / 2 * SIZE[0] - 16
    left = (theta[:, 0, 2] + 1) / 2 * SIZE[1] - 16
    assert (top < 5).all()
    assert (left < 6).all()
    everywhere = random_windows(torch.zeros(400, 1, *SIZE, dtype=torch.bool), (32, 32), always=True)
    assert everywhere[:, 1, 2].std() > 0.3
    half = random_windows(mask.repeat(4, 1, 1, 1), (32, 32), always=False)
    assert 0.45 < ((half[:, 1, 2] + 1) / 2 * SIZE[0] - 16 < 5).float().mean() < 0.75


def test_composed_maps_are_applied_one_after_the_other():
    torch.manual_seed(0)
    outer, inner = torch.randn(3, 2, 3), torch.randn(3, 2, 3)
    point = torch.randn(3, 2, 1)
    once = inner[:, :, :2] @ point + inner[:, :, 2:]
    twice = outer[:, :, :2] @ once + outer[:, :, 2:]
    both = compose(outer, inner)
    assert torch.allclose(both[:, :, :2] @ point + both[:, :, 2:], twice, atol=1e-5)


@given(st.integers(1, 500), st.integers(32, 200))
def test_windows_cover_every_pixel_and_overlap(length, window):
    first = starts(length, window)
    assert first[0] == 0
    assert first[-1] + window >= length
    assert all(b - a <= window // 2 + 1 for a, b in pairwise(first))


def test_a_sliding_window_gives_back_what_a_pixelwise_score_is():
    views = torch.rand(2, 1, 96, 64)
    whole = slide(views, None, lambda part: torch.cat([part, 1 - part], 1))
    assert torch.allclose(slide(views, (32, 32), lambda part: torch.cat([part, 1 - part], 1)), whole, atol=1e-6)
    assert torch.equal(slide(views, (96, 64), lambda part: part), views)


def test_a_window_at_a_point_stays_inside():
    image = torch.zeros(1, 1, 96, 64)
    assert window_at(image, 2, 90, (32, 32)) == (slice(64, 96), slice(0, 32))
    assert window_at(image, 32, 48, (128, 32)) == (slice(0, 96), slice(16, 48))


def test_soft_borders_still_add_up_and_keep_the_middle():
    onehot, _ = shares(torch.from_numpy(class_map([blob(30, 40, 15, 15)], SIZE))[None], 3)
    soft = soften(onehot, 2.0)
    assert torch.allclose(soft.sum(1), torch.ones(1, *SIZE), atol=1e-5)
    assert soft[0, 1, 40, 30] > 0.99
    assert 0.3 < soft[0, 1, 40, 45] < 0.7
    assert soften(onehot, 0) is onehot


def test_pixels_to_ignore_teach_nothing():
    mask = torch.from_numpy(class_map([blob(30, 40, 10, 10), blob(30, 70, 10, 10, IGNORE)], SIZE))[None]
    target, valid = shares(mask, 2)
    logits = torch.randn(1, 2, *SIZE, requires_grad=True)
    segmentation_loss(logits, target, valid, 1.0).sum().backward()
    assert (logits.grad[0, :, mask[0] == IGNORE] == 0).all()
    assert (logits.grad[0, :, mask[0] == 1] != 0).all()


def test_the_loss_is_zero_for_the_truth_and_adds_up_over_images():
    mask = torch.from_numpy(np.stack([class_map([blob(30, 40, 10, 10, v)], SIZE) for v in (1, 2, 0)]))
    target, valid = shares(mask, 3)
    right = segmentation_loss(target * 60 - 30, target, valid, 1.0)
    assert right.max() < 1e-4
    wrong = segmentation_loss(-(target * 60 - 30), target, valid, 1.0)
    assert (wrong > 1).all()
    logits = torch.randn(3, 3, *SIZE)
    together = segmentation_loss(logits, target, valid, 0.7)
    alone = torch.cat(
        [segmentation_loss(*(part[k : k + 1] for part in (logits, target, valid)), 0.7) for k in range(3)]
    )
    assert torch.allclose(together, alone)
    # No lesion, no Dice: weight makes no difference.
    assert torch.allclose(segmentation_loss(logits, target, valid, 9.0)[2], together[2])


def test_a_small_lesion_counts_in_dice_however_soft_its_border():
    mask = torch.zeros(1, *SIZE, dtype=torch.uint8)
    mask[0, 20:26, 20:26] = 1
    target, valid = shares(mask, 2)
    assert soften(target, 4.0)[:, 1].max() < 0.5
    missed = -(target * 60 - 30)
    loss, alone = (segmentation_loss(missed, target, valid, weight, 4.0) for weight in (1.0, 0.0))
    assert float(loss - alone) > 0.5
    assert float(segmentation_loss(missed, target * 0, valid, 1.0, 4.0)) == 0


def test_hard_dice_is_that_of_torchmetrics():
    from torchmetrics.segmentation import DiceScore

    torch.manual_seed(0)
    truth, predicted = torch.randint(0, 3, (6, 20, 20)), torch.randint(0, 3, (6, 20, 20))
    truth[0][truth[0] == 2] = 0
    truth[1] = 0
    ours = hard_dice(predicted, truth.to(torch.uint8), 3)
    assert ours[1].isnan()
    for number in (0, 2, 3):
        metric = DiceScore(3, average="none", aggregation_level="global", input_format="index")
        theirs = metric(predicted[number : number + 1], truth[number : number + 1])[1:]
        present = [value for value in (1, 2) if (truth[number] == value).any()]
        assert float(ours[number]) == pytest.approx(float(theirs[[value - 1 for value in present]].mean()))


def hill(x, y, height, width=4.0, size=(60, 60)):
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    return height * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * width**2))


def test_each_hill_is_a_candidate_with_its_place_and_height():
    found = candidates(np.maximum(hill(15, 20, 0.95), hill(45, 40, 0.55)))
    assert len(found) == 2
    assert [(round(one.x), round(one.y)) for one in found] == [(15, 20), (45, 40)]
    assert found[0].score > 0.8 > 0.55 > found[1].score > 0.4
    xmin, _, xmax, _ = found[0].box
    assert 6 <= xmax - xmin <= 14
    assert xmin < 15 < xmax


def test_hills_on_warm_ground_stay_apart():
    found = candidates(np.maximum(np.maximum(hill(15, 20, 0.95), hill(45, 40, 0.85)), 0.35))
    assert len(found) == 2
    assert all(one.box[2] - one.box[0] < 30 for one in found)


def test_a_cold_map_still_points_somewhere():
    (only,) = candidates(hill(15, 20, 0.1))
    assert (only.x, only.y) == (pytest.approx(15, abs=1), pytest.approx(20, abs=1))
    assert only.score == pytest.approx(0.1, abs=0.01)
    (nowhere,) = candidates(np.zeros((5, 5)))
    assert nowhere.score == 0


def test_only_known_targets_count_and_unknown_ones_excuse():
    inside, benign, unknown = (
        blob(30, 40, 10, 10, 2, "hit"),
        blob(30, 70, 9, 9, 1, "benign", 0),
        blob(50, 10, 5, 5, IGNORE),
    )
    marks = [inside, benign, unknown]
    assert hits(30, 40, marks, "seed4") == (["hit"], False)
    assert hits(30, 70, marks, "seed4") == ([], False)  # a benign lesion called malignant is a false positive
    assert hits(50, 10, marks, "seed4") == ([], True)
    assert hits(5, 90, marks, "seed4") == ([], False)
    assert hits(30, 70, marks, "lesion") == (["benign"], False)  # there any marked lesion is looked for
    assert hits(30, 70, marks, None) == ([], False)
    assert hits(50, 10, [blob(50, 10, 5, 5, 1, "x", None)], None) == ([], True)


def test_a_lesion_is_compared_with_the_regions_that_touch_it():
    marks = [blob(20, 20, 8, 8, 1, "one"), blob(44, 70, 8, 8, 1, "two"), blob(20, 70, 8, 8, 1, "missed")]
    truth = class_map(marks, SIZE)
    predicted = class_map([blob(20, 20, 8, 8), blob(44, 70, 5, 8), blob(55, 10, 4, 4)], SIZE)
    found = lesion_dice(predicted, marks, truth)
    assert found["one"]["dice"] == 1.0  # the region at 55, 10 touches no lesion
    assert found["two"]["dice"] == pytest.approx(2 * 5 / 13, rel=0.05)
    assert found["missed"]["dice"] == 0.0


def test_findings_become_lesions_in_packed_pixels(tmp_path):
    """A mask's outline through crop, mirror and scale of the conversion and the placement of the pack."""
    geometry = {
        "stored_height": 400, "stored_width": 300, "crop_x0": 40, "crop_y0": 20, "crop_x1": 240, "crop_y1": 380,
        "flip": True, "scale_x": 0.5, "scale_y": 0.5, "pad_left": 0, "pad_top": 0, "out_height": 180, "out_width": 100,
    }  # fmt: skip
    mask = np.zeros((400, 300), bool)
    cv2.ellipse(canvas := mask.astype(np.uint8), (120, 200), (30, 50), 20, 0, 360, 1, -1)
    working = cv2.resize(canvas[20:380, 40:240][:, ::-1] * 60000.0, (100, 180), interpolation=cv2.INTER_AREA)
    (tmp_path / "store").mkdir()
    cv2.imwrite(str(tmp_path / "store/a.png"), working.astype(np.uint16))
    manifest = tables.finish("manifest", pd.DataFrame([{
        "dataset": "a", "image_id": "1", "study_id": "s", "patient_id": "p", "group_id": "g", "label_policy": "x",
        "image_path": "a.png", "pixel_spacing_mm": 0.1, **geometry,
    }]))  # fmt: skip
    x, y, width, height = cv2.boundingRect(canvas)
    box = [x, y, x + width, y + height]
    out = [(240 - 40 - (box[2] - 40)) / 2 - 0, (box[1] - 20) / 2, (200 - (box[0] - 40)) / 2, (box[3] - 20) / 2]
    findings = tables.finish("manifest_findings", pd.DataFrame([{
        "dataset": "a", "finding_id": "f", "image_id": "1", "study_id": "s", "patient_id": "p", "geometry": "mask",
        "points": json.dumps(outlines.mask_points(canvas.astype(bool))), "label_malignant": 1,
        "finding_categories": "['Mass']", **dict(zip(["xmin", "ymin", "xmax", "ymax"], map(float, box), strict=True)),
        **dict(zip(lesions.OUT_BOX, out, strict=True)),
    }]))  # fmt: skip
    pack(manifest, tmp_path / "store", tmp_path / "pack", (96, 64))
    images = PackedImages(tmp_path / "pack")
    found = lesions.packed_lesions(manifest, findings, images, "type_x_pathology")
    (lesion,) = found["a", "1"]
    assert (lesion.value, lesion.drawn) == (3, "mask")
    assert lesion.size_mm == pytest.approx(max(width, height) * 0.1)
    drawn, seen = class_map([lesion], (96, 64)) == 3, images["a", "1"] > 115
    assert (drawn & seen).sum() > 0.93 * (drawn | seen).sum()
    np.testing.assert_allclose(images.lift(("a", "1"), images.place(("a", "1"), [[1, 2, 30, 40]])), [[1, 2, 30, 40]])
    rows, columns = images.content(("a", "1"))
    assert (rows.stop - rows.start, columns.stop - columns.start) == (96, 53)
    # A box alone: filled, or out of the loss.
    boxed = findings.assign(points=pd.NA, geometry="bbox")
    for boxes, value in (("fill", 3), ("ignore", IGNORE)):
        (lesion,) = lesions.packed_lesions(manifest, boxed, images, "type_x_pathology", boxes)["a", "1"]
        assert (lesion.value, lesion.drawn) == (value, "box")


def test_a_lesion_of_doubtful_kind_is_a_lesion():
    probability = torch.tensor([[0.4, 0.35, 0.25], [0.6, 0.4, 0.0], [0.5, 0.2, 0.3], [0.1, 0.1, 0.8]])
    assert decide(probability.T[None, :, :, None]).flatten().tolist() == [1, 0, 2, 2]
