import pandas as pd
import pytest

from made_tables import cohort_config, make_images, make_manifest
from mammoflow import cli
from mammoflow.audit import audit, first_leak
from mammoflow.audit_table import leaks, rows_also_in
from mammoflow.cohort import build_cohort
from mammoflow.errors import UserError


@pytest.fixture(scope="module")
def clean() -> pd.DataFrame:
    return build_cohort(make_manifest(make_images(40)), cohort_config("rsna"), seed=1).manifest


def failed(manifest: pd.DataFrame) -> dict[str, int]:
    return {check["name"]: check["leaks"] for check in audit(manifest)["checks"] if check["leaks"]}


def row_of(manifest: pd.DataFrame, split: str, nth: int = 0) -> int:
    return manifest.index[manifest["split"] == split][nth]


def test_a_clean_cohort_passes_and_every_check_looked_at_something(clean):
    labelled = clean.copy()
    labelled.loc[row_of(clean, "train"), "label_source"] = "pseudo:teacher"
    result = audit(labelled, [{"group_id": "g"}])
    assert result["ok"]
    assert all(check["checked"] > 0 for check in result["checks"])
    assert result["conflicts_resolved"] == [{"group_id": "g"}]


def test_a_pseudo_label_outside_of_train(clean):
    leaking = clean.copy()
    leaking.loc[row_of(clean, "test"), "label_source"] = "pseudo:teacher"
    assert failed(leaking) == {"pseudo-labels in train only": 1}


def test_a_patient_on_two_sides(clean):
    leaking = clean.copy()
    row = row_of(clean, "test")
    leaking.loc[row, ["split", "fold"]] = ["train", 0]
    assert failed(leaking) == {"group in one split": 1, "patient in one split": 1}
    patient = clean.loc[row, "patient_id"]
    assert first_leak(audit(leaking)).endswith(f"for example rsna:{patient} in test and train")


def test_a_patient_whose_groups_were_torn(clean):
    leaking = clean.copy()
    row = row_of(clean, "test")
    leaking.loc[row, ["split", "fold", "group_id"]] = ["train", 0, "rsna:other"]
    assert failed(leaking) == {"patient in one split": 1}


def test_the_same_file_on_two_sides(clean):
    leaking = clean.copy()
    leaking.loc[[row_of(clean, "test"), row_of(clean, "val")], "source_sha256"] = "f" * 64
    assert failed(leaking) == {"identical files in one split": 1}


def test_a_patient_in_two_folds(clean):
    leaking = clean.copy()
    row = row_of(clean, "train")
    leaking.loc[row, "fold"] = (clean.loc[row, "fold"] + 1) % 5
    assert failed(leaking) == {"group in one fold": 1, "patient in one fold": 1}


def test_the_same_file_in_two_folds(clean):
    leaking = clean.copy()
    train = clean[clean["split"] == "train"]
    rows = [train.index[train["fold"] == fold][0] for fold in (0, 1)]
    leaking.loc[rows, "source_sha256"] = "f" * 64
    assert failed(leaking) == {"identical files in one fold": 1}


@pytest.mark.parametrize(
    "change", [{"split": pd.NA}, {"fold": pd.NA}, {"exclude_reason": "no_label"}, {"split": "test"}], ids=str
)
def test_rows_that_are_neither_placed_nor_excluded(clean, change):
    broken = clean.copy()
    broken.loc[row_of(clean, "train"), list(change)] = list(change.values())
    assert failed(broken)["every row placed or excluded"] == 1


@pytest.fixture
def published() -> pd.DataFrame:
    """A split by image, as some published ones: patient 007 stands in train and test, 9 in Test only."""
    return pd.DataFrame({
        "dataset": ["a", "a", "a", "a", "b", "b"],
        "patient": ["007", "007", "8", "9", "8", "10"],
        "split": ["Train", "Test", "Train", "Test", "Test", "Eval"],
    })  # fmt: skip


def test_the_leak_of_a_published_table(published):
    result, crossing = leaks(published, ["patient"], "split")
    assert crossing.to_dict() == {"007": "Test, Train", "8": "Test, Train"}
    assert result.set_index("split")["leaking_rows"].to_dict() == {"Eval": 0, "Test": 2, "Train": 2}
    assert rows_also_in(published, ["patient"], "split", "Test", "Train") == (3, 2)
    # patient 8 of a is not patient 8 of b
    assert leaks(published, ["dataset", "patient"], "split")[1].to_dict() == {"a|007": "Test, Train"}


def test_command_exits_1_on_a_leak_and_0_without(tmp_path, capsys, published):
    published.to_csv(tmp_path / "leaking.csv", index=False)
    command = ["audit", f"{tmp_path}/leaking.csv", "--patient", "patient", "--split", "split"]
    assert cli.main(command) == 1
    printed = capsys.readouterr().out
    assert "2 of 3 Test rows (66.7%) show a patient who is also in Train" in printed
    assert "LEAK: 2 patient(s)" in printed
    assert "007: Test, Train" in printed  # ids keep their zeros
    published[published["split"] != "Train"].iloc[1:].to_csv(tmp_path / "clean.csv", index=False)
    assert cli.main(["audit", f"{tmp_path}/clean.csv", "--patient", "patient", "--split", "split"]) == 0
    assert "clean" in capsys.readouterr().out


def test_rows_without_a_split_take_no_part_and_rows_without_a_patient_are_an_error(published):
    published.loc[0, "split"] = None
    assert list(leaks(published, ["patient"], "split")[1].index) == ["8"]
    published.loc[1, "patient"] = None
    with pytest.raises(UserError, match=r"'patient' is empty in 1 row\(s\)"):
        leaks(published, ["patient"], "split")
    with pytest.raises(UserError, match="no column 'fold'; the columns are: dataset, patient, split"):
        leaks(published, ["patient"], "fold")
    with pytest.raises(UserError, match="no row has a split"):
        leaks(published.assign(split=None), ["patient"], "split")
