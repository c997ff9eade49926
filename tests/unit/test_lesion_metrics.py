"""FROC, hit rate, Dice and IoU: against brute force and independent implementations, and their intervals."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mammoflow.train import guard  # noqa: F401  # isort: skip (before what imports torchvision)

from mammoflow import lesion_metrics, tables
from mammoflow.lesion_metrics import Draws, Froc, class_overlap, hit_rate, measure_lesions
from mammoflow.train.found import pixel_counts

OPTIONS = {"bootstrap": 200, "confidence": 0.95, "min_subgroup": 5}


def case(seed, patients=12, levels=6):
    """Random tables of candidates, targets and overlaps; scores of few levels, so that ties are common."""
    generator = np.random.default_rng(seed)
    candidates, targets, overlaps = [], [], []
    for number in range(patients):
        for view in range(generator.integers(1, 4)):
            place = {
                "dataset": "a", "image_id": f"{number}_{view}", "patient_id": str(number),
                "group_id": f"a|{number}", "split": "test",
            }  # fmt: skip
            overlaps.append({**place, "class_name": "any"})
            names = [f"{number}_{view}_{k}" for k in range(generator.integers(0, 3))]
            best = {}
            scores = np.sort(generator.integers(1, levels, generator.integers(1, 5)) / levels)[::-1]
            for rank, score in enumerate(scores):
                hit = generator.choice([*names, "", ""])
                excused = not hit and generator.random() < 0.1
                best.setdefault(hit, score)
                box = dict.fromkeys(["x", "y", "xmin", "ymin", "xmax", "ymax"], 1.0)
                candidates.append(
                    {**place, **box, "rank": rank, "score": score, "hits": hit or None, "excused": excused}
                )
            for name in names:
                size = generator.choice([5.0, 15.0, 30.0, np.nan])
                targets.append({
                    **place, "finding_id": name, "drawn": generator.choice(["box", "mask"]), "kind": "mass",
                    "size_mm": size, "target": generator.random() < 0.8, "score": best.get(name),
                })  # fmt: skip
    frames = [("candidates", candidates), ("targets", targets), ("overlaps", overlaps)]
    return [tables.finish(name, pd.DataFrame(rows, columns=list(tables.TABLES[name]))) for name, rows in frames]


def brute_force(candidates, targets, overlaps, rate, weights=None):
    """Sensitivity at a rate of false positives, by trying every threshold. ``weights``: of each group."""
    weight = (lambda group: 1.0) if weights is None else weights.__getitem__
    images = sum(weight(group) for group in overlaps["group_id"])
    false = [(s, weight(g)) for s, g, hit, excused in zip(
        candidates["score"], candidates["group_id"], candidates["hits"].notna(), candidates["excused"], strict=True
    ) if not hit and not excused]  # fmt: skip
    wanted = targets[targets["target"].astype(bool)]
    lesions = [
        (s, weight(g)) for s, g in zip(wanted["score"].astype(float).fillna(-1), wanted["group_id"], strict=True)
    ]
    total = sum(w for _, w in lesions)
    best = 0.0
    for threshold in sorted({*candidates["score"], 2.0}):
        if sum(w for s, w in false if s >= threshold) / images <= rate + 1e-12:
            best = max(best, sum(w for s, w in lesions if s >= threshold) / total)
    return best


@given(st.integers(0, 300), st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0]))
@hypothesis_settings(max_examples=60)
def test_froc_is_what_trying_every_threshold_gives(seed, rate):
    candidates, targets, overlaps = case(seed)
    wanted = targets[targets["target"].astype(bool)].reset_index(drop=True)
    if wanted.empty:
        return
    false = candidates[candidates["hits"].isna() & ~candidates["excused"].astype(bool)]
    draws = Draws(overlaps["group_id"], 5, seed)
    found = Froc(overlaps, wanted, false).sensitivities((rate,))(draws)[:, 0]
    assert found[0] == pytest.approx(brute_force(candidates, targets, overlaps, rate))
    for row, counts in zip(found[1:], draws.counts, strict=True):
        weights = dict(zip(draws.names, counts.astype(float), strict=True))
        if any(weights[group] for group in wanted["group_id"]):
            assert row == pytest.approx(brute_force(candidates, targets, overlaps, rate, weights))
        else:
            assert np.isnan(row)


def test_the_free_response_curve_of_scikit_learns_roc_where_each_image_has_one_candidate():
    """With one candidate per image, hits on the lesion images and one on each of the others, FROC is ROC."""
    from sklearn.metrics import roc_curve

    generator = np.random.default_rng(5)
    truth, scores = np.repeat([0, 1], 60), np.round(generator.random(120) + np.repeat([0, 0.3], 60), 2)
    shared = {"dataset": "a", "image_id": [str(k) for k in range(120)], "group_id": [f"a|{k}" for k in range(120)]}
    images = pd.DataFrame(shared)
    targets, false = (images[truth == value].assign(score=scores[truth == value]) for value in (1, 0))
    froc = Froc(images, targets.reset_index(drop=True), false)
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    rates = fpr * 60 / 120  # false positives per image
    found = froc.sensitivities(rates)(Draws(images["group_id"], 1, 0))[0]
    assert (found >= tpr - 1e-12).all()
    highest = pd.Series(tpr).groupby(fpr).max()
    np.testing.assert_allclose(pd.Series(found).groupby(fpr).max(), highest)


def test_dice_and_iou_are_those_of_torchmetrics_and_monai():
    from monai.metrics import DiceMetric, MeanIoU
    from torchmetrics.segmentation import DiceScore

    generator = np.random.default_rng(3)
    truth, predicted = (generator.integers(0, 3, (20, 24, 16)).astype(np.uint8) for _ in range(2))
    truth[:4][truth[:4] == 2] = 0  # images without the second class
    rows = []
    for number in range(20):
        for name, counts in pixel_counts(predicted[number], truth[number], ("mass", "calcification")).items():
            rows.append({"group_id": f"a|{number // 2}", "class_name": name,
                         **dict(zip(("true_px", "predicted_px", "both_px"), counts, strict=True))})  # fmt: skip
    table = pd.DataFrame(rows)
    draws = Draws(table["group_id"], 100, 0)
    ours = {
        name: class_overlap(draws, part.reset_index(drop=True), OPTIONS) for name, part in table.groupby("class_name")
    }
    pair = torch.from_numpy(predicted).long(), torch.from_numpy(truth).long()
    pooled = DiceScore(3, average="none", aggregation_level="global", input_format="index")(*pair)
    onehot = [torch.nn.functional.one_hot(part, 3).permute(0, 3, 1, 2) for part in pair]
    dice, iou = DiceMetric(include_background=True, reduction="none"), MeanIoU(reduction="none")
    means = dice(*onehot).nanmean(0), iou(*onehot).nanmean(0)
    for value, name in enumerate(("mass", "calcification"), start=1):
        assert ours[name]["dice"]["value"] == pytest.approx(float(pooled[value]))
        assert ours[name]["iou"]["value"] == pytest.approx(float(pooled[value] / (2 - pooled[value])))
        assert ours[name]["dice_image"]["value"] == pytest.approx(float(means[0][value]))
        assert ours[name]["iou_image"]["value"] == pytest.approx(float(means[1][value]))
        assert ours[name]["dice"]["low"] < ours[name]["dice"]["value"] < ours[name]["dice"]["high"]
    assert ours["calcification"]["n_images"] == 16
    binary = DiceScore(2, average="none", aggregation_level="global", input_format="index")
    assert ours["any"]["dice"]["value"] == pytest.approx(float(binary((pair[0] > 0).long(), (pair[1] > 0).long())[1]))


def test_pixels_to_ignore_do_not_count():
    truth = np.array([[0, 1, 255, 255]], np.uint8)
    predicted = np.array([[0, 1, 1, 0]], np.uint8)
    assert pixel_counts(predicted, truth, ("lesion",)) == {"any": (1, 1, 1), "lesion": (1, 1, 1)}


def test_hit_rate_asks_only_images_with_a_target():
    candidates, targets, overlaps = case(4)
    wanted = targets[targets["target"].astype(bool)]
    value = hit_rate(candidates, wanted, overlaps)(Draws(overlaps["group_id"], 2, 0))[0, 0]
    first = candidates[candidates["rank"] == 0].set_index("image_id")["hits"]
    assert value == np.mean([first[image] is not pd.NA for image in sorted(set(wanted["image_id"]))])


def test_the_interval_is_over_patients():
    """Each patient's images twice over tell nothing new: the interval stays as wide."""
    candidates, targets, overlaps = case(2, patients=40)
    once = measure_lesions(candidates, targets, overlaps, OPTIONS, 1)["splits"]["test"]
    twice = []
    for table in (candidates, targets, overlaps):
        copy = table.assign(image_id=table["image_id"] + "_copy")
        if "finding_id" in copy:
            copy["finding_id"] += "_copy"
        twice.append(pd.concat([table, copy], ignore_index=True))
    twice = measure_lesions(*twice, OPTIONS, 1)["splits"]["test"]
    assert twice["n_images"] == 2 * once["n_images"]
    for first, second in zip(once["froc"], twice["froc"], strict=True):
        assert (first["value"], first["low"], first["high"]) == (second["value"], second["low"], second["high"])
    assert sum(group["n"] for group in once["groups"] if group["column"] == "lesion_size") == once["n_targets"]


def test_what_cannot_be_measured_says_why():
    empty = [tables.finish(name, pd.DataFrame(columns=list(tables.TABLES[name])))
             for name in ("candidates", "targets", "overlaps")]  # fmt: skip
    assert "not learned from marked lesions" in measure_lesions(*empty, OPTIONS, 0)["reason"]
    candidates, targets, overlaps = case(1)
    found = measure_lesions(candidates, targets.assign(target=False), overlaps, OPTIONS, 0)
    assert found["splits"]["test"]["reason"] == "no lesion to find"
    assert found["splits"]["val"]["reason"] == "no image with all lesions marked"
    assert lesion_metrics.tidy(found) == []
    rows = lesion_metrics.tidy(measure_lesions(candidates, targets, overlaps, OPTIONS, 0))
    assert {"localisation hit rate", "sensitivity at 1 fp/image"} <= {row["metric"] for row in rows}
