"""A small synthetic cohort for the tests of packing and training: breasts with and without a bright, boxed lesion."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from mammoflow import files, pack, tables


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, torch computes in one thread, here and in programs that are started: sums depend on how they are split.
    What handled a signal before handles it afterwards; a training puts its own in place."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def pack_cohort(cohort: Path, store: Path, out: Path) -> None:
    """The pack of a cohort that :func:`write_cohort` wrote, in its own size."""
    pack.pack(tables.read(cohort / "manifest.parquet", "manifest"), store, out, (64, 32))


def packed_cohort(root: Path) -> tuple[Path, Path]:
    """(cohort, pack) directories of 40 patients below ``root``."""
    cohort, store = write_cohort(root)
    pack_cohort(cohort, store, root / "pack")
    return cohort, root / "pack"


def write_cohort(
    root: Path,
    *,
    patients: int = 40,
    size: tuple[int, int] = (64, 32),
    lesion: int = 9,
    folds: int = 2,
    seed: int = 0,
    boxed: bool = True,
) -> tuple[Path, Path]:
    """Write ``root``/cohort and ``root``/store; returns both.

    Each patient has two breasts with two views of ``size`` (height, width), 16 bit. In every second patient the left
    breast is malignant: a bright square of ``lesion`` pixels in both views. A fifth of the patients is test, a fifth
    validation, the rest train.
    """
    generator = np.random.default_rng(seed)
    images, findings = [], []
    for number in range(patients):
        patient = f"p{number:03d}"
        split = ["test", "val", "train", "train", "train"][number // 2 % 5]
        for side in "LR":
            malignant = int(number % 2 == 0 and side == "L")
            for view in ("CC", "MLO"):
                image_id = f"{patient}_{side}_{view}"
                pixels, box = breast(generator, size, lesion if malignant else 0)
                path = root / "store" / "synthetic" / "r0" / patient / f"{image_id}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), pixels)
                images.append({
                    "dataset": "synthetic",
                    "image_id": image_id,
                    "study_id": f"{patient}_s",
                    "patient_id": patient,
                    "group_id": f"synthetic|{patient}",
                    "laterality": side,
                    "view_position": view,
                    "label_malignant": malignant,
                    "label_policy": "test",
                    "split": split,
                    "fold": number // 10 % folds if split == "train" else pd.NA,
                    "image_path": path.relative_to(root / "store").as_posix(),
                    "out_height": size[0],
                    "out_width": size[1],
                })  # fmt: skip
                if malignant and boxed:
                    findings.append({
                        "dataset": "synthetic",
                        "finding_id": f"{image_id}_f",
                        "image_id": image_id,
                        "study_id": f"{patient}_s",
                        "patient_id": patient,
                        "geometry": "bbox",
                        "label_malignant": 1,
                        **dict(zip(("out_xmin", "out_ymin", "out_xmax", "out_ymax"), box, strict=True)),
                    })  # fmt: skip
    cohort = root / "cohort"
    tables.write(tables.finish("manifest", pd.DataFrame(images)), cohort / "manifest.parquet")
    findings_table = pd.DataFrame(findings, columns=None if findings else ["dataset", "finding_id"])
    tables.write(tables.finish("manifest_findings", findings_table), cohort / "findings.parquet")
    files.write_json(cohort / "digest.json", {"seed": seed, "patients": patients})
    return cohort, root / "store"


def breast(
    generator: np.random.Generator, size: tuple[int, int], lesion: int
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """A half ellipse of noise at the left edge, with a bright square inside it; and the square's box."""
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    inside = ((rows - height / 2) / (height / 2)) ** 2 + (columns / (0.9 * width)) ** 2 < 1
    texture = cv2.GaussianBlur(generator.normal(size=size), (0, 0), 1.5)
    pixels = np.where(inside, 16000 + 9000 * texture, 0)
    top = int(generator.integers(height // 4, 3 * height // 4 - max(lesion, 1)))
    left = int(generator.integers(1, max(2, width // 2 - lesion)))
    pixels[top : top + lesion, left : left + lesion] += 25000
    return pixels.clip(0, 65535).astype(np.uint16), (left, top, left + lesion, top + lesion)
