"""Whole trainings on a small synthetic cohort: learning, repeating, resuming, scoring, and what is refused."""

import json
import signal

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from mammoflow import metrics, pack, settings, tables
from mammoflow.cli import main
from mammoflow.errors import UserError
from mammoflow.train import command
from mammoflow.train.classifier import Classifier
from mammoflow.train.recorder import InterruptedTraining
from training_cohort import one_thread, packed_cohort

SECTION = {
    "cohort": "synthetic",
    "encoder": "test_efficientnet",
    "image_size": [64, 32],
    "epochs": 4,
    "batch_size": 8,
    "learning_rate": 0.003,
    "workers": 0,
    "accelerator": "cpu",
}
STEPS = 3  # per epoch: 24 breasts outside of a fold, 8 at a time


@pytest.fixture(scope="module", autouse=True)
def same_threads():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """(cohort, pack) directories of 40 patients."""
    return packed_cohort(tmp_path_factory.mktemp("data"))


def fit(data, out, *, fold=0, seed=1, **changes):
    section = settings.resolve_section("run", SECTION | changes)
    command.train("demo", fold, *data, section, seed, out)
    return json.loads((out / "train.json").read_text())


def weights(out):
    return load_file(out / "weights.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def score(data, folds, out, **changes):
    """Predictions of the trained folds, through the command line."""
    arguments = ["predict", "demo", "--cohort", data[0], "--pack", data[1], "--folds", *folds]
    arguments += ["--settings", json.dumps(SECTION | changes), "--out", out / "p.parquet", "--heatmaps", out / "heat"]
    assert main(list(map(str, arguments))) == 0
    return tables.read(out / "p.parquet", "predictions")


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Directories of two folds trained for 4 epochs without interruption, and their seed's determinism."""
    root = tmp_path_factory.mktemp("trained")
    fit(data, root / "0")
    fit(data, root / "1", fold=1)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["breast", "image"])
def test_it_learns_and_scores_out_of_fold(data, tmp_path, unit):
    # Batch statistics need more steps than a tiny cohort gives; this encoder has none.
    changes = {"encoder": "test_convnext", "epochs": 12, "learning_rate": 0.004, "unit": unit}
    folds = [tmp_path / "0", tmp_path / "1"]
    for number, out in enumerate(folds):
        record = fit(data, out, fold=number, **changes)
        assert record["best_val_auc"] > 0.8
        assert record["images_with_boxes"] == 12
    predictions = score(data, folds, tmp_path, **changes)
    for level, count in [("image", 160), ("breast", 80), ("patient", 40)]:
        rows = predictions[predictions["level"] == level]
        assert len(rows) == count
        for split in ("train", "test"):
            part = rows[rows["split"] == split]
            assert metrics.auc(part["label_malignant"].to_numpy(int), part["score"].to_numpy(float))[0] > 0.8

    # What the fusion reads beside the score: where the breast's attention lies, and the hottest place of each image.
    shown = predictions[predictions["level"] == "image"]
    if unit == "breast":
        sums = shown.groupby(["patient_id", "laterality"])["attention"].sum()
        assert np.allclose(sums.astype(float), 1, atol=1e-5)
    else:
        assert shown["attention"].isna().all()
    assert metrics.auc(shown["label_malignant"].to_numpy(int), shown["score_roi"].to_numpy(float))[0] > 0.8
    assert predictions.loc[predictions["level"] != "image", ["attention", "score_roi"]].isna().all(axis=None)

    # Patients take their higher breast; heat maps cover the working image and favour malignant ones.
    breasts = predictions[predictions["level"] == "breast"]
    patients = predictions[predictions["level"] == "patient"].set_index("patient_id")["score"]
    assert (breasts.groupby("patient_id")["score"].max() == patients.loc[sorted(patients.index)]).all()
    listed = json.loads((tmp_path / "heat" / "heatmaps.json").read_text())
    assert len(listed) == 24
    assert [entry["label_malignant"] for entry in listed[:8]] == [1] * 8
    assert all(entry["kind"] == "localisation" for entry in listed)
    findings = tables.read(data[0] / "findings.parquet", "manifest_findings").set_index("image_id")
    inside = []
    for entry in listed[:8]:
        heat = cv2.imread(str(tmp_path / "heat" / entry["file"]), cv2.IMREAD_UNCHANGED).astype(float)
        assert heat.shape == (64, 32)
        box = findings.loc[entry["image_id"]]
        lesion = heat[int(box["out_ymin"]) : int(box["out_ymax"]), int(box["out_xmin"]) : int(box["out_xmax"])]
        inside.append(lesion.mean() - heat.mean())
    assert np.mean(inside) > 0


@pytest.mark.slow
def test_shuffled_labels_cannot_be_learned(data, tmp_path):
    changes = {"encoder": "test_convnext", "epochs": 12, "learning_rate": 0.004, "shuffle_labels": True}
    for fold in (0, 1):
        fit(data, tmp_path / str(fold), fold=fold, **changes)
    predictions = score(data, [tmp_path / "0", tmp_path / "1"], tmp_path, **changes)
    breasts = predictions[predictions["level"] == "breast"]
    truth = breasts["patient_id"].str[1:].astype(int) % 2 + (breasts["laterality"] == "R").astype(int) == 0
    assert int(truth.sum()) == breasts["label_malignant"].sum()
    assert (truth.to_numpy(int) != breasts["label_malignant"].to_numpy(int)).sum() > 10
    # 20 positives and 60 negatives: the AUC of chance has a standard error of 0.075.
    auc = metrics.auc(breasts["label_malignant"].to_numpy(int), breasts["score"].to_numpy(float))[0]
    assert 0.5 - 0.225 < auc < 0.5 + 0.225


def test_what_a_training_leaves_behind(trained, data):
    out = trained / "0"
    record = json.loads((out / "train.json").read_text())
    assert record["samples"] == {"train": {"0": 18, "1": 6}, "val": {"0": 12, "1": 4}}
    assert (record["fold"], record["world_size"], record["epochs_run"]) == (0, 1, 4)
    assert record["selected_by"] == "val_auc"
    rows = pd.read_csv(out / "metrics.csv")
    assert rows["epoch"].tolist() == [0, 1, 2, 3]
    assert rows.loc[record["best_epoch"], "val_auc"] == record["best_val_auc"] == rows["val_auc"].max()
    assert rows.notna().all(axis=None)
    assert (rows["loader_wait_share"].between(0, 1)).all()
    assert sorted(path.name for path in out.iterdir()) == [
        "checkpoints", "metrics.csv", "seen.parquet", "train.json", "weights.safetensors"
    ]  # fmt: skip
    assert sum(tensor.numel() for tensor in weights(out).values()) >= record["parameters"]


def test_a_seed_repeats_and_another_does_not(trained, data, tmp_path):
    fit(data, tmp_path / "again")
    assert same(weights(tmp_path / "again"), weights(trained / "0"))
    fit(data, tmp_path / "other", seed=2)
    assert not same(weights(tmp_path / "other"), weights(trained / "0"))


@pytest.mark.parametrize("stop", [1, STEPS + 1, 2 * STEPS - 1, 3 * STEPS])
def test_a_stopped_training_goes_on_as_if_it_had_not(trained, data, tmp_path, monkeypatch, stop):
    """The signal arrives during the step after ``stop`` steps: in an epoch, and at its last and first step."""
    original = Classifier.on_train_batch_start

    def signalled(self, batch, batch_idx):
        if self.global_step == stop:
            signal.raise_signal(signal.SIGTERM if stop % 2 else signal.SIGUSR1)
        original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "on_train_batch_start", signalled)
        with pytest.raises(InterruptedTraining):
            fit(data, tmp_path)
    assert not (tmp_path / "train.json").exists()
    assert not (tmp_path / "weights.safetensors").exists()
    fit(data, tmp_path)
    assert same(weights(tmp_path), weights(trained / "0"))
    figures = ["epoch", "train_loss", "val_loss", "val_auc", "lr"]
    frames = [pd.read_csv(out / "metrics.csv")[figures] for out in (tmp_path, trained / "0")]
    pd.testing.assert_frame_equal(*frames)
    states = [torch.load(out / "checkpoints" / "last.ckpt", weights_only=True) for out in (tmp_path, trained / "0")]
    assert same(*(state["state_dict"] for state in states))  # not only the best epoch


def test_a_finished_training_is_not_repeated(trained, data, tmp_path, capsys):
    fit(data, tmp_path, epochs=1)
    before = (tmp_path / "metrics.csv").read_text()
    for name in ("train.json", "metrics.csv", "weights.safetensors", "seen.parquet"):  # as Snakemake does
        (tmp_path / name).unlink()
    # None of these changes the result.
    record = fit(data, tmp_path, epochs=1, workers=1, accumulate=2, gradient_checkpointing=True)
    assert "goes on after 3 steps (1 whole epochs)" in capsys.readouterr().err
    assert record["epochs_run"] == 1
    assert (tmp_path / "metrics.csv").read_text() == before


def test_other_settings_start_anew(data, tmp_path, capsys):
    fit(data, tmp_path, epochs=1)
    fit(data, tmp_path, epochs=1, learning_rate=0.001)
    assert "made with other settings" in capsys.readouterr().err
    assert len(pd.read_csv(tmp_path / "metrics.csv")) == 1


def test_patience_ends_a_training_for_good(data, tmp_path, capsys):
    changes = {"epochs": 30, "learning_rate": 1e-9, "patience": 1, "augment": False}
    first = fit(data, tmp_path, **changes)
    assert first["epochs_run"] == first["best_epoch"] + 2 < 30
    again = fit(data, tmp_path, **changes)
    assert again == first


def test_validation_with_one_class_selects_by_loss(data, tmp_path, capsys):
    cohort = tmp_path / "cohort"
    manifest = tables.read(data[0] / "manifest.parquet", "manifest")
    manifest.loc[(manifest["split"] == "val") & (manifest["label_malignant"] == 1), "label_malignant"] = pd.NA
    tables.write(manifest, cohort / "manifest.parquet")
    for name in ("findings.parquet", "digest.json"):
        (cohort / name).write_bytes((data[0] / name).read_bytes())
    record = fit((cohort, data[1]), tmp_path / "out", epochs=2)
    assert (record["selected_by"], record["best_val_auc"]) == ("val_loss", None)
    assert record["samples"]["val"] == {"0": 12, "1": 0}
    assert "single class" in capsys.readouterr().err
    assert pd.read_csv(tmp_path / "out" / "metrics.csv")["val_auc"].isna().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": [64, 64]}, r"holds images of \(64, 32\)"),
        ({"accelerator": "cuda"}, "torch sees no GPU"),
        ({"encoder": "resnet"}, "no model 'resnet'"),
    ],
)
def test_what_does_not_fit_is_refused(data, tmp_path, changes, message):
    if "accelerator" in changes and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match=message):
        fit(data, tmp_path, **changes)


def test_cohorts_that_cannot_be_trained_on_are_refused(data, tmp_path):
    manifest = tables.read(data[0] / "manifest.parquet", "manifest")

    def attempt(frame, fold=0):
        tables.write(tables.finish("manifest", frame), tmp_path / "manifest.parquet")
        fit((tmp_path, data[1]), tmp_path / "out", fold=fold)

    with pytest.raises(UserError, match=r"digest\.json does not exist"):
        attempt(manifest)
    for name in ("findings.parquet", "digest.json"):
        (tmp_path / name).write_bytes((data[0] / name).read_bytes())
    with pytest.raises(UserError, match="has folds 0, 1"):
        attempt(manifest, fold=2)
    with pytest.raises(UserError, match="no labelled breast in split val"):
        attempt(manifest[manifest["split"] != "val"])
    with pytest.raises(UserError, match="0 malignant and 18 other"):
        attempt(manifest[(manifest["split"] != "train") | (manifest["label_malignant"] == 0)])
    moved = manifest.assign(image_path=manifest["image_path"].str.replace("r0", "r1"))
    with pytest.raises(UserError, match="lacks 160 images of the cohort as it is now"):
        attempt(moved)


def test_sixteen_bits_and_bfloat16(data, tmp_path):
    cohort, packed = data
    store = packed.parent / "store"
    pack.pack(tables.read(cohort / "manifest.parquet", "manifest"), store, tmp_path / "pack", (64, 32), bits=16)
    record = fit((cohort, tmp_path / "pack"), tmp_path / "out", precision="bf16", epochs=1, workers=1)
    assert record["settings"]["precision"] == "bf16"
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "out").values())
    assert weights(tmp_path / "out")["head.weight"].dtype == torch.float32


def test_batches_must_be_shareable(data, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match="batch_size 8 cannot be shared by 3 processes"):
        fit(data, tmp_path)


def test_scores_of_train_rows_come_from_their_own_fold(trained, data, tmp_path):
    folds = [trained / "0", trained / "1"]
    both = score(data, folds, tmp_path).set_index(["level", "unit_id"])
    # Fold 1 replaced by fold 0's weights: only fold 1's train rows and the means may change.
    mixed = tmp_path / "1"
    mixed.mkdir()
    (mixed / "weights.safetensors").write_bytes((trained / "0" / "weights.safetensors").read_bytes())
    (mixed / "train.json").write_bytes((trained / "1" / "train.json").read_bytes())
    other = score(data, [mixed, trained / "0"], tmp_path).set_index(["level", "unit_id"])
    fold = both["fold"]
    assert (both.loc[fold == 0, "score"] == other.loc[fold == 0, "score"]).all()
    assert (both.loc[fold == 1, "score"] != other.loc[fold == 1, "score"]).all()
    assert (both.loc[both["split"] == "test", "score"] != other.loc[both["split"] == "test", "score"]).all()
    assert both["score"].between(0, 1).all()
    assert set(both.loc["patient"]["image_id"].isna()) == {True}


def test_folds_that_do_not_belong_are_refused(trained, data, tmp_path, capsys):
    def attempt(*folds, **changes):
        arguments = ["predict", "demo", "--cohort", data[0], "--pack", data[1], "--folds", *folds]
        arguments += ["--settings", json.dumps(SECTION | changes), "--out", tmp_path / "p.parquet"]
        assert main(list(map(str, arguments))) == 2
        return capsys.readouterr().err

    assert "lacks fold 1" in attempt(trained / "0")
    assert "names a fold twice" in attempt(trained / "0", trained / "0")
    assert "was trained with encoder 'test_efficientnet'" in attempt(trained / "0", encoder="test_convnext")
    assert "train.json does not exist" in attempt(tmp_path)
    assert not (tmp_path / "p.parquet").exists()
