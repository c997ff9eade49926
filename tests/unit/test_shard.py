"""Dealing patients to shards: stable, complete, whole patients, and local when the archive changes."""

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from mammoflow import tables
from mammoflow.cli import main
from mammoflow.shard import choose, shard_name, shard_of


def images_of(patients: dict[str, int], **columns) -> pd.DataFrame:
    """An images table with that many images per patient."""
    rows = [
        {
            "dataset": "mias",
            "image_id": f"{patient}_{number}",
            "study_id": patient,
            "patient_id": patient,
            "group_id": f"mias:{patient}",
            "path": f"{patient}/{number}.pgm",
            "use": "labelled",
            **columns,
        }
        for patient, count in patients.items()
        for number in range(count)
    ]
    return tables.finish("images", pd.DataFrame(rows))


def findings_of(images: pd.DataFrame) -> pd.DataFrame:
    rows = images[["dataset", "image_id", "study_id", "patient_id"]].assign(
        finding_id=images["image_id"] + "_1", geometry="none"
    )
    return tables.finish("findings", rows)


def deal(folder, images, shards=4, max_images=0):
    tables.write(images, folder / "in" / "images.parquet")
    tables.write(findings_of(images), folder / "in" / "findings.parquet")
    out = folder / f"out{shards}"
    arguments = ["--inventory", str(folder / "in"), "--out", str(out), "--shards", str(shards)]
    assert main(["shard", "mias", *arguments, "--max-images", str(max_images)]) == 0
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


PATIENT_IDS = ["mias_p001", "mias_p002", "P_00001", "10006", "D1-0202"]
PATIENTS = {f"p{number}": 1 + number % 4 for number in range(30)}
IMAGES = images_of(PATIENTS)


def test_every_image_lies_in_one_shard_with_its_findings(tmp_path):
    images = images_of(PATIENTS)
    files = deal(tmp_path, images)
    assert list(files) == sorted(
        name for number in range(4) for name in (f"000{number}-of-0004.csv", f"000{number}-of-0004.findings.csv")
    )
    shards = [tables.read(tmp_path / "out4" / f"{shard_name(number, 4)}.csv", "images") for number in range(4)]
    dealt = pd.concat(shards)
    assert sorted(dealt["image_id"]) == sorted(images["image_id"])
    homes = pd.concat([shard.assign(home=number) for number, shard in enumerate(shards)])
    assert (homes.groupby("patient_id")["home"].nunique() == 1).all()
    for number, shard in enumerate(shards):
        findings = tables.read(tmp_path / "out4" / f"{shard_name(number, 4)}.findings.csv", "findings")
        assert sorted(findings["image_id"]) == sorted(shard["image_id"])
        assert len(shard) > 0


def test_a_new_patient_changes_one_shard_only(tmp_path):
    before = deal(tmp_path, images_of(PATIENTS))
    after = deal(tmp_path, images_of({"a_new_one": 2, **PATIENTS}))
    changed = {name for name in before if before[name] != after[name]}
    home = shard_name(shard_of("a_new_one", 4), 4)
    assert changed == {f"{home}.csv", f"{home}.findings.csv"}


def test_all_shards_are_written_even_empty(tmp_path):
    files = deal(tmp_path, images_of({"p1": 2}), shards=7)
    assert len(files) == 14
    for number in range(7):
        assert tables.read(tmp_path / "out7" / f"{shard_name(number, 7)}.csv", "images").columns.equals(
            pd.Index(list(tables.IMAGES))
        )


def test_absent_and_excluded_images_are_not_dealt(tmp_path):
    images = images_of({"p1": 3, "p2": 2})
    images.loc[0, "path"] = pd.NA
    images.loc[1, ["use", "excluded_reason"]] = ["excluded", "excluded_by_config"]
    assert choose(images)["image_id"].tolist() == ["p1_2", "p2_0", "p2_1"]
    files = deal(tmp_path, images, shards=1)
    assert b"p1_0" not in files["0000-of-0001.findings.csv"]
    assert b"p1_2" in files["0000-of-0001.findings.csv"]


def test_unlabelled_images_are_converted_too():
    assert len(choose(images_of({"p1": 2}, use="unlabelled"))) == 2


@settings(deadline=None)
@given(st.integers(1, 90))
def test_max_images_takes_whole_patients_up_to_about_the_number(limit):
    chosen = choose(IMAGES, limit)
    sizes = chosen.groupby("patient_id").size()
    assert sizes.to_dict() == {patient: PATIENTS[patient] for patient in sizes.index}
    assert min(limit, len(IMAGES)) <= len(chosen) < limit + max(PATIENTS.values())


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(0, 40))
def test_max_images_grows_by_adding(limit, more):
    assert set(choose(IMAGES, limit)["image_id"]) <= set(choose(IMAGES, limit + more)["image_id"])


def test_max_images_leaves_no_shard_behind():
    """The choice and the shard come from independent hashes: few patients still spread over the shards."""
    chosen = choose(images_of({f"p{number}": 1 for number in range(2000)}), 200)
    homes = chosen["patient_id"].map(lambda patient: shard_of(patient, 8)).value_counts()
    assert homes.index.nunique() == 8
    assert homes.max() < 60


def test_shard_of_is_the_same_everywhere():
    """Frozen: a change of this hash would deal every archive anew."""
    assert [shard_of(patient, 8) for patient in PATIENT_IDS] == [6, 2, 7, 2, 0]


def test_bad_input(tmp_path, capsys):
    images = images_of({"p1": 1})
    arguments = ["--out", str(tmp_path / "out"), "--shards"]
    assert main(["shard", "mias", "--inventory", str(tmp_path / "in"), *arguments, "2"]) == 2
    assert "images.parquet does not exist" in capsys.readouterr().err
    deal(tmp_path, images)
    assert main(["shard", "mias", "--inventory", str(tmp_path / "in"), *arguments, "0"]) == 2
    assert "--shards 0 is not a number from 1 to 9999" in capsys.readouterr().err
    assert main(["shard", "cmmd", "--inventory", str(tmp_path / "in"), *arguments, "2"]) == 2
    assert "is not an inventory of cmmd" in capsys.readouterr().err
