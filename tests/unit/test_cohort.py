import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_tables import cohort_config, make_findings, make_images, make_manifest
from mammoflow import cli, labels, tables
from mammoflow.attributes import attribute_table
from mammoflow.cohort import build_cohort, pool, summarize
from mammoflow.errors import UserError
from mammoflow.manifest import build_findings

LEFT_OUT = "exclude_reason"


@pytest.fixture(scope="module")
def rsna() -> pd.DataFrame:
    return make_manifest(make_images(60))


@pytest.fixture(scope="module")
def cbis() -> pd.DataFrame:
    """60 patients with a published split; P0000 to P0002 stand in both parts, as 31 patients of CBIS-DDSM do."""
    number = np.repeat(np.arange(60), 4)
    official = np.where(number >= 48, "test", "training").astype(object)
    official[[0, 4, 5, 8]] = "test"  # image rows of P0000, P0001 (two), P0002
    return make_manifest(make_images(60, "cbis_ddsm", seed=1, split_official=official))


def sides(manifest: pd.DataFrame, *, of: str = "group_id") -> pd.Series:
    """How many splits each group (or other key) stands in."""
    return manifest.groupby(of)["split"].nunique()


def test_patients_are_split_in_the_asked_shares(rsna):
    cohort = build_cohort(rsna, cohort_config("rsna"), seed=1)
    part = cohort.manifest
    assert cohort.audit["ok"]
    assert part.groupby("split")["group_id"].nunique().to_dict() == {"test": 9, "train": 42, "val": 9}
    assert part[part["split"] == "train"].groupby("fold")["group_id"].nunique().tolist() == [9, 9, 8, 8, 8]
    assert part.loc[part["split"] != "train", "fold"].isna().all()
    assert part.groupby("split")["label_malignant"].nunique().tolist() == [2, 2, 2]
    assert sides(part).max() == 1


def test_seed_and_nothing_else_decides(rsna):
    config = cohort_config("rsna")
    first = build_cohort(rsna, config, seed=1).manifest
    shuffled = build_cohort(rsna.sample(frac=1, random_state=3), config, seed=1).manifest
    pd.testing.assert_frame_equal(first, shuffled)
    assert not first["split"].equals(build_cohort(rsna, config, seed=2).manifest["split"])


def test_identical_files_make_two_patients_one_group(rsna):
    manifest = rsna.copy()
    manifest.loc[[0, 40, 41, 80], "source_sha256"] = ["a" * 64, "a" * 64, "b" * 64, "b" * 64]
    cohort = build_cohort(manifest, cohort_config("rsna"), seed=1)
    patients = rsna.loc[[0, 40, 80], "patient_id"].tolist()
    joined = cohort.manifest[cohort.manifest["patient_id"].isin(patients)]
    assert set(joined["group_id"]) == {"rsna:P0000"}
    assert joined["split"].nunique() == 1
    assert cohort.manifest["group_id"].nunique() == 58
    assert cohort.manifest["split"].notna().all()


def test_copies_can_be_left_out_instead(rsna):
    manifest = rsna.copy()
    manifest.loc[[0, 40], "source_sha256"] = "a" * 64
    manifest.loc[[1, 81], "source_sha256"] = "b" * 64
    manifest.loc[81, "split_official"] = "test"
    manifest.loc[1, LEFT_OUT] = "no_label"
    cohort = build_cohort(manifest, cohort_config("rsna", duplicates="exclude", official="ignore"), seed=1)
    reasons = cohort.manifest[LEFT_OUT]
    assert reasons[[0, 40, 1, 81]].fillna("").tolist() == ["", "duplicate", "no_label", ""]
    # the women are the same, whatever became of the copy
    assert cohort.manifest.loc[[0, 40], "group_id"].nunique() == 1


def test_duplicates_are_found_across_archives(rsna, cbis):
    twin = cbis.copy()
    test_row = twin.index[twin["patient_id"] == "P0059"][0]
    twin.loc[test_row, "source_sha256"] = rsna.loc[0, "source_sha256"]
    cohort = build_cohort(pool([rsna, twin], ["rsna", "cbis_ddsm"]), cohort_config("rsna", "cbis_ddsm"), seed=1)
    rows = cohort.manifest[cohort.manifest["group_id"] == "cbis_ddsm:P0059"]
    assert set(rows["dataset"]) == {"rsna", "cbis_ddsm"}
    assert set(rows["split"]) == {"test"}  # the published test set draws the other archive's images after it
    assert cohort.audit["ok"]


def test_a_published_test_set_is_kept_and_its_conflicts_are_resolved(cbis):
    cohort = build_cohort(cbis, cohort_config("cbis_ddsm"), seed=1)
    part = cohort.manifest
    test_patients = {"P0000", "P0001", "P0002", *(f"P{number:04d}" for number in range(48, 60))}
    assert set(part.loc[part["split"] == "test", "patient_id"]) == test_patients
    assert (part.loc[part["split"] == "test", "split_official"] == "test").all()
    left_out = part[part[LEFT_OUT] == "official_conflict"]
    assert left_out.groupby("patient_id").size().to_dict() == {"P0000": 3, "P0001": 2, "P0002": 3}
    assert left_out["split"].isna().all()
    assert [(entry["group_id"], entry["images_left_out"]) for entry in cohort.audit["conflicts_resolved"]] == [
        ("cbis_ddsm:P0000", 3),
        ("cbis_ddsm:P0001", 2),
        ("cbis_ddsm:P0002", 3),
    ]
    # val is carved out of the 45 training patients: 0.15 of 0.85
    assert part.groupby("split")["patient_id"].nunique().to_dict() == {"test": 15, "train": 37, "val": 8}
    assert cohort.audit["ok"]


def test_conflicting_patients_can_be_dropped(cbis):
    part = build_cohort(cbis, cohort_config("cbis_ddsm", official_conflict="drop"), seed=1).manifest
    assert set(part.loc[part[LEFT_OUT] == "official_conflict", "patient_id"]) == {"P0000", "P0001", "P0002"}
    assert part.loc[part["patient_id"].isin(["P0000", "P0001", "P0002"]), "split"].isna().all()


def test_a_published_split_can_be_ignored(cbis):
    cohort = build_cohort(cbis, cohort_config("cbis_ddsm", official="ignore"), seed=1)
    assert cohort.manifest["split"].notna().all()
    assert cohort.manifest.groupby("split")["patient_id"].nunique().to_dict() == {"test": 9, "train": 42, "val": 9}
    assert cohort.audit["conflicts_resolved"] == []


def test_a_published_split_without_its_test_part_is_split_anew(cbis):
    manifest = cbis.copy()
    manifest.loc[manifest["split_official"] == "test", LEFT_OUT] = "not_selected"
    cohort = build_cohort(manifest, cohort_config("cbis_ddsm"), seed=1)
    assert set(cohort.manifest["split"].dropna()) == {"train", "val", "test"}
    assert any("no image of the published test set" in warning for warning in cohort.warnings)


def test_rows_that_take_no_part_keep_their_place_and_reason(rsna):
    manifest = rsna.copy()
    manifest.loc[::7, LEFT_OUT] = "convert_failed"
    result = build_cohort(manifest, cohort_config("rsna"), seed=1).manifest
    assert result["image_id"].tolist() == rsna["image_id"].tolist()
    assert (result[LEFT_OUT].notna() == result["split"].isna()).all()
    assert (result[LEFT_OUT] == "convert_failed").sum() == len(manifest.loc[::7])


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_random_pools_never_leak_lose_or_double_an_image(rsna, cbis, data):
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    manifest = pd.concat([rsna, cbis], ignore_index=True)
    manifest = manifest[random.random(len(manifest)) < data.draw(st.floats(0.5, 1))].copy()
    for _ in range(data.draw(st.integers(0, 12))):  # identical files anywhere, chains included
        chosen = random.choice(manifest.index, 2)
        manifest.loc[chosen, "source_sha256"] = manifest.loc[chosen[0], "source_sha256"]
    manifest.loc[random.random(len(manifest)) < data.draw(st.floats(0, 0.3)), LEFT_OUT] = "convert_failed"
    manifest.loc[random.random(len(manifest)) < 0.1, "source_sha256"] = pd.NA
    manifest.loc[random.random(len(manifest)) < 0.2, "breast_density"] = pd.NA
    manifest = manifest.sample(frac=1, random_state=data.draw(st.integers(0, 99)))
    config = cohort_config(
        "rsna",
        "cbis_ddsm",
        folds=data.draw(st.integers(2, 6)),
        official=data.draw(st.sampled_from(["keep", "ignore"])),
        official_conflict=data.draw(st.sampled_from(["test", "drop"])),
        duplicates=data.draw(st.sampled_from(["merge", "exclude"])),
    )
    names = (manifest["dataset"] + "|" + manifest["image_id"])[manifest[LEFT_OUT].isna()].to_numpy(object)
    alike = random.choice(names, (data.draw(st.integers(0, 6)), 2))  # near-duplicate pictures anywhere
    pairs = pd.DataFrame(alike, columns=["first", "second"])
    cohort = build_cohort(manifest, config, data.draw(st.integers(0, 9)), pairs)
    result = cohort.manifest
    keys = ["dataset", "image_id"]
    assert sorted(map(tuple, result[keys].to_numpy())) == sorted(map(tuple, manifest[keys].to_numpy()))
    assert (result["split"].notna() == result[LEFT_OUT].isna()).all()
    part = result[result["split"].notna()].assign(patient=result["dataset"] + result["patient_id"])
    for key in ("group_id", "patient", "source_sha256"):
        assert sides(part, of=key).max() == 1
        assert part[part["split"] == "train"].groupby(key)["fold"].nunique().max() == 1
    assert not any(pair["crosses"] for pair in cohort.audit["near_duplicates"])
    assert set(part.loc[part["split"] == "train", "fold"]) == set(range(config["folds"]))
    if config["duplicates"] == "exclude":
        assert not part["source_sha256"].dropna().duplicated().any()
    if config["official"] == "keep":
        assert not ((part["split_official"] == "training") & (part["split"] == "test")).any()
        assert not ((part["split_official"] == "test") & (part["split"] != "test")).any()
    assert cohort.audit["ok"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.assign(exclude_reason="no_label"), r"no labelled image of rsna takes part \(no_label 240\)"),
        (lambda rows: rows.assign(label_malignant=1), "training needs both classes"),
        (lambda rows: rows.assign(group_id="rsna:P0000"), r"1 patient\(s\) cannot be split into train, val, test"),
        (lambda rows: rows.iloc[:20], r"3 patient\(s\) cannot be split of train into 5 folds"),
    ],
)
def test_impossible_cohorts_say_so(rsna, change, message):
    manifest = tables.finish("manifest", change(rsna))
    with pytest.raises(UserError, match=message):
        build_cohort(manifest, cohort_config("rsna"), seed=1)


def test_a_test_set_alone_cannot_train(cbis):
    with pytest.raises(UserError, match="no patient is left for train"):
        build_cohort(cbis[cbis["split_official"] == "test"], cohort_config("cbis_ddsm"), seed=1)


def test_an_attribute_that_is_not_there(rsna):
    with pytest.raises(UserError, match=r"unknown attribute 'denstiy' to balance; known: views, age_band, dataset"):
        build_cohort(rsna, cohort_config("rsna", attributes=["denstiy"]), seed=1)


def test_pool_takes_the_named_datasets_only(rsna, cbis):
    assert set(pool([rsna, cbis], ["cbis_ddsm"])["dataset"]) == {"cbis_ddsm"}
    with pytest.raises(UserError, match=r"'vindr_mammo' is not among the given manifests \(cbis_ddsm, rsna\)"):
        pool([rsna, cbis], ["vindr_mammo"])


def test_the_same_films_under_two_names_are_refused(rsna):
    ddsm = rsna.assign(dataset=np.where(rsna.index % 2, "ddsm", "cbis_ddsm"))
    with pytest.raises(UserError, match="the same patients under different ids"):
        pool([ddsm], ["ddsm", "cbis_ddsm"])


def test_a_split_without_one_class_is_reported(rsna):
    manifest = rsna.assign(label_malignant=(rsna["patient_id"] == "P0000").astype("Int64"))
    warnings = build_cohort(manifest, cohort_config("rsna"), seed=1).warnings
    assert any("split test holds only label_malignant 0" in warning for warning in warnings)


def test_attributes_of_a_manifest(rsna):
    manifest = rsna.iloc[:8].copy()
    manifest.loc[4, "view_position"] = "ML"
    manifest["age"] = pd.array([49, 49, 50, 50, pd.NA, 61, 61, 61], dtype="Int64")
    names = ["views", "age_band", "label_malignant", "dataset:label_malignant"]
    table = attribute_table(manifest, names)
    assert table["views"].tolist() == ["complete"] * 4 + ["partial"] * 4
    assert table["age_band"].fillna("").tolist() == ["40-49"] * 2 + ["50-59"] * 2 + ["", "60-69", "60-69", "60-69"]
    assert table["label_malignant"].dtype == "string"  # a class, not a count
    assert table["dataset:label_malignant"].iloc[0] == f"rsna x {manifest['label_malignant'].iloc[0]}"


def test_balance_shows_shares_beside_what_is_attainable(rsna):
    balance = build_cohort(rsna, cohort_config("rsna"), seed=1).balance
    assert (balance[["share_train", "share_val", "share_test"]].sum(axis=1) - 1).abs().max() < 1e-5
    assert (balance["deviation_points"] >= balance["attainable_points"] - 1e-3).all()
    labels_row = balance[balance["attribute"] == "label_malignant"]
    assert labels_row["total"].sum() == 240
    assert labels_row["deviation_points"].max() < 4


@pytest.fixture
def results(tmp_path):
    """Manifests of two datasets on disk, as the workflow writes them."""
    number = np.repeat(np.arange(30), 4)
    made = {
        "rsna": make_images(40),
        "cbis_ddsm": make_images(30, "cbis_ddsm", 1, split_official=np.where(number < 6, "test", "training")),
    }
    for name, images in made.items():
        manifest = make_manifest(images)
        crops = tables.finish("crop_ledger", pd.DataFrame(columns=list(tables.CROP_LEDGER)))
        findings = build_findings(make_findings(images), crops, manifest, labels.default_policy())
        tables.write(manifest, tmp_path / name / "manifest.parquet")
        tables.write(findings, tmp_path / name / "findings.parquet")
    return tmp_path


def run_cohort(results, out: str, **config) -> int:
    section = json.dumps({"datasets": ["rsna", "cbis_ddsm"], "near_duplicates": "ignore", **config})
    manifests = ["--manifests", f"{results}/rsna", f"{results}/cbis_ddsm"]
    return cli.main(["cohort", "both", *manifests, "--settings", section, "--seed", "7", "--out", f"{results}/{out}"])


def test_command_writes_the_same_bytes_for_the_same_input(results):
    assert run_cohort(results, "a") == 0
    assert run_cohort(results, "b") == 0
    contents = [{path.name: path.read_bytes() for path in (results / out).iterdir()} for out in "ab"]
    tables_written = {"manifest.parquet", "manifest.csv", "findings.parquet", "balance.csv"}
    assert set(contents[0]) == {*tables_written, "balance.html", "audit.json", "digest.json"}
    assert contents[0] == contents[1]
    assert len(contents[0]["digest.json"]) < 1000
    digest = json.loads(contents[0]["digest.json"])
    assert sum(sum(counts.values()) for counts in digest["images"].values()) == 280
    assert digest["folds"] == 5
    manifest = tables.read(results / "a" / "manifest.parquet", "manifest")
    findings = tables.read(results / "a" / "findings.parquet", "manifest_findings")
    assert len(findings) == len(manifest) == 280
    assert json.loads(contents[0]["audit.json"])["ok"] is True


def test_digest_changes_with_what_training_sees_and_not_with_file_times(results):
    run_cohort(results, "a")
    manifest = tables.read(results / "a" / "manifest.parquet", "manifest")
    findings = tables.read(results / "a" / "findings.parquet", "manifest_findings")
    digest = summarize("both", manifest, findings)
    assert digest == json.loads((results / "a" / "digest.json").read_text())
    assert summarize("both", manifest.assign(source_mtime_ns=5), findings) == digest
    # Neither where the crops lie (their recipe is part of it) nor the name of a policy that changed no label.
    assert summarize("both", manifest.assign(label_policy="0badcafe"), findings) == digest
    cut = findings.assign(roi_path="rsna/1234abcd/a.png", roi_outline_path="rsna/1234abcd/b.png", flags="roi_shifted")
    assert summarize("both", manifest, cut) == digest
    drawn = findings.assign(points="[[[0,0],[4,0],[4,4]]]")
    assert summarize("both", manifest, drawn)["findings_sha256"] != digest["findings_sha256"]
    flipped = manifest.assign(label_malignant=1 - manifest["label_malignant"])
    assert summarize("both", flipped, findings)["manifest_sha256"] != digest["manifest_sha256"]
    moved = findings.assign(out_xmin=findings["out_xmin"] + 1)
    assert summarize("both", manifest, moved)["findings_sha256"] != digest["findings_sha256"]


def test_a_planted_leak_stops_the_command(results, capsys):
    """An adapter that makes each image its own group: the split follows the groups, the audit does not."""
    path = results / "rsna" / "manifest.parquet"
    manifest = tables.read(path, "manifest")
    tables.write(manifest.assign(group_id="rsna:" + manifest["image_id"]), path)
    assert run_cohort(results, "out") == 1
    assert "cohort both leaks: patient in one split" in capsys.readouterr().err
    failed = results / "out" / "audit.failed.json"
    result = json.loads(failed.read_text())
    assert result["ok"] is False
    assert not (results / "out" / "digest.json").exists()
    tables.write(manifest, path)
    assert run_cohort(results, "out") == 0
    assert not failed.exists()


def test_errors_name_the_cohort(results, capsys):
    assert (
        run_cohort(results, "out", folds=20, splits={"train": 0.02, "val": 0.49, "test": 0.49}, official="ignore") == 2
    )
    assert "cohort both: 2 patient(s) cannot be split of train into 20 folds" in capsys.readouterr().err
    assert cli.main(["cohort", "x", "--manifests", f"{results}/none", "--seed", "1", "--out", f"{results}/x"]) == 2
    assert "none/manifest.parquet does not exist" in capsys.readouterr().err
