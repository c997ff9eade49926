"""The DDSM adapter and the grammar of its text files, on small cases written here and on the phantom."""

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammoflow import phantom
from mammoflow.datasets import ddsm
from mammoflow.datasets.ddsm_text import STEPS, chain_to_points, points_to_chain, read_ics, read_overlay
from mammoflow.datasets.detection import search
from mammoflow.errors import UserError
from mammoflow.imaging.decode import read_listed

ICS = """\
ics_version 1.0
filename B-9018-1
DATE_OF_STUDY 24 9 1997
PATIENT_AGE 62
FILM
FILM_TYPE REGULAR
DENSITY 2
DATE_DIGITIZED 2 4 1998
DIGITIZER LUMISYS LASER

SEQUENCE
LEFT_CC LINES 100 PIXELS_PER_LINE 60 BITS_PER_PIXEL 12 RESOLUTION 50 OVERLAY
LEFT_MLO LINES 100 PIXELS_PER_LINE 60 BITS_PER_PIXEL 12 RESOLUTION 50 NON_OVERLAY
RIGHT_CC LINES 100 PIXELS_PER_LINE 60 BITS_PER_PIXEL 12 RESOLUTION 50 NON_OVERLAY
"""
OVERLAY = """\
TOTAL_ABNORMALITIES 2
ABNORMALITY 1
LESION_TYPE MASS SHAPE IRREGULAR-ARCHITECTURAL_DISTORTION MARGINS SPICULATED
LESION_TYPE CALCIFICATION TYPE PLEOMORPHIC DISTRIBUTION CLUSTERED
ASSESSMENT 5
SUBTLETY 3
PATHOLOGY MALIGNANT
TOTAL_OUTLINES 2
BOUNDARY
10 20 2 2 3 4 4 5 6 6 7 0 0 1 #
\tCORE
12 22 2 4 6 0#
ABNORMALITY 2
LESION_TYPE MASS SHAPE LYMPH_NODE MARGINS N/A
ASSESSMENT 2
SUBTLETY 5
PATHOLOGY BENIGN
TOTAL_OUTLINES 3
BOUNDARY
57 98 2 2 2 2 2 4 4 4 4 6 #
"""


def make_case(root: Path, overlay: str | None = OVERLAY, ics: str = ICS, volume: str = "cancers/cancer_01") -> Path:
    folder = root / volume / "case9018"
    folder.mkdir(parents=True)
    (folder / "B-9018-1.ics").write_text(ics)
    for film in ("LEFT_CC", "LEFT_MLO", "RIGHT_CC"):
        (folder / f"B_9018_1.{film}.LJPEG").write_bytes(b"\xff\xd8")
    if overlay is not None:
        (folder / "B_9018_1.LEFT_CC.OVERLAY").write_text(overlay)
    return folder


def images_of(root: Path) -> pd.DataFrame:
    return ddsm.inventory(root).images.set_index("image_id")


# --- the text files


def test_chain_goes_round_the_compass():
    points = chain_to_points(["10", "20", "0", "1", "2", "3", "4", "5", "6", "7", "#"])
    assert points.tolist() == [[10, 20], [10, 19], [11, 18], [12, 18], [13, 19], [13, 20], [12, 21], [11, 21], [10, 20]]


@given(st.tuples(st.integers(-50, 6000), st.integers(-50, 6000)), st.lists(st.integers(0, 7), max_size=300))
def test_chains_round_trip(start, steps):
    if start[0] < 0 or start[1] < 0:
        start = (abs(start[0]), abs(start[1]))
    points = np.cumsum(np.vstack([[start], STEPS[steps].reshape(-1, 2)]), axis=0)
    text = points_to_chain(points)
    np.testing.assert_array_equal(chain_to_points(text.split()), points)
    assert text == " ".join([str(start[0]), str(start[1]), *map(str, steps), "#"])


@pytest.mark.parametrize(
    ("chain", "reason"),
    [("10 20 2 2", "no closing"), ("10 #", "no start"), ("x 20 2 #", "no start"), ("10 20 2 8 #", "'8' is not a step")],
)
def test_a_broken_chain_is_refused(chain, reason):
    with pytest.raises(ValueError, match=reason):
        chain_to_points(chain.split())


def test_points_that_are_no_neighbours_have_no_chain():
    with pytest.raises(ValueError, match="neighbours"):
        points_to_chain([[0, 0], [2, 0]])


def test_ics_fields():
    case = read_ics(ICS)
    assert (case.age, case.density, case.digitizer) == (62, 2, "LUMISYS LASER")
    assert [film.name for film in case.films] == ["LEFT_CC", "LEFT_MLO", "RIGHT_CC"]
    film = case.films[0]
    assert (film.lines, film.samples, film.bits, film.resolution, film.overlay) == (100, 60, 12, 50.0, True)
    assert not case.films[1].overlay


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_empty_and_absent_keys_are_unknown(line_end):
    text = ICS.replace("PATIENT_AGE 62", "PATIENT_AGE ").replace("DENSITY 2\n", "").replace("\n", line_end)
    case = read_ics(text)
    assert (case.age, case.density) == (None, None)
    assert len(case.films) == 3


def test_overlay_fields():
    first, second = read_overlay(OVERLAY)
    assert first.lesion_types == [
        {"": "MASS", "SHAPE": "IRREGULAR-ARCHITECTURAL_DISTORTION", "MARGINS": "SPICULATED"},
        {"": "CALCIFICATION", "TYPE": "PLEOMORPHIC", "DISTRIBUTION": "CLUSTERED"},
    ]
    assert (first.assessment, first.subtlety, first.pathology) == (5, 3, "MALIGNANT")
    assert (len(first.boundaries), len(first.cores)) == (1, 1)
    # TOTAL_OUTLINES says 3: the chains that are there count.
    assert (len(second.boundaries), len(second.cores)) == (1, 0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "no ABNORMALITY"), ("PATHOLOGY BENIGN", "before the first"), (OVERLAY[:-4], "abnormality 2, BOUNDARY")],
)
def test_a_broken_overlay_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        read_overlay(text)


# --- the inventory


def test_identity_scanner_and_size(tmp_path):
    make_case(tmp_path)
    image = images_of(tmp_path).loc["B_9018_1.LEFT_CC"]
    assert image["patient_id"] == "B-9018"
    assert image["study_id"] == "B-9018-1"
    assert image["group_id"] == "ddsm:B-9018"
    assert (image["laterality"], image["view_position"], image["site"]) == ("L", "CC", "WFU")
    assert (image["height"], image["width"], image["bits_stored"], image["age"]) == (100, 60, 12, 62)
    assert (image["machine"], image["pixel_spacing_mm"]) == ("LUMISYS", 0.05)
    assert (image["breast_density"], image["density_native"]) == ("DENSITY B", "2")
    assert (image["file_format"], image["presentation"]) == ("ljpeg", "film")
    assert image["path"] == "cancers/cancer_01/case9018/B_9018_1.LEFT_CC.LJPEG"


def test_marked_unmarked_and_other_breast(tmp_path):
    make_case(tmp_path)
    images = images_of(tmp_path)
    marked, unmarked, other = (images.loc[f"B_9018_1.{film}"] for film in ("LEFT_CC", "LEFT_MLO", "RIGHT_CC"))
    assert (marked["pathology"], marked["label_malignant"], marked["label_source"]) == ("MALIGNANT", 1, "pathology")
    assert (marked["breast_birads"], marked["label_scope"]) == ("BI-RADS 5", "lesion")
    assert (unmarked["pathology"], unmarked["label_source"], unmarked["uncertain"]) == (
        "NORMAL",
        "folder",
        "unmarked_view",
    )
    assert (other["label_malignant"], other["label_source"], other["uncertain"]) == (0, "folder", pd.NA)


def test_findings_and_their_boxes(tmp_path):
    make_case(tmp_path)
    first, second = ddsm.inventory(tmp_path).findings.to_dict("records")
    assert first["finding_categories"] == "['Mass', 'Architectural Distortion', 'Suspicious Calcification']"
    assert (first["geometry"], first["pathology"], first["finding_birads"]) == ("polygon", "MALIGNANT", "BI-RADS 5")
    points = np.array(json.loads(first["points"]))
    assert (first["xmin"], first["ymin"]) == tuple(points.min(axis=0))
    assert (first["xmax"], first["ymax"]) == tuple(points.max(axis=0) + 1)  # half-open
    attributes = json.loads(first["attributes"])
    assert attributes["mass_shape"] == ["IRREGULAR", "ARCHITECTURAL_DISTORTION"]
    assert attributes["cores"] == [[[12, 22], [13, 22], [13, 23], [12, 23], [12, 22]]]
    # The second chain leaves the film of 60 columns and 100 rows.
    assert [second[name] for name in ("xmin", "ymin", "xmax", "ymax")] == [57, 98, 60, 100]
    assert np.max(json.loads(second["points"]), axis=0).tolist() == [59, 99]
    assert second["finding_categories"] == "['Suspicious Lymph Node']"
    assert "mass_margins" not in json.loads(second["attributes"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [("UNPROVEN", "UNPROVEN"), ("BENIGN_WITHOUT_CALLBACK", "BENIGN"), ("MALIGNANT", "MALIGNANT")],
)
def test_the_worst_lesion_decides(tmp_path, words, expected):
    make_case(tmp_path, OVERLAY.replace("PATHOLOGY MALIGNANT", f"PATHOLOGY {words}"))
    image = images_of(tmp_path).loc["B_9018_1.LEFT_CC"]
    assert image["pathology"] == expected
    assert pd.isna(image["label_malignant"]) == (expected == "UNPROVEN")


@pytest.mark.parametrize(
    ("volume", "pathology", "uncertain"),
    [
        ("normals/normal_12", "NORMAL", pd.NA),
        ("cancer_01", pd.NA, "missing_overlay"),
        ("my_films", pd.NA, "unknown_volume"),
    ],
)
def test_a_case_without_overlays_is_judged_by_its_volume(tmp_path, volume, pathology, uncertain):
    make_case(tmp_path, None, ICS.replace(" OVERLAY", " NON_OVERLAY"), volume)
    image = images_of(tmp_path).loc["B_9018_1.LEFT_CC"]
    assert pathology is image["pathology"] or image["pathology"] == pathology
    assert uncertain is image["uncertain"] or image["uncertain"] == uncertain


def test_a_volume_can_be_the_root_itself(tmp_path):
    make_case(tmp_path, None, ICS.replace(" OVERLAY", " NON_OVERLAY"), "normals/normal_12")
    assert set(images_of(tmp_path / "normals" / "normal_12")["pathology"]) == {"NORMAL"}


@pytest.mark.parametrize(
    ("overlay", "word", "said"),
    [
        (None, "missing_overlay", "has an overlay, which is not there"),
        (OVERLAY[:200], "unreadable_overlay", "LEFT_CC.OVERLAY cannot be read"),
        (OVERLAY.replace("MALIGNANT", "MALIGN"), "unreadable_overlay", "unknown PATHOLOGY 'MALIGN'"),
        (OVERLAY.replace("LESION_TYPE MASS", "LESION_TYPE MAS"), "unreadable_overlay", "unknown LESION_TYPE 'MAS'"),
    ],
)
def test_a_film_whose_overlay_cannot_be_trusted_is_unlabelled(tmp_path, caplog, overlay, word, said):
    make_case(tmp_path, overlay)
    image = images_of(tmp_path).loc["B_9018_1.LEFT_CC"]
    assert (image["uncertain"], image["use"]) == (word, "unlabelled")
    assert said in caplog.text


def test_what_is_missing_stays_in_the_table(tmp_path):
    folder = make_case(tmp_path)
    (folder / "B_9018_1.LEFT_MLO.LJPEG").unlink()
    image = images_of(tmp_path).loc["B_9018_1.LEFT_MLO"]
    assert (image["use"], image["excluded_reason"], image["path"]) == ("excluded", "missing_file", pd.NA)


@pytest.mark.parametrize("ics", ["", ICS.split("SEQUENCE")[0]])
def test_films_of_an_unreadable_ics_file_are_excluded(tmp_path, caplog, ics):
    make_case(tmp_path, ics=ics)
    images = images_of(tmp_path)
    assert len(images) == 3
    assert set(images["excluded_reason"]) == {"not_in_ics"}
    assert "B-9018-1.ics cannot be read" in caplog.text


def test_an_unknown_scanner_excludes_the_film(tmp_path):
    make_case(tmp_path, ics=ICS.replace("LUMISYS LASER", "KODAK"))
    assert set(images_of(tmp_path)["excluded_reason"]) == {"unknown_digitizer"}


def test_leftovers_are_ignored_and_a_gzip_film_is_not(tmp_path):
    folder = make_case(tmp_path)
    for name in ("B_9018_1.LEFT_CC.LJPEG.1", "B-9018-1.ics~", "B_9018_1.RIGHT_CC.OVERLAYu", "a.html~", "#mv.sh#"):
        (folder / name).write_text("junk")
    film = folder / "B_9018_1.RIGHT_CC.LJPEG"
    film.rename(film.with_name(f"{film.name}.gz"))
    images = images_of(tmp_path)
    assert len(images) == 3
    assert images["path"].notna().all()
    assert images.loc["B_9018_1.RIGHT_CC", "path"].endswith(".LJPEG.gz")


def test_a_case_in_two_volumes_is_kept_once(tmp_path, caplog):
    make_case(tmp_path)
    make_case(tmp_path, volume="benigns/benign_01")
    images = images_of(tmp_path)
    assert len(images) == 6
    assert (images["excluded_reason"] == "duplicate_case").sum() == 3
    assert "is the same case as" in caplog.text
    assert len(ddsm.inventory(tmp_path).findings) == 2


# --- wrong and incomplete trees


def test_a_wrong_directory_says_what_belongs_there(tmp_path):
    with pytest.raises(UserError, match="is empty: put the volumes"):
        ddsm.inventory(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"no case file such as A-1234-1\.ics lies below .*: put the volumes"):
        ddsm.inventory(tmp_path)
    with pytest.raises(UserError, match="is not a directory"):
        ddsm.inventory(tmp_path / "absent")


def test_case_files_without_films_are_named(tmp_path):
    (tmp_path / "case1001").mkdir()
    (tmp_path / "case1001" / "A-1001-1.ics").write_text("ics_version 1.0\n")
    with pytest.raises(UserError, match=r"A-1001-1\.ics and the other \.ics files list no film"):
        ddsm.inventory(tmp_path)


def test_detection(tmp_path):
    assert ddsm.detect(tmp_path) is None
    make_case(tmp_path / "deep" / "DDSM")
    make_case(tmp_path / "deep" / "DDSM", volume="normals/normal_01")
    found = list(search(tmp_path))
    assert [(item.dataset, item.root.name, item.images_found) for item in found] == [("ddsm", "DDSM", 6)]
    assert "2618 of 2620 cases" in found[0].missing


# --- the phantom


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("ddsm") / "archive"
    phantom.write("ddsm", root, 10, 3)
    return root


def test_phantom_inventory(drawn, caplog):
    caplog.set_level(logging.WARNING)
    images, findings, exams = ddsm.inventory(drawn)
    assert (len(images), len(exams)) == (40, 10)
    assert images["excluded_reason"].value_counts().to_dict() == {"missing_file": 1}
    assert set(images["machine"]) == {"DBA", "HOWTEK-A", "LUMISYS", "HOWTEK-D"}
    assert set(images["pathology"].dropna()) == {"MALIGNANT", "BENIGN", "BENIGN_WITHOUT_CALLBACK", "UNPROVEN", "NORMAL"}
    assert findings["geometry"].eq("polygon").all()
    assert images["age"].isna().sum() == 4
    assert not caplog.records


def test_phantom_films_decode_to_the_size_of_the_ics_file(drawn):
    images = ddsm.inventory(drawn).images.dropna(subset="path")
    for image in images.astype(object).where(images.notna(), None).to_dict("records"):
        stored = read_listed(image, drawn)
        assert stored.pixels.shape == (image["height"], image["width"])
        # A film is smooth: neighbours differ little. With a wrong decoder they do not.
        grey = stored.pixels[5:].astype(float)
        assert np.median(np.abs(np.diff(grey, axis=1))) < 0.05 * np.ptp(grey)


def test_phantom_is_reproducible(tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    for root in (first, again):
        phantom.write("ddsm", root, 2, 5)
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((first / name).read_bytes() == (again / name).read_bytes() for name in files)
