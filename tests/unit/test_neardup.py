import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from made_tables import cohort_config, make_images, make_manifest
from mammoflow import cli, phantom, tables
from mammoflow.audit import audit
from mammoflow.cohort import build_cohort, search_pictures
from mammoflow.duplicates import merge_near_duplicates
from mammoflow.errors import UserError
from mammoflow.fingerprint import agreeing, candidates, fingerprint, shrink
from mammoflow.neardup import COLUMNS, compare, find_near_duplicates, small_copy
from mammoflow.phantom.copies import CHANGES

WOMEN = 14


def on_film(picture: np.ndarray) -> np.ndarray:
    """Put a picture back into the middle of a mini-MIAS frame of 1024 x 1024."""
    frame = np.zeros((1024, 1024), np.uint8)
    top, left = (1024 - picture.shape[0]) // 2, (1024 - picture.shape[1]) // 2
    frame[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return frame


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A synthetic mini-MIAS through the stages up to the manifest.

    The left film of women 1 to 6, each changed in another way, replaces the left film of women 7 to 12: a file of
    another name, another content and another patient. Returns the directory, and copy -> original.
    """
    directory = tmp_path_factory.mktemp("planted")
    archive = directory / "mias"
    phantom.write("mias", archive, patients=WOMEN, seed=5)
    copies = {}
    for number, change in enumerate(CHANGES):
        original, copy = f"mdb{2 * number + 1:03d}", f"mdb{2 * (number + len(CHANGES)) + 1:03d}"
        film = cv2.imread(str(archive / f"{original}.pgm"), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(archive / f"{copy}.pgm"), on_film(change(film)))
        copies[copy] = original
    results, store = directory / "results", directory / "store"
    shard, ledger = results / "shards" / "0000-of-0001.csv", results / "convert" / "0.parquet"
    for command in (
        f"inventory mias {archive} --out {results}/inventory",
        f"shard mias --inventory {results}/inventory --out {results}/shards --shards 1",
        f"convert mias --shard {shard} --root {archive} --store {store} --ledger {ledger} --threads 2",
        f"manifest mias --inventory {results}/inventory --convert {ledger} --out {results}",
    ):
        assert cli.main(command.split()) == 0
    return directory, copies


@pytest.fixture(scope="module")
def planted_pairs(planted) -> pd.DataFrame:
    directory, _ = planted
    manifest = tables.read(directory / "results" / "manifest.parquet", "manifest")
    return find_near_duplicates(manifest, directory / "store", threads=2)


def test_planted_copies_are_found_and_nothing_else(planted, planted_pairs):
    _, copies = planted
    found = set(zip(planted_pairs["first"], planted_pairs["second"], strict=True))
    assert found == {(f"mias|{original}", f"mias|{copy}") for copy, original in copies.items()}
    assert list(planted_pairs.columns) == COLUMNS
    assert (planted_pairs["correlation"] > 0.6).all()


def run_cohort(directory: Path, out: str, **config) -> tuple[int, dict]:
    section = json.dumps({"datasets": ["mias"], "folds": 2, **config})
    command = f"cohort films --manifests {directory}/results --seed 1 --store {directory}/store --out {directory}/{out}"
    status = cli.main([*command.split(), "--settings", section])
    return status, json.loads((directory / out / "audit.json").read_text())


def test_cohort_makes_their_patients_one_group_and_the_audit_proves_it(planted, capsys):
    directory, copies = planted
    status, result = run_cohort(directory, "merged")
    assert status == 0
    assert "6 pair(s) of near-duplicate pictures made their patients one group" in capsys.readouterr().err
    manifest = tables.read(directory / "merged" / "manifest.parquet", "manifest").set_index("image_id")
    for copy, original in copies.items():
        assert manifest.loc[copy, "group_id"] == manifest.loc[original, "group_id"]
        assert manifest.loc[copy, "split"] == manifest.loc[original, "split"]
    assert manifest["group_id"].nunique() == WOMEN - len(CHANGES)
    checks = {check["name"]: check for check in result["checks"]}
    for side in ("split", "fold"):
        check = checks[f"near-duplicate pictures in one {side}"]
        assert (check["checked"], check["leaks"]) == (len(CHANGES), 0)
    assert not any(pair["crosses"] for pair in result["near_duplicates"])
    page = (directory / "merged" / "balance.html").read_text()
    assert all(f"mias|{name}" in page for pair in copies.items() for name in pair)
    assert "no leak found" in page
    assert "BI-RADS" not in page  # the archive has none
    assert "<h3>Findings</h3>" in page


def test_cohort_can_list_them_only_or_not_look(planted, capsys):
    directory, _ = planted
    status, result = run_cohort(directory, "listed", near_duplicates="report")
    assert status == 0
    assert len(result["near_duplicates"]) == len(CHANGES)
    crossing = sum(pair["crosses"] for pair in result["near_duplicates"])
    assert crossing > 0
    assert f"6 pair(s) of near-duplicate pictures, {crossing} of them on two sides" in capsys.readouterr().err
    assert run_cohort(directory, "blind", near_duplicates="ignore")[1]["near_duplicates"] is None


def test_an_unlabelled_copy_of_a_held_out_picture_keeps_its_woman_out(planted, capsys):
    """The copies' women have no label, so that the cohort compares none of their pictures."""
    directory, copies = planted
    manifest = tables.read(directory / "results" / "manifest.parquet", "manifest")
    women = set(manifest.loc[manifest["image_id"].isin(copies), "patient_id"])
    named = ~manifest["patient_id"].isin(women)
    manifest = manifest.assign(exclude_reason=manifest["exclude_reason"].where(named, "no_label"))
    tables.write(manifest, directory / "partly" / "manifest.parquet")
    cohort = manifest.assign(split=named.map({True: "train"}), fold=named.map({True: 0}))
    originals = {copy: manifest["image_id"] == original for copy, original in copies.items()}
    held_out = sorted(copies)[:3]
    for copy in held_out:
        patient = manifest.loc[originals[copy], "patient_id"].iloc[0]
        cohort.loc[cohort["patient_id"] == patient, ["split", "fold"]] = ["test", pd.NA]
    tables.write(tables.finish("manifest", cohort), directory / "held" / "manifest.parquet")

    command = f"list-unlabelled --manifests {directory}/partly --cohort {directory}/held --out {directory}/listed"
    assert cli.main(command.split()) == 2
    assert "--near-duplicates ignore" in capsys.readouterr().err
    assert cli.main([*command.split(), "--store", str(directory / "store"), "--threads", "2"]) == 0
    listed = tables.read(directory / "listed" / "manifest.parquet", "manifest")
    gone = set(manifest.loc[manifest["image_id"].isin(held_out), "patient_id"])
    assert set(listed["patient_id"]) == women - gone
    assert set(listed["fold"]) == {0}
    assert set(listed["group_id"]) <= set(cohort.loc[cohort["split"] == "train", "group_id"])
    assert cli.main([*command.split(), "--near-duplicates", "ignore"]) == 0
    assert set(tables.read(directory / "listed" / "manifest.parquet", "manifest")["patient_id"]) == women


def test_cohort_needs_the_store_to_compare_pictures(tmp_path):
    manifest = make_manifest(make_images(10))
    with pytest.raises(UserError, match="--store, or set near_duplicates: ignore"):
        search_pictures(manifest, "merge", None, 1)
    with pytest.raises(UserError, match="does not exist: run convert"):
        search_pictures(manifest, "merge", tmp_path, 1)


@pytest.mark.parametrize(("side", "change"), [("split", {"split": "test", "fold": pd.NA}), ("fold", {"fold": 1})])
def test_audit_finds_a_pair_on_two_sides(side, change):
    """The groups were joined and then torn by hand: the audit looks at the rows, not at the groups."""
    manifest = build_cohort(make_manifest(make_images(40)), cohort_config("rsna", folds=2), seed=1).manifest
    rows = manifest.index[(manifest["split"] == "train") & (manifest["fold"] == 0)][[0, 8]]
    names = (manifest["dataset"] + "|" + manifest["image_id"])[rows].tolist()
    pairs = pd.DataFrame([[*names, 0.9, 1.0, 1.0, False]], columns=COLUMNS)
    assert audit(manifest, near_duplicates=pairs)["ok"]
    manifest.loc[rows[1], list(change)] = list(change.values())
    result = audit(manifest, near_duplicates=pairs)
    leaks = {check["name"]: check["leaks"] for check in result["checks"]}
    assert leaks[f"near-duplicate pictures in one {side}"] == 1
    assert result["near_duplicates"][0]["crosses"] is True
    listed = audit(manifest, near_duplicates=pairs, enforce_near_duplicates=False)
    assert not [check for check in listed["checks"] if check["name"].startswith("near")]


def test_chains_of_pairs_become_one_group():
    manifest = make_manifest(make_images(5))
    name = manifest["dataset"] + "|" + manifest["image_id"]
    pairs = pd.DataFrame({"first": name[[0, 9]].array, "second": name[[5, 4]].array})  # P0-P1, P2-P1
    groups = merge_near_duplicates(manifest, pairs)
    assert groups.drop_duplicates().tolist() == ["rsna:P0000", "rsna:P0003", "rsna:P0004"]
    assert groups[:12].nunique() == 1
    none = merge_near_duplicates(manifest, pairs.iloc[:0])
    pd.testing.assert_series_equal(none, manifest["group_id"], check_names=False)


def test_two_views_and_two_sides_of_a_woman_are_no_duplicates(planted):
    """Every film its own group: all 378 pairs of the set are compared, the two breasts of each woman with them."""
    directory, copies = planted
    manifest = tables.read(directory / "results" / "manifest.parquet", "manifest")
    alone = manifest.assign(group_id=manifest["image_id"])
    assert len(find_near_duplicates(alone, directory / "store")) == len(copies)


def test_films_of_real_women_are_no_duplicates_of_each_other(real_data, tmp_path):
    """40 films of mini-MIAS, 780 pairs with both sides of 20 women: none; and copies of them are found."""
    paths = sorted((real_data / "mini-mias").glob("*.pgm"))
    films = [shrink(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)) for path in paths]
    prints = [fingerprint(film) for film in films]
    assert len(films) == 40
    pairs = candidates(prints, np.arange(len(films)))
    for first, second, mirrored in pairs:
        match = compare(films[first], films[second], (prints[first], prints[second]), mirrored)
        assert not match.duplicate, f"{paths[first].name} and {paths[second].name}: {match}"
    for path, film, own in list(zip(paths, films, prints, strict=True))[::5]:
        for change in CHANGES:
            small = shrink(change(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))
            other = fingerprint(small)
            matches = [compare(film, small, (own, other), mirrored) for mirrored in (False, True)]
            assert any(match.duplicate for match in matches), f"{path.name} {change.__name__}: {matches}"


def test_a_fingerprint_of_the_mirror_image_is_known_without_computing_it():
    film = shrink(np.pad(np.random.default_rng(0).integers(0, 255, (60, 40), np.uint8).repeat(6, 0).repeat(6, 1), 30))
    own, mirrored = fingerprint(film), fingerprint(cv2.flip(film, 1))
    assert len(agreeing(own, mirrored)[0]) < len(agreeing(own.flipped(), mirrored)[0])
    back = own.flipped().flipped()
    np.testing.assert_allclose(back.points, own.points, atol=1e-4)
    np.testing.assert_array_equal(back.codes, own.codes)


def test_pictures_without_any_detail_match_nothing():
    blank = np.zeros((200, 100), np.uint16)
    prints = [fingerprint(shrink(blank)), fingerprint(shrink(blank + 40000)), fingerprint(shrink(blank[:1, :1]))]
    assert [len(one.points) for one in prints] == [0, 0, 0]
    assert candidates(prints, np.arange(3)) == []
    match = compare(shrink(blank), shrink(blank), (prints[0], prints[1]), mirrored=True)
    assert not match.duplicate
    assert candidates([], np.arange(0)) == []


def test_the_small_copy_keeps_aspect_and_grey(tmp_path):
    image = np.full((1000, 500), 257 * 100, np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    small = small_copy(tmp_path / "a.png")
    assert small.shape == (192, 96)
    assert small.dtype == np.uint8
    assert set(np.unique(small)) == {100}
    assert shrink(np.zeros((50, 20), np.uint8)).shape == (50, 20)  # never enlarged
