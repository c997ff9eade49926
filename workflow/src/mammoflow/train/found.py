"""The tables of what a run finds on images whose lesions are all marked: candidates, targets, overlaps."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammoflow import tables
from mammoflow.lesions import CLASS_SETS, IGNORE, Key, Lesion
from mammoflow.pack import PackedImages
from mammoflow.train.candidates import Candidate, hits, is_target

ANY = "any"  # in ``overlaps``: all classes but background together
_SHARED = ("dataset", "image_id", "patient_id", "group_id", "split", "fold")
NAMES = ("candidates", "targets", "overlaps")


class Found(NamedTuple):
    """Finished tables of those names."""

    candidates: pd.DataFrame
    targets: pd.DataFrame
    overlaps: pd.DataFrame


class Collector:
    """Gathers rows image by image. ``classes``: the class set of a segmentation, None for a map of malignancy."""

    def __init__(
        self, manifest: pd.DataFrame, images: PackedImages, lesions: dict[Key, list[Lesion]], classes: str | None
    ) -> None:
        rows = manifest[list(_SHARED)].astype(object).where(manifest[list(_SHARED)].notna(), None).to_dict("records")
        self.rows = {(row["dataset"], row["image_id"]): row for row in rows}
        self.images, self.lesions, self.classes = images, lesions, classes
        self._candidates: list[dict[str, Any]] = []
        self._targets: list[dict[str, Any]] = []
        self._overlaps: list[dict[str, Any]] = []

    def add(
        self,
        key: Key,
        found: Sequence[Candidate],
        size: tuple[int, int],
        *,
        measured: bool,
        class_names: Sequence[str | None] | None = None,
        pixels: dict[str, tuple[int, int, int]] | None = None,
        dice: dict[str, dict[str, float]] | None = None,
    ) -> None:
        """One image: its candidates on a map of ``size``, and, where it is ``measured``, its lesions.

        ``pixels``: class -> pixels of the truth, of the prediction, and of both.  ``dice``: finding_id -> further
        columns of ``targets``.
        """
        shared, lesions = self.rows[key], self.lesions.get(key, [])
        height, width = self.images.image_size
        scale = np.array([width / size[1], height / size[0]])
        best: dict[str, float] = {}
        for rank, one in enumerate(found):
            x, y = np.array([one.x, one.y]) * scale
            hit, excused = hits(x, y, lesions, self.classes) if measured else ([], False)
            for finding in hit:
                best.setdefault(finding, one.score)
            place = self.images.lift(key, np.array([[x, y, x, y], np.array(one.box) * np.tile(scale, 2)]))
            self._candidates.append({
                **shared,
                "rank": rank,
                "score": one.score,
                "x": place[0, 0],
                "y": place[0, 1],
                **dict(zip(("xmin", "ymin", "xmax", "ymax"), place[1], strict=True)),
                "class_name": class_names[rank] if class_names else None,
                "hits": ";".join(hit) or None,
                "excused": excused,
            })  # fmt: skip
        if not measured:
            return
        names = CLASS_SETS[self.classes] if self.classes else ()
        for lesion in lesions:
            named = bool(names) and lesion.value != IGNORE
            self._targets.append({
                **shared,
                "finding_id": lesion.finding_id,
                "drawn": lesion.drawn,
                "kind": lesion.kind,
                "class_name": names[lesion.value - 1] if named else None,
                "label_malignant": lesion.malignant,
                "size_mm": lesion.size_mm,
                "target": is_target(lesion, self.classes),
                "score": best.get(lesion.finding_id),
                **(dice or {}).get(lesion.finding_id, {}),
            })  # fmt: skip
        for name, counts in (pixels or {ANY: (None, None, None)}).items():
            counted = dict(zip(("true_px", "predicted_px", "both_px"), counts, strict=True))
            self._overlaps.append({**shared, "class_name": name, **counted})

    def finish(self) -> Found:
        """The tables."""
        parts = zip(NAMES, (self._candidates, self._targets, self._overlaps), strict=True)
        return Found(
            *(tables.finish(name, pd.DataFrame(rows, columns=list(tables.TABLES[name]))) for name, rows in parts)
        )


def pixel_counts(predicted: NDArray, truth: NDArray[np.uint8], names: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Class -> pixels of the truth, the prediction and both, over the pixels that are not to be ignored."""
    valid = truth != IGNORE
    found = {}
    for value, name in enumerate((ANY, *names)):
        there, drawn = ((truth > 0), (predicted > 0)) if value == 0 else ((truth == value), (predicted == value))
        there, drawn = there & valid, drawn & valid
        found[name] = int(there.sum()), int(drawn.sum()), int((there & drawn).sum())
    return found
