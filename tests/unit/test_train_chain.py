"""Segmentation, runs that start from runs, and pseudo-labels: trained for real on a small synthetic cohort."""

import json
import tarfile

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from mammoflow import audit, lesion_metrics, pack, settings, tables, unlabelled
from mammoflow.cli import main
from mammoflow.errors import UserError
from mammoflow.train import command, from_run, pseudo
from mammoflow.train.pseudo import Pseudo
from training_cohort import one_thread, packed_cohort, write_cohort

COMMON = {
    "cohort": "synthetic",
    "encoder": "test_resnet",
    "image_size": [64, 32],
    "batch_size": 8,
    "learning_rate": 0.004,
    "workers": 0,
    "accelerator": "cpu",
    "augment": False,
}
SEGMENT = COMMON | {"task": "segment", "epochs": 8, "segment": {"decoder_channels": 32}}
CLASSIFY = COMMON | {"epochs": 1}


@pytest.fixture(scope="module", autouse=True)
def same_threads():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """(cohort, pack) directories of 40 patients: every second left breast holds a boxed bright square."""
    return packed_cohort(tmp_path_factory.mktemp("data"))


def fit(data, out, values, *, name="run", fold=0, sources=(), labels=None):
    section = settings.resolve_section("run", values)
    command.train(name, fold, *data, section, 1, out, sources, labels)
    return json.loads((out / "train.json").read_text())


@pytest.fixture(scope="module")
def segmented(data, tmp_path_factory):
    """Two folds of a segmentation, and all that predict writes."""
    out = tmp_path_factory.mktemp("segmented")
    for fold in (0, 1):
        fit(data, out / str(fold), SEGMENT, name="seg", fold=fold)
    arguments = ["predict", "seg", "--cohort", data[0], "--pack", data[1], "--folds", out / "0", out / "1"]
    arguments += ["--settings", json.dumps(SEGMENT), "--out", out / "predictions.parquet"]
    for name in ("heatmaps", "masks", "lesions"):
        arguments += [f"--{name}", out / name]
    assert main(list(map(str, arguments))) == 0
    return out


@pytest.fixture(scope="module")
def classified(data, tmp_path_factory):
    """Two folds of a classification with the same encoder."""
    out = tmp_path_factory.mktemp("classified")
    for fold in (0, 1):
        fit(data, out / str(fold), CLASSIFY, name="clf", fold=fold)
    return out


@pytest.mark.slow
def test_lesions_are_drawn_found_and_scored(data, segmented):
    record = json.loads((segmented / "0/train.json").read_text())
    assert record["samples"] == {"train": {"0": 36, "1": 12}, "val": {"0": 24, "1": 8}}
    assert record["lesions"] == {"box": 12}
    assert (record["selected_by"], record["images_left_out"]) == ("val_dice", 0)
    curve = pd.read_csv(segmented / "0/metrics.csv")
    assert curve["val_dice"].max() == record["best_val_dice"]
    found = [tables.read(segmented / f"lesions/{name}.parquet", name) for name in ("candidates", "targets", "overlaps")]
    assert found[1]["dice"].mean() > 0.7
    assert len(found[1]) == 40
    numbers = lesion_metrics.measure_lesions(*found, {"bootstrap": 100, "confidence": 0.95, "min_subgroup": 5}, 0)
    test = numbers["splits"]["test"]
    assert test["hit_rate"]["value"] >= 0.8
    assert (test["n_images"], test["n_targets"], test["boxes_only"]) == (32, 8, 8)

    # Its scores rank breasts, and each image's is that of its first candidate.
    predictions = tables.read(segmented / "predictions.parquet", "predictions")
    images = predictions[predictions["level"] == "image"].set_index("image_id")
    first = found[0][found[0]["rank"] == 0].set_index("image_id")
    assert (images["score"] == first.loc[images.index, "score"]).all()
    assert images.loc[images["label_malignant"] == 1, "score"].median() > 0.7
    assert images.loc[images["label_malignant"] == 0, "score"].median() < 0.5

    # Masks cover the working image, and are where the lesion is.
    listed = json.loads((segmented / "masks/masks.json").read_text())
    assert listed["classes"] == ["background", "lesion"]
    assert len(listed["images"]) == 32
    findings = tables.read(data[0] / "findings.parquet", "manifest_findings").set_index("image_id")
    inside = total = 0
    for entry in listed["images"]:
        with tarfile.open(segmented / "masks/masks.tar") as tar:
            data = np.frombuffer(tar.extractfile(entry["file"]).read(), np.uint8)
        mask = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        assert mask.shape == (64, 32)
        total += int(mask.sum())
        if entry["image_id"] in findings.index:
            box = findings.loc[entry["image_id"]]
            rows = slice(int(box["out_ymin"]), int(box["out_ymax"]))
            inside += int(mask[rows, int(box["out_xmin"]) : int(box["out_xmax"])].sum())
    assert inside > 0.7 * total > 0


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["window", "roi"])
def test_windows_are_trained_on_and_slid_over_whole_images(data, tmp_path, sampling):
    values = SEGMENT | {"epochs": 2, "augment": True}
    values["segment"] = {"decoder_channels": 16, "sampling": sampling, "window": [32, 32], "soft_border_px": 1}
    record = fit(data, tmp_path / "0", values)
    assert record["samples"]["train"] == ({"0": 36, "1": 12} if sampling == "window" else {"0": 0, "1": 12})
    fit(data, tmp_path / "1", values, fold=1)
    arguments = ["predict", "seg", "--cohort", data[0], "--pack", data[1], "--folds", tmp_path / "0", tmp_path / "1"]
    arguments += ["--settings", json.dumps(values), "--out", tmp_path / "p.parquet", "--lesions", tmp_path]
    assert main(list(map(str, arguments))) == 0
    targets = tables.read(tmp_path / "targets.parquet", "targets")
    assert targets["dice_roi"].notna().all() == (sampling == "roi")
    assert tables.read(tmp_path / "p.parquet", "predictions")["score"].between(0, 1).all()


def test_a_stopped_segmentation_goes_on_as_if_it_had_not(data, tmp_path, monkeypatch):
    import signal

    from mammoflow.train.recorder import InterruptedTraining
    from mammoflow.train.segmenter import Segmenter

    values = SEGMENT | {"epochs": 2, "augment": True}
    handler = signal.getsignal(signal.SIGTERM)
    fit(data, tmp_path / "whole", values)
    original = Segmenter.on_train_batch_start

    def signalled(self, batch, batch_idx):
        if self.global_step == 4:
            signal.raise_signal(signal.SIGTERM)
        original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "on_train_batch_start", signalled)
        with pytest.raises(InterruptedTraining):
            fit(data, tmp_path / "stopped", values)
    fit(data, tmp_path / "stopped", values)
    signal.signal(signal.SIGTERM, handler)
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_batch_of_one_cannot_be_normalised(data, tmp_path):
    with pytest.raises(UserError, match="batch_size 1 leaves a process with a single image"):
        fit(data, tmp_path, SEGMENT | {"batch_size": 1})


def test_a_cohort_without_marks_cannot_teach_segmentation(data, tmp_path):
    for name in ("manifest.parquet", "digest.json"):
        (tmp_path / name).write_bytes((data[0] / name).read_bytes())
    findings = tables.read(data[0] / "findings.parquet", "manifest_findings")
    tables.write(findings.iloc[:0], tmp_path / "findings.parquet")
    with pytest.raises(UserError, match="segment needs an archive that marks lesions"):
        fit((tmp_path, data[1]), tmp_path / "out", SEGMENT)
    tables.write(findings, tmp_path / "findings.parquet")
    ignored = SEGMENT | {"segment": {"boxes": "ignore"}}
    with pytest.raises(UserError, match="marked by more than a box"):
        fit((tmp_path, data[1]), tmp_path / "out", ignored)


# --- from_run ---------------------------------------------------------------------------------------------------------


def test_a_chain_hands_on_weights_and_says_what_changed(data, classified, tmp_path):
    """Classification -> segmentation of other classes and size -> segmentation with another head."""
    cohort, packed = data
    manifest = tables.read(cohort / "manifest.parquet", "manifest")
    pack.pack(manifest, packed.parent / "store", tmp_path / "pack", (96, 64))
    larger = SEGMENT | {"epochs": 1, "image_size": [96, 64], "from_run": "clf"}
    record = fit((cohort, tmp_path / "pack"), tmp_path / "seg", larger, name="seg", sources=[classified / "0"])
    start = record["started_from"]
    assert (start["run"], start["fold"], start["cohort"]) == ("clf", 0, "synthetic")
    assert start["changed"].keys() == {"task", "image_size", "classes"}
    assert start["changed"]["image_size"] == {"from": [64, 32], "to": [96, 64]}
    assert all(name.startswith("net.") and "encoder" not in name for name in start["started_anew"])
    encoder = [name for name in load_file(tmp_path / "seg/weights.safetensors") if ".encoder." in name]
    assert start["loaded"] == len(encoder)
    assert {name.split(".")[0] for name in start["not_used"]} == {
        "fine", "coarse", "norm", "gate_tanh", "gate_sigmoid", "gate", "head", "localise"
    }  # fmt: skip

    heads = SEGMENT | {"epochs": 1, "from_run": "seg", "segment": {"decoder_channels": 32, "classes": "type"}}
    manifest_findings = tables.read(cohort / "findings.parquet", "manifest_findings")
    named = tmp_path / "named"
    for name in ("manifest.parquet", "digest.json"):
        named.mkdir(exist_ok=True)
        (named / name).write_bytes((cohort / name).read_bytes())
    tables.write(manifest_findings.assign(finding_categories="['Mass']"), named / "findings.parquet")
    record = fit((named, packed), tmp_path / "types", heads, name="types", sources=[tmp_path / "seg"])
    start = record["started_from"]
    assert sorted(start["started_anew"]) == ["net.segmentation_head.0.bias", "net.segmentation_head.0.weight"]
    assert start["changed"]["classes"] == {"from": "lesion", "to": "type"}
    # What the first run saw is handed down the chain.
    seen = tables.read(tmp_path / "types/seen.parquet", "seen")
    assert set(seen["run"]) == {"clf", "seg", "types"}


def test_loaded_weights_are_the_source_s(data, classified):
    section = settings.resolve_section("run", SEGMENT)
    from mammoflow.train.segmenter import Segmenter

    model = Segmenter.build(section, pretrained=False)
    found, _ = from_run.fitting(model, from_run.Source.open(classified / "0"))
    given = load_file(classified / "0/weights.safetensors")
    assert found
    for name, value in found.items():
        assert torch.equal(value, given["encoder." + name.removeprefix("net.encoder.model.")])
    learner = Segmenter(section, steps=1, seed=0, start=found)
    for weights in (learner.model.state_dict(), learner.ema.model.state_dict()):
        assert all(torch.equal(weights[name], value) for name, value in found.items())


def test_a_same_run_start_loads_everything_and_resumes_only_with_the_same_start(data, classified, tmp_path, capsys):
    values = CLASSIFY | {"from_run": "clf"}
    record = fit(data, tmp_path / "out", values, sources=[classified / "0"])
    assert record["started_from"]["started_anew"] == []
    other = tmp_path / "other"
    other.mkdir()
    for name in ("train.json", "seen.parquet"):
        (other / name).write_bytes((classified / "0" / name).read_bytes())
    weights = load_file(classified / "0/weights.safetensors")
    save_file({name: value * 2 if value.is_floating_point() else value for name, value in weights.items()},
              other / "weights.safetensors")  # fmt: skip
    fit(data, tmp_path / "out", values, sources=[other])
    assert "made with other settings" in capsys.readouterr().err


def test_on_the_same_cohort_a_fold_starts_from_the_same_fold(data, classified, tmp_path):
    manifest = tables.read(data[0] / "manifest.parquet", "manifest")
    digest = json.loads((classified / "0/train.json").read_text())["cohort_digest"]
    both = [classified / "0", classified / "1"]
    assert [from_run.choose(both, manifest, fold, digest).record["fold"] for fold in (0, 1)] == [0, 1]
    with pytest.raises(UserError, match="lacks fold 1"):
        from_run.choose([classified / "0"], manifest, 1, digest)
    with pytest.raises(UserError, match="no trained fold"):
        from_run.choose([tmp_path], manifest, 0, digest)


def test_patients_that_the_source_saw_may_not_be_held_out(data, classified):
    """From another cohort: the fold that saw nobody held out is taken, and none is refused by name."""
    manifest = tables.read(data[0] / "manifest.parquet", "manifest")
    both = [classified / "0", classified / "1"]
    # Same people, other cohort: fold 1's model was fitted on fold 0.
    assert from_run.choose(both, manifest, 0, "another digest").record["fold"] == 0
    moved = manifest.copy()
    train = moved["split"] == "train"
    victim = moved.loc[train & (moved["fold"] == 1), "patient_id"].iloc[0]
    moved.loc[moved["patient_id"] == victim, ["split", "fold"]] = ["test", pd.NA]
    with pytest.raises(UserError, match=f"clf fold 0 has seen 1 patients .* synthetic {victim}, split test"):
        from_run.choose([classified / "0"], moved, 0, "another digest")
    assert (
        from_run.choose(both, moved.assign(fold=moved["fold"].where(moved["fold"].isna(), 5)), 7, "x").record["fold"]
        == 1
    )  # fold 1's model never saw the victim

    # Looked at for the choice of the epoch: allowed in val, not in test.
    source = from_run.Source.open(classified / "0")
    assert from_run.overlap(source.seen, manifest, 0).empty
    val = manifest["split"] == "val"
    swapped = manifest.assign(split=manifest["split"].mask(val, "test"))
    assert set(from_run.overlap(source.seen, swapped, 0)["patient_id"]) == set(manifest.loc[val, "patient_id"])
    # Another name for the same file, or a merged group, is the same patient.
    renamed = manifest.assign(patient_id="x" + manifest["patient_id"], group_id="x|" + manifest["group_id"])
    assert from_run.overlap(source.seen, renamed.assign(split="test"), 0).empty
    seen = source.seen.assign(source_sha256=source.seen["image_id"])
    assert len(from_run.overlap(seen, renamed.assign(split="test", source_sha256=renamed["image_id"]), 0))
    assert len(from_run.overlap(seen, renamed.assign(split="test", group_id=manifest["group_id"]), 0))


def test_films_under_other_ids_are_refused_where_the_data_are_joined(data, classified):
    """By hand, without a configuration: CBIS-DDSM was cut from DDSM, and no id, group or file tells."""
    manifest = tables.read(data[0] / "manifest.parquet", "manifest").assign(dataset="cbis_ddsm")
    source = from_run.Source.open(classified / "0")
    films = from_run.Source(source.directory, source.record, source.seen.assign(dataset="ddsm", run="pre"))
    message = "run 'pre' brings in ddsm, which shows the same patients as cbis_ddsm of this run's cohort"
    with pytest.raises(UserError, match=f"from_run: {message}"):
        from_run.refuse_films_of("from_run", [source, films], manifest)
    with pytest.raises(UserError, match=f"pseudo_labels.run: {message}"):
        pseudo.teachers([films], manifest, 0, "another digest")
    from_run.refuse_films_of("from_run", [source, films], manifest.assign(dataset="ddsm"))
    unnamed = tables.finish("manifest", manifest.assign(
        dataset="ddsm", split=pd.NA, fold=pd.NA, label_malignant=pd.NA, exclude_reason="no_label"
    ))  # fmt: skip
    with pytest.raises(UserError, match=r"ddsm, which shows the same patients as cbis_ddsm .* leave ddsm or cbis_ddsm"):
        unlabelled.unlabelled(unnamed, manifest)
    labelled = manifest.assign(dataset="ddsm", split="train", fold=pd.NA, label_source="pseudo:clf")
    with pytest.raises(UserError, match="ddsm, which shows the same patients as cbis_ddsm"):
        pseudo.check(labelled, manifest)


def test_an_encoder_that_does_not_fit_is_refused(classified):
    from mammoflow.train.classifier import Classifier

    section = settings.resolve_section("run", CLASSIFY | {"encoder": "test_convnext"})
    source = from_run.Source.open(classified / "0")
    source.record["settings"] = section
    (convnext := Classifier.build(section, pretrained=False)).requires_grad_(True)
    # Only the head has the same names and shapes: a start from that alone is said, not refused.
    _, what = from_run.fitting(convnext, source)
    assert not [name for name in what["loaded"] if name.startswith("encoder.")]
    with pytest.raises(UserError, match="no weight of clf fold 0 fits"):
        from_run.fitting(torch.nn.Linear(3, 3), source)


# --- pseudo-labels ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strangers(data, tmp_path_factory):
    """(dataset directory, store): 8 unlabelled patients of another archive, and images of three known ones, each one
    of a labelled breast and one whose side is not known."""
    root = tmp_path_factory.mktemp("strangers")
    cohort, store = write_cohort(root, patients=8, seed=5)
    other = tables.read(cohort / "manifest.parquet", "manifest")
    other = other.assign(dataset="other", group_id="other|" + other["patient_id"])
    known = tables.read(data[0] / "manifest.parquet", "manifest").drop_duplicates(["split", "fold"])
    known = known.assign(image_id=known["image_id"] + "_again", image_path=other["image_path"].iloc[0])
    aside = known.assign(image_id=known["image_id"] + "_aside", laterality=pd.NA)
    rows = pd.concat([other, known, aside]).assign(
        split=pd.NA, fold=pd.NA, label_malignant=pd.NA, exclude_reason="no_label"
    )
    tables.write(tables.finish("manifest", rows), root / "other/manifest.parquet")
    return root / "other", store


def test_unlabelled_images_keep_to_train_and_to_their_patient_s_fold(data, strangers):
    manifest = tables.read(data[0] / "manifest.parquet", "manifest")
    rows = unlabelled.unlabelled(tables.read(strangers[0] / "manifest.parquet", "manifest"), manifest)
    assert set(rows["split"]) == {"train"}
    assert rows.groupby("dataset").size().to_dict() == {"other": 32, "synthetic": 2}
    folds = manifest.drop_duplicates("patient_id").set_index("patient_id")["fold"]
    known = rows[rows["dataset"] == "synthetic"]
    assert known["fold"].tolist() == folds[known["patient_id"]].tolist() == [0, 1]
    assert rows.loc[rows["dataset"] == "other", "fold"].isna().all()
    with pytest.raises(UserError, match="no converted image without a label"):
        unlabelled.unlabelled(manifest, manifest)


def test_only_confident_images_are_labelled():
    rows = tables.finish("manifest", pd.DataFrame({
        "dataset": "other", "image_id": ["a", "b", "c"], "study_id": "s", "patient_id": ["1", "2", "3"],
        "group_id": ["1", "2", "3"], "label_policy": "x", "split": "train",
    }))  # fmt: skip
    scores = pd.Series({"other|a": 0.97, "other|b": 0.5, "other|c": 0.01})
    rule = {"run": "clf", "malignant_above": 0.95, "benign_below": 0.05}
    found = pseudo.confident(rows, scores, "image", rule)
    assert found.set_index("image_id")["label_malignant"].to_dict() == {"a": 1, "c": 0}
    assert set(found["label_source"]) == {"pseudo:clf"}


@pytest.mark.slow
def test_a_run_labels_for_another_and_never_what_is_held_out(data, classified, strangers, tmp_path, capsys):
    rule = {"run": "clf", "datasets": ["other"], "malignant_above": 0.5, "benign_below": 0.5}
    values = CLASSIFY | {"pseudo_labels": rule}
    listed, out = tmp_path / "unlabelled", tmp_path / "0/pseudo"

    def call(*arguments):
        assert main(list(map(str, arguments))) == 0

    listing = ("list-unlabelled", "--manifests", strangers[0], "--cohort", data[0], "--out", listed)
    assert main(list(map(str, listing))) == 2  # the default compares pictures, which takes the store
    call(*listing, "--near-duplicates", "ignore")
    size = ("--image-size", 64, 32)
    call("pack", "--cohort", listed, "--store", strangers[1], "--out", listed / "64x32", *size)
    where = ("--cohort", data[0], "--unlabelled", listed, "--pack", listed / "64x32", "--folds", classified / "0")
    call("pseudo-label", "next", "--fold", 0, *where, "--settings", json.dumps(values), "--out", out)
    labels = tables.read(out / "pseudo.parquet", "manifest")
    assert len(labels) == 34
    assert set(labels["label_source"]) == {"pseudo:clf"}

    labels_of = Pseudo(out, listed / "64x32")
    record = fit(data, tmp_path / "0", values, name="next", labels=labels_of)
    assert record["label_sources"]["pseudo:clf"] == 33  # one is of a patient of the fold that is held out
    assert record["samples"]["train"]["0"] + record["samples"]["train"]["1"] == 24 + 16 + 1
    assert record["samples"]["val"] == {"0": 12, "1": 4}
    seen = tables.read(tmp_path / "0/seen.parquet", "seen")
    assert set(seen.loc[seen["run"] == "next", "dataset"]) == {"synthetic", "other"}
    assert "clf" in set(seen["run"])

    # Whatever wrote the table: rows that do not keep to train are refused.
    manifest = tables.read(data[0] / "manifest.parquet", "manifest")
    held_out = manifest[manifest["split"] == "test"].iloc[0]
    for wrong in (
        labels.assign(split="val"),
        labels.assign(label_source="pathology"),
        labels.assign(patient_id=held_out["patient_id"], dataset=held_out["dataset"]),
        labels.assign(group_id=held_out["group_id"]),
    ):
        with pytest.raises(UserError, match="do not keep to split train"):
            pseudo.check(wrong, manifest)
    pseudo.check(labels, manifest)
    with pytest.raises(UserError, match="give the labels with --pseudo"):
        fit(data, tmp_path / "none", values)


def test_the_audit_sees_a_pseudo_label_that_would_judge(data):
    manifest = tables.read(data[0] / "manifest.parquet", "manifest")
    rows = manifest.index[manifest["split"] == "test"][:2]
    assert audit.audit(manifest)["ok"]
    taught = manifest.copy()
    taught.loc[manifest.index[manifest["split"] == "train"][:3], "label_source"] = "pseudo:clf"
    assert audit.audit(taught)["ok"]
    taught.loc[rows, "label_source"] = "pseudo:clf"
    result = audit.audit(taught)
    assert not result["ok"]
    assert "pseudo-labels in train only: 2 of 5 leak" in audit.first_leak(result)
    with pytest.raises(UserError, match="column label_source"):
        tables.finish("manifest", taught.assign(label_source="pseudo"))
    assert np.isin(tables.LABEL_SOURCES, ["pathology", "followup", "birads", "folder", "none"]).all()
