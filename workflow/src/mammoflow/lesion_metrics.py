"""What a run finds of the marked lesions: FROC, localisation hit rate, Dice and IoU, with patient-clustered intervals.

Counted are images whose lesions are all marked (table ``overlaps``). A candidate hits a lesion where its centre lies
inside the outline. Several candidates on one lesion are one hit, and none of them a false positive; a candidate on a
lesion of unknown truth is neither. See Chakraborty and Winter, Radiology 174:873 (1990) for the free-response
paradigm; sensitivity is read at false positives per image as in the LUNA16 challenge (Setio et al., Medical Image
Analysis 42:1, 2017).
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammoflow.bootstrap import MIN_PATIENTS, Resampler, exact_bound, percentile_interval
from mammoflow.levels import LESION_SIZES

FALSE_POSITIVES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # per image
GRID = np.geomspace(0.05, 10, 40)  # of the drawn curve
ANY = "any"
IMAGE = ["dataset", "image_id"]


def measure_lesions(
    candidates: pd.DataFrame, targets: pd.DataFrame, overlaps: pd.DataFrame, options: dict[str, Any], seed: int
) -> dict[str, Any]:
    """All numbers of a run about lesions. ``options``: the section ``evaluate``. The tables are those of predict.

    Keys: ``splits`` (val, test: ``froc``, ``hit_rate``, ``groups``, ``overlap``, ``dice``, counts) or, where there is
    nothing to measure, ``reason``.
    """
    if not len(overlaps):
        return {"reason": "the run's maps were not learned from marked lesions, or no image has all its lesions marked"}
    splits = {}
    for split in ("val", "test"):
        parts = [table[table["split"] == split].reset_index(drop=True) for table in (candidates, targets, overlaps)]
        splits[split] = _measure_split(*parts, options, seed)
    return {"reason": None, "false_positives_per_image": list(FALSE_POSITIVES), "splits": splits}


def _measure_split(
    candidates: pd.DataFrame, targets: pd.DataFrame, overlaps: pd.DataFrame, options: dict[str, Any], seed: int
) -> dict[str, Any]:
    images = overlaps[overlaps["class_name"] == ANY].reset_index(drop=True)
    wanted = targets[targets["target"].astype(bool)].reset_index(drop=True)
    block: dict[str, Any] = {
        "n_images": len(images),
        "n_targets": len(wanted),
        "n_patients": int(images["group_id"].nunique()),
        "boxes_only": int((wanted["drawn"] == "box").sum()),
        "small": bool(images["group_id"].nunique() < options["min_subgroup"]),
    }
    if not len(images) or not len(wanted):
        return {**block, "reason": "no image with all lesions marked" if not len(images) else "no lesion to find"}
    draws = Draws(images["group_id"], options["bootstrap"], seed)
    shown = candidates.merge(images[IMAGE], on=IMAGE)
    false = shown[shown["hits"].isna() & ~shown["excused"].astype(bool)]
    froc = Froc(images, wanted, false)
    values = {"froc": froc.sensitivities(FALSE_POSITIVES), "hit_rate": hit_rate(shown, wanted, images)}
    trials = wanted["group_id"].nunique()
    block["froc"] = [
        {"false_positives": rate, **number}
        for rate, number in zip(FALSE_POSITIVES, draws.summarise(values["froc"], options, trials), strict=True)
    ]
    block["curve"] = [
        {"false_positives": float(rate), **{name: number[name] for name in ("value", "low", "high")}}
        for rate, number in zip(GRID, draws.summarise(froc.sensitivities(GRID), options, trials), strict=True)
    ]
    block["most"] = {"false_positives": froc.most[0], "sensitivity": froc.most[1]}
    block["hit_rate"] = draws.summarise(values["hit_rate"], options, trials)[0]
    block["groups"] = [
        {**group, "sensitivity": draws.summarise(froc.sensitivities((1.0,), member), options, patients)[0],
         "dice": _mean(draws, wanted[member], "dice", options), "n": int(member.sum()), "n_patients": patients}
        for group, member in groups(wanted)
        for patients in [int(wanted.loc[member, "group_id"].nunique())]
    ]  # fmt: skip
    drawn = targets[targets["dice"].notna()].reset_index(drop=True)
    block["dice"] = {name: _mean(draws, drawn, name, options) for name in ("dice", "dice_roi") if len(drawn)}
    block["dice"] = {name: number for name, number in block["dice"].items() if number}
    block["overlap"] = [
        {"class_name": name, **class_overlap(draws, rows.reset_index(drop=True), options)}
        for name, rows in overlaps[overlaps["true_px"].notna()].groupby("class_name", sort=False)
    ]
    return {**block, "reason": None}


class Draws:
    """Patient-clustered bootstrap shared by all numbers of a split, so that they are of the same patients.

    ``groups``: the patients, one entry per image (those without a lesion count for the false positives).
    """

    def __init__(self, groups: pd.Series, replicates: int, seed: int) -> None:
        self.names = np.unique(groups.to_numpy(str))
        self.counts = Resampler.over(self.names, replicates, seed).counts

    def weights(self, groups: pd.Series) -> NDArray[np.float64]:
        """(1 + replicates, n): row 0 counts each unit once, the others as often as its patient was drawn."""
        codes = np.searchsorted(self.names, groups.to_numpy(str))
        return np.concatenate([np.ones((1, len(codes))), self.counts[:, codes].astype(float)])

    def summarise(self, metric: Any, options: dict[str, Any], trials: int) -> list[dict[str, Any]]:
        """value, low, high and reason of each column that ``metric(self)`` (1 + replicates, k) returns."""
        values = metric(self)
        found = []
        for column in values.T:
            value = float(column[0])
            if not np.isfinite(value):
                found.append({"value": None, "low": None, "high": None, "reason": "not defined"})
                continue
            low, high, reason = percentile_interval(column[1:], options["confidence"])
            if trials < MIN_PATIENTS:
                low, high, reason = None, None, f"no interval: {trials} patients are too few to resample"
            if low is None and value in (0.0, 1.0):
                low, high = exact_bound(value, trials, options["confidence"])
                reason = f"exact bound from {trials} patients"
            found.append({"value": value, "low": low, "high": high, "reason": reason})
        return found


class Froc:
    """Free-response curve. ``images``, ``targets`` (with the score of their best candidate) and ``false`` candidates,
    each with ``group_id``."""

    def __init__(self, images: pd.DataFrame, targets: pd.DataFrame, false: pd.DataFrame) -> None:
        self.images, self.targets = images, targets
        self.best = targets["score"].to_numpy(float, na_value=-np.inf)
        order = np.argsort(-false["score"].to_numpy(float), kind="stable")
        self.false = false.iloc[order]
        self.false_scores = false["score"].to_numpy(float)[order]
        # All candidates of one score pass a threshold together.
        self.last_of_score = np.flatnonzero(np.append(np.diff(self.false_scores) != 0, True)[: len(order)])

    @property
    def most(self) -> tuple[float, float]:
        """False positives per image and sensitivity where every candidate counts: the curve's end."""
        return len(self.false_scores) / len(self.images), float(np.isfinite(self.best).mean())

    def sensitivities(self, rates: Any, member: Any = None) -> Any:
        """A metric for :meth:`Draws.summarise`: sensitivity of the targets (of those in ``member``) at ``rates`` false
        positives per image: at the lowest threshold that does not exceed the rate."""
        member = np.ones(len(self.targets), bool) if member is None else np.asarray(member, bool)

        def metric(draws: Draws) -> NDArray[np.float64]:
            images = draws.weights(self.images["group_id"]).sum(1)
            lesions = draws.weights(self.targets["group_id"]) * member
            per_image = draws.weights(self.false["group_id"]).cumsum(1)[:, self.last_of_score] / images[:, None]
            # Lesions by falling score: weights of those above each threshold are a running sum.
            order = np.argsort(-self.best, kind="stable")
            above = np.concatenate([np.zeros((len(lesions), 1)), lesions[:, order].cumsum(1)], axis=1)
            falling = -self.best[order]
            thresholds = self.false_scores[self.last_of_score]
            found = np.full((len(images), len(rates)), np.nan)
            with np.errstate(invalid="ignore"):
                for column, rate in enumerate(rates):
                    # The first threshold that lets too many through: only what scores higher than it is called.
                    first = (per_image <= rate + 1e-12).sum(1)
                    limit = np.append(thresholds, -np.inf)[first]
                    called = np.searchsorted(falling, -limit, side="left")
                    found[:, column] = above[np.arange(len(above)), called] / above[:, -1]
            return found

        return metric


def hit_rate(candidates: pd.DataFrame, targets: pd.DataFrame, images: pd.DataFrame) -> Any:
    """A metric: share of the images with a target on which the highest candidate hits one (the pointing game of Zhang
    et al., IJCV 126:1084, 2018)."""
    first = candidates[candidates["rank"] == 0].set_index(IMAGE)["hits"].notna()
    rows = images.merge(targets[IMAGE].drop_duplicates(), on=IMAGE)
    hit = first.reindex(pd.MultiIndex.from_frame(rows[IMAGE]), fill_value=False).to_numpy(float)

    def metric(draws: Draws) -> NDArray[np.float64]:
        weights = draws.weights(rows["group_id"])
        with np.errstate(invalid="ignore"):
            return (weights @ hit / weights.sum(1))[:, None]

    return metric


def groups(targets: pd.DataFrame) -> list[tuple[dict[str, str], NDArray[np.bool_]]]:
    """Targets by size in mm, kind and archive: what a group is, and its members."""
    size = targets["size_mm"].to_numpy(float, na_value=np.nan)
    found = [
        ({"column": "lesion_size", "value": name}, (size >= low) & (size < high))
        for name, (low, high) in LESION_SIZES.items()
    ]
    found.append(({"column": "lesion_size", "value": "size unknown"}, np.isnan(size)))
    for column in ("kind", "dataset"):
        found += [
            ({"column": column, "value": value}, (targets[column] == value).to_numpy(bool))
            for value in sorted(targets[column].unique())
        ]
    return [(group, member) for group, member in found if member.any()]


def _mean(draws: Draws, rows: pd.DataFrame, column: str, options: dict[str, Any]) -> dict[str, Any] | None:
    """Mean over lesions with its interval, None where the column is empty."""
    known = rows[rows[column].notna()]
    if known.empty:
        return None
    values = known[column].to_numpy(float)

    def metric(draws: Draws) -> NDArray[np.float64]:
        weights = draws.weights(known["group_id"])
        with np.errstate(invalid="ignore"):
            return (weights @ values / weights.sum(1))[:, None]

    return {**draws.summarise(metric, options, known["group_id"].nunique())[0], "n": len(known)}


def class_overlap(draws: Draws, rows: pd.DataFrame, options: dict[str, Any]) -> dict[str, Any]:
    """Dice and IoU of one class. ``dice`` and ``iou`` count all pixels together; ``dice_image`` and ``iou_image`` are
    means over the images that hold the class. ``rows``: of table ``overlaps``."""
    true, predicted, both = (rows[name].to_numpy(float) for name in ("true_px", "predicted_px", "both_px"))
    holds = true > 0

    def metric(draws: Draws) -> NDArray[np.float64]:
        weights = draws.weights(rows["group_id"])
        t, p, b = (weights @ part for part in (true, predicted, both))
        with np.errstate(invalid="ignore", divide="ignore"):
            each = 2 * both / (true + predicted), both / (true + predicted - both)
            means = [(weights[:, holds] @ part[holds]) / weights[:, holds].sum(1) for part in each]
            return np.stack([2 * b / (t + p), b / (t + p - b), *means], axis=1)

    numbers = draws.summarise(metric, options, rows["group_id"].nunique())
    names = ("dice", "iou", "dice_image", "iou_image")
    return {"n_images": int(holds.sum()), **dict(zip(names, numbers, strict=True))}


def tidy(block: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows for metrics.csv: split, subgroup, metric, value, low, high, reason, n_units, n_patients, small."""
    rows = []
    for split, part in block.get("splits", {}).items():
        place = {"split": split, "n_units": part["n_targets"], "n_patients": part["n_patients"], "small": part["small"]}
        if part["reason"]:
            continue
        numbers = [(f"sensitivity at {row['false_positives']:g} fp/image", "all", row) for row in part["froc"]]
        numbers += [("localisation hit rate", "all", part["hit_rate"])]
        numbers += [(name, "all", number) for name, number in part["dice"].items()]
        for row in part["overlap"]:
            names = ("dice", "iou", "dice_image", "iou_image")
            numbers += [(f"{name} of pixels" if name in names[:2] else name, f"class={row['class_name']}", row[name])
                        for name in names]  # fmt: skip
        for group in part["groups"]:
            where = f"{group['column']}={group['value']}"
            numbers += [("sensitivity at 1 fp/image", where, group["sensitivity"])]
            numbers += [("dice", where, group["dice"])] if group["dice"] else []
        rows += [
            {
                **place,
                "subgroup": where,
                "metric": name,
                **{key: number[key] for key in ("value", "low", "high", "reason")},
            }
            for name, where, number in numbers
        ]
    return rows
