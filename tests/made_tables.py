"""Small tables for the tests of labels, manifests and cohorts."""

import hashlib

import numpy as np
import pandas as pd

from mammoflow import labels, settings, tables
from mammoflow.manifest import build_manifest

VIEWS = [("L", "CC"), ("L", "MLO"), ("R", "CC"), ("R", "MLO")]


def make_images(patients: int, dataset: str = "rsna", seed: int = 0, **columns) -> pd.DataFrame:
    """Four views of each patient, a third of the patients with a malignant breast. ``columns`` override."""
    rng = np.random.default_rng(seed)
    n = 4 * patients
    patient = np.repeat([f"P{number:04d}" for number in range(patients)], 4)
    cancer = np.repeat(rng.random(2 * patients) < 1 / 6, 2)
    frame = {
        "dataset": dataset,
        "image_id": [f"{name}_{side}_{view}" for name, (side, view) in zip(patient, VIEWS * patients, strict=True)],
        "study_id": patient,
        "patient_id": patient,
        "path": [f"{name}/{index}.dcm" for index, name in enumerate(patient)],
        "laterality": [side for side, _ in VIEWS] * patients,
        "view_position": [view for _, view in VIEWS] * patients,
        "age": np.repeat(rng.integers(35, 85, patients), 4),
        "breast_density": np.repeat(rng.choice(tables.DENSITIES, patients), 4),
        "breast_birads": rng.choice(["BI-RADS 1", "BI-RADS 2", "BI-RADS 4"], n),
        "pathology": np.where(cancer, "MALIGNANT", "BENIGN"),
        "label_source": "pathology",
        "label_scope": "breast",
        "group_id": [f"{dataset}:{name}" for name in patient],
        "site": np.repeat(rng.choice(["1", "2"], patients), 4),
        "use": "labelled",
        **columns,
    }
    images = tables.finish("images", pd.DataFrame(frame))
    return tables.finish("images", labels.apply_policy(images, labels.default_policy()))


def make_ledger(images: pd.DataFrame, **columns) -> pd.DataFrame:
    """A convert ledger in which everything went well. ``columns`` override."""
    frame = {
        "dataset": images["dataset"],
        "image_id": images["image_id"],
        "patient_id": images["patient_id"],
        "status": "ok",
        "recipe": "0badcafe",
        "path": images["dataset"] + "/0badcafe/" + images["image_id"] + ".png",
        "transfer_syntax": "1.2.840.10008.1.2.4.90",
        "seconds": 0.5,
        "source_sha256": [hashlib.sha256(key.encode()).hexdigest() for key in images["dataset"] + images["image_id"]],
        "stored_height": 400,
        "stored_width": 300,
        "crop_x0": 20,
        "crop_y0": 10,
        "crop_x1": 220,
        "crop_y1": 390,
        "flip": (images["laterality"] == "R").to_numpy(),
        "scale_x": 0.5,
        "scale_y": 0.5,
        "pad_left": 0,
        "pad_top": 0,
        "out_height": 190,
        "out_width": 100,
        **columns,
    }
    return tables.finish("convert_ledger", pd.DataFrame(frame))


def make_findings(images: pd.DataFrame, **columns) -> pd.DataFrame:
    """One mass per image, with a box. ``columns`` override."""
    frame = {
        "dataset": images["dataset"],
        "image_id": images["image_id"],
        "study_id": images["study_id"],
        "patient_id": images["patient_id"],
        "finding_id": images["image_id"] + "_1",
        "finding_categories": "['Mass']",
        "geometry": "bbox",
        "pathology": images["pathology"],
        "xmin": 40.0,
        "ymin": 30.0,
        "xmax": 80.0,
        "ymax": 90.0,
        **columns,
    }
    return tables.finish("findings", pd.DataFrame(frame, index=images.index))


def make_manifest(images: pd.DataFrame, policy: dict | None = None, **ledger_columns) -> pd.DataFrame:
    """The manifest of ``images`` with every file converted and one finding per image."""
    policy = labels.default_policy() if policy is None else policy
    return build_manifest(images, make_findings(images), make_ledger(images, **ledger_columns), policy)


def cohort_config(*datasets: str, **values) -> dict:
    """A resolved ``cohort`` section."""
    return settings.resolve_section("cohort", {"datasets": list(datasets), **values})
