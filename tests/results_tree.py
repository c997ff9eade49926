"""A small results tree of two made-up archives, for tests of what reads the end of the workflow.

Upstream tables are written through :mod:`mammoflow.tables`; fusion and evaluation are the real ones. The truth is
planted: cancers have a higher image score, and age and machine carry a weaker signal of their own.
"""

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from mammoflow import audit, cohort, labels, manifest, provenance, settings, tables
from mammoflow.cli import main
from mammoflow.files import write_json, write_yaml
from mammoflow.imaging.geometry import Geometry

HEIGHT, WIDTH = 192, 96
MACHINES = ["A1", "B2"]


def cohort_tables(patients: int, seed: int, datasets: tuple[str, ...] = ("cbis_ddsm", "mias"), folds: int = 3):
    """(manifest, findings) of a split cohort: two breasts with CC and MLO per patient."""
    rng = np.random.default_rng(seed)
    images, findings = [], []
    for number in range(patients):
        dataset = datasets[number % len(datasets)]
        patient = f"P{number:04d}"
        split = rng.choice(["train", "val", "test"], p=[0.6, 0.2, 0.2])
        fold = int(rng.integers(folds)) if split == "train" else pd.NA
        sick = rng.random() < 0.4
        age = int(np.clip(rng.normal(62 if sick else 52, 9), 30, 90))
        machine = str(rng.choice(MACHINES, p=[0.3, 0.7] if sick else [0.6, 0.4]))
        for side in "LR":
            malignant = int(sick and (side == "L" or rng.random() < 0.1))
            lesion = bool(malignant or rng.random() < 0.4)
            for view in ("CC", "MLO"):
                image_id = f"{patient}_{side}_{view}"
                missing = rng.random() < 0.02
                geometry = Geometry(
                    2 * HEIGHT, 2 * WIDTH, 0, 0, 2 * WIDTH, 2 * HEIGHT, side == "R", 0.5, 0.5, 0, 0, HEIGHT, WIDTH
                )
                images.append(
                    {
                        "dataset": dataset, "image_id": image_id, "study_id": patient, "patient_id": patient,
                        "group_id": f"{dataset}|{patient}", "laterality": side, "view_position": view,
                        "height": 2 * HEIGHT, "width": 2 * WIDTH, "age": age, "implant": 0, "machine": machine,
                        "manufacturer": "Acme", "pixel_spacing_mm": 0.2 if dataset == "mias" else pd.NA,
                        "site": machine[0], "breast_density": str(rng.choice(tables.DENSITIES)),
                        "pathology": "MALIGNANT" if malignant else "BENIGN" if lesion else "NORMAL",
                        "label_malignant": malignant,
                        "label_3cat": "recall" if malignant else "benign" if lesion else "normal",
                        "label_source": "pathology", "label_scope": "breast", "label_policy": "0badcafe",
                        "split": pd.NA if missing else split, "fold": pd.NA if missing else fold,
                        "exclude_reason": "missing_file" if missing else pd.NA,
                        "finding_categories": "['Mass']" if lesion else "['No Finding']", "n_findings": int(lesion),
                        "image_path": pd.NA if missing else f"{dataset}/0badcafe/{patient}/{image_id}.png",
                        "source_path": pd.NA if missing else f"{image_id}.pgm", **geometry.as_row(),
                    }
                )  # fmt: skip
                if lesion and not missing:
                    box = np.array([[80.0, 120.0, 130.0, 180.0]])
                    out = geometry.forward(box)[0]
                    findings.append(
                        {
                            "dataset": dataset, "image_id": image_id, "study_id": patient, "patient_id": patient,
                            "finding_id": f"{image_id}_0", "laterality": side, "view_position": view,
                            "finding_categories": "['Mass']", "geometry": "bbox", "label_malignant": malignant,
                            "finding_birads": "BI-RADS 4" if malignant else "BI-RADS 2",
                            **dict(zip(["xmin", "ymin", "xmax", "ymax"], box[0], strict=True)),
                            **dict(zip(["out_xmin", "out_ymin", "out_xmax", "out_ymax"], out, strict=True)),
                        }
                    )  # fmt: skip
    return (
        tables.finish("manifest", pd.DataFrame(images)),
        tables.finish("manifest_findings", pd.DataFrame(findings, columns=list(findings[0]))),
    )


def predictions_of(manifest: pd.DataFrame, seed: int, signal: float = 1.5) -> pd.DataFrame:
    """Predictions at three levels: ``signal`` standard deviations lie between the classes of images."""
    rng = np.random.default_rng(seed)
    rows = manifest[manifest["split"].notna()]
    place = ["dataset", "patient_id", "study_id", "group_id", "split", "fold"]
    images = rows[["image_id", "laterality", "view_position", "label_malignant", *place]].copy()
    logit = rng.normal(size=len(rows)) + signal * rows["label_malignant"].to_numpy(float) - 1
    images["score"] = 1 / (1 + np.exp(-logit))
    how = {"label_malignant": "max", "score": "mean"}
    breasts = images.groupby([*place, "laterality"], dropna=False).agg(how).reset_index()
    patients = breasts.groupby(place, dropna=False).agg({"label_malignant": "max", "score": "max"}).reset_index()
    images["unit_id"] = images["dataset"] + "|" + images["image_id"]
    breasts["unit_id"] = breasts["dataset"] + "|" + breasts["patient_id"] + "|" + breasts["laterality"]
    patients = patients.assign(unit_id=patients["dataset"] + "|" + patients["patient_id"], study_id=pd.NA)
    levels = zip(["image", "breast", "patient"], [images, breasts, patients], strict=True)
    return tables.finish("predictions", pd.concat([frame.assign(level=level) for level, frame in levels]))


def write_tree(
    root: Path, patients: int = 160, runs: tuple[str, ...] = ("baseline",), seed: int = 1
) -> dict[str, list[Path]]:
    """A whole results tree below ``root``: directories by kind, and ``store`` and ``config`` (one path each)."""
    pooled, findings = cohort_tables(patients, seed)
    results, store = root / "results", root / "store"
    datasets = sorted(pooled["dataset"].unique())
    for name in datasets:
        _write_dataset(results / name, pooled[pooled["dataset"] == name], findings[findings["dataset"] == name])
    _write_pictures(store, pooled, findings)
    directory = results / "cohorts" / "pooled"
    _write_cohort(directory, pooled, findings)
    for number, name in enumerate(runs):
        _write_run(results / "runs" / name, directory, predictions_of(pooled, seed=number))
    (root / "data" / "mias").mkdir(parents=True)
    write_json(root / "data" / "mias" / "phantom.json", {"synthetic": True})
    config = {"data": str(root / "data"), "datasets": {name: {} for name in datasets}, "seed": seed}
    write_yaml(results / "config.yaml", config)
    return {
        "datasets": [results / name for name in datasets],
        "cohorts": [directory],
        "runs": [results / "runs" / name for name in runs],
        "store": [store],
        "config": [results / "config.yaml"],
    }


def _write_dataset(directory: Path, rows: pd.DataFrame, findings: pd.DataFrame) -> None:
    rng = np.random.default_rng(0)
    present = rows[rows["exclude_reason"].isna()]
    ledger = present[["dataset", "image_id", "patient_id", *tables.GEOMETRY]].assign(
        status="ok",
        recipe="0badcafe",
        decoder="gdcm",
        transfer_syntax="1.2.840.10008.1.2.4.90",
        path=present["image_path"],
    )
    ledger["seconds"] = rng.lognormal(-1.5, 0.3, len(ledger))
    broken = ledger.index[:3]
    ledger.loc[broken, ["status", "error"]] = ["failed", "DecodeError: <truncated> stream"]
    ledger = tables.finish("convert_ledger", ledger)
    tables.write(ledger, directory / "convert" / "0000-of-0001.parquet")
    rows = rows.copy()
    rows.loc[broken, "exclude_reason"] = "convert_failed"
    crops = tables.finish("crop_ledger", pd.DataFrame(columns=list(tables.CROP_LEDGER)))
    summary = manifest.summarize(directory.name, rows, findings, ledger, crops, labels.default_policy())
    write_json(directory / "summary.json", summary)
    tables.write(manifest.list_quarantine(rows, ledger, crops), directory / "quarantine.csv")


def _write_pictures(store: Path, rows: pd.DataFrame, findings: pd.DataFrame) -> None:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    breast = np.clip(1 - (x / 80) ** 2 - ((y - HEIGHT / 2) / 90) ** 2, 0, 1) ** 0.4
    boxes = findings.set_index("image_id")[["out_xmin", "out_ymin", "out_xmax", "out_ymax"]].astype(float)
    for row in rows[rows["split"] == "test"].itertuples():
        grey = 26000 * breast * (1 + 0.2 * np.random.default_rng(0).normal(size=breast.shape))
        if row.image_id in boxes.index:
            left, top, right, bottom = boxes.loc[row.image_id]
            blob = ((x - (left + right) / 2) ** 2 + (y - (top + bottom) / 2) ** 2) / (0.18 * (right - left) ** 2)
            grey += 24000 * np.exp(-blob)
        path = store / row.image_path
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.clip(grey, 0, 65535).astype(np.uint16))


def _write_cohort(directory: Path, pooled: pd.DataFrame, findings: pd.DataFrame) -> None:
    tables.write(pooled, directory / "manifest.parquet")
    tables.write(findings, directory / "findings.parquet")
    write_json(directory / "audit.json", audit.audit(pooled))
    write_json(directory / "digest.json", cohort.summarize("pooled", pooled, findings))
    part = pooled[pooled["exclude_reason"].isna()]
    patients = part.groupby("split")["group_id"].nunique() / part["group_id"].nunique()
    rows = []
    for value, group in part.groupby("breast_density"):
        shares = group["split"].value_counts(normalize=True)
        deviation = 100 * max(abs(shares.get(name, 0) - patients.get(name, 0)) for name in tables.SPLITS)
        named = {f"share_{name}": shares.get(name, 0) for name in tables.SPLITS}
        counts = {"total": len(group), "groups": group["group_id"].nunique()}
        rows.append({"attribute": "breast_density", "value": value, **counts, **named,
                     "deviation_points": deviation, "attainable_points": 0.1})  # fmt: skip
    tables.write(pd.DataFrame(rows), directory / "balance.csv")


def _write_run(directory: Path, cohort_directory: Path, predictions: pd.DataFrame) -> None:
    section = settings.resolve_section("run", {"cohort": "pooled", "evaluate": {"bootstrap": 100, "min_subgroup": 10}})
    rng = np.random.default_rng(0)
    for fold in range(3):
        epochs = np.arange(8)
        table = pd.DataFrame({
            "epoch": epochs, "train_loss": 0.7 * 0.8**epochs + 0.02 * rng.random(8), "val_loss": 0.7 * 0.87**epochs,
            "val_auc": 0.9 - 0.35 * 0.7**epochs, "lr": 1e-3, "images_per_s": 41.0 + fold, "loader_wait_share": 0.05,
            "seconds": 12.0,
        })  # fmt: skip
        tables.write(table, directory / str(fold) / "metrics.csv")
        record = {"run": directory.name, "fold": fold, "settings": section, "parameters": 14_000_000, "device": "cpu",
                  "world_size": 2, "best_epoch": 7, "versions": {"torch": "9.9.9", "mammoflow": "0.1.0"},
                  "seed": 1, "epochs_run": 8, "selected_by": "val_auc", "best_val_auc": 0.8765 + 0.01 * fold,
                  "label_policy": ["0badcafe"], "label_sources": {"pathology": 100}, "started_from": None,
                  "reproduction": provenance.record("train", section, 1, cohort_directory)}  # fmt: skip
        write_json(directory / str(fold) / "train.json", record)
    tables.write(predictions, directory / "predictions.parquet")
    _write_heatmaps(directory / "heatmaps", predictions)
    given = ["--settings", json.dumps(section), "--seed", "1", "--cohort", str(cohort_directory)]
    scores = ["--predictions", str(directory / "predictions.parquet")]
    fused = directory / "fuse" / "fused.parquet"
    assert main(["fuse", directory.name, *given, *scores, "--out", str(fused.parent)]) == 0
    assert (
        main(["evaluate", directory.name, *given, *scores, "--fused", str(fused), "--out", str(directory / "evaluate")])
        == 0
    )


def _write_heatmaps(directory: Path, predictions: pd.DataFrame) -> None:
    test = predictions[(predictions["level"] == "image") & (predictions["split"] == "test")]
    heat = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.circle(heat, (52, 75), 14, 255, -1)
    directory.mkdir(parents=True)
    listed = []
    for row in test.sort_values(["label_malignant", "score"], ascending=False).head(9).itertuples():
        name = f"{row.dataset}__{row.image_id}.png"
        cv2.imwrite(str(directory / name), cv2.GaussianBlur(heat, (31, 31), 0))
        listed.append({"dataset": row.dataset, "image_id": row.image_id, "file": name, "kind": "localisation",
                       "score": row.score, "label_malignant": int(row.label_malignant)})  # fmt: skip
    write_json(directory / "heatmaps.json", listed)
