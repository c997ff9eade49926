"""The mini-MIAS adapter on a small tree written here: Info.txt with the real file's quirks, and tiny films."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from mammoflow import phantom
from mammoflow.datasets import mias
from mammoflow.datasets.detection import search
from mammoflow.errors import UserError

INFO = """\
3rd column: Class of abnormality present:
                CIRC - Well-defined/circumscribed masses
Rows such as mdb001 in the prose are not rows of the table.

mdb001 G CIRC B 535 425 197
mdb002 G NORM\x20
mdb003 D NORM
mdb004 F CIRC B
mdb005 F MISC B 20 1010 29
mdb005 F MISC M 313 540 27
mdb006 D CALC M *NOTE 3*\x20
"""


def write_film(folder: Path, number: int, size: int = 1024) -> None:
    pixels = np.zeros((size, size), np.uint8)
    (folder / f"mdb{number:03d}.pgm").write_bytes(f"P5\n{size} {size}\n255\n".encode() + pixels.tobytes())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "all-mias"
    root.mkdir()
    (root / "Info.txt").write_text(INFO, encoding="latin-1")
    for number in (1, 2, 3, 5):
        write_film(root, number)
    return root


def test_every_film_of_the_table_is_a_row(tree):
    images = mias.inventory(tree).images.set_index("image_id")
    assert list(images.index) == [f"mdb{number:03d}" for number in range(1, 7)]
    assert list(images["excluded_reason"].dropna().index) == ["mdb004", "mdb006"]
    assert set(images.loc[["mdb004", "mdb006"], "use"]) == {"excluded"}
    assert images["path"].dropna().tolist() == ["mdb001.pgm", "mdb002.pgm", "mdb003.pgm", "mdb005.pgm"]
    assert images.loc["mdb001", "source_size"] == 1024 * 1024 + 17


def test_identity_comes_from_the_film_number(tree):
    images = mias.inventory(tree).images.set_index("image_id")
    assert images["laterality"].tolist() == ["R", "L"] * 3
    assert images["patient_id"].tolist() == ["mias_p001"] * 2 + ["mias_p002"] * 2 + ["mias_p003"] * 2
    assert images["group_id"].iloc[0] == "mias:mias_p001"
    assert set(images["view_position"]) == {"MLO"}
    assert set(images["pixel_spacing_mm"]) == {0.2}
    assert set(images["presentation"]) == {"film"}


def test_truth_is_the_worst_lesion_and_normal_films_have_no_finding(tree):
    listed = mias.inventory(tree)
    truth = dict(zip(listed.images["image_id"], listed.images["pathology"], strict=True))
    assert truth == {
        "mdb001": "BENIGN",
        "mdb002": "NORMAL",
        "mdb003": "NORMAL",
        "mdb004": "BENIGN",
        "mdb005": "MALIGNANT",
        "mdb006": "MALIGNANT",
    }
    assert listed.images["label_scope"].tolist() == ["lesion", "image", "image", "lesion", "lesion", "lesion"]
    assert set(listed.images["label_source"]) == {"pathology"}
    assert listed.findings["image_id"].tolist() == ["mdb001", "mdb004", "mdb005", "mdb005", "mdb006"]
    assert listed.findings["pathology"].tolist() == ["BENIGN", "BENIGN", "BENIGN", "MALIGNANT", "MALIGNANT"]


def test_tissue_is_not_bi_rads_density(tree):
    images = mias.inventory(tree).images
    assert images["density_native"].tolist() == ["G", "G", "D", "F", "F", "D"]
    assert images["breast_density"].isna().all()


def test_circles_count_from_the_top_and_boxes_are_clipped(tree):
    findings = mias.inventory(tree).findings.set_index("finding_id")
    first = findings.loc["mdb001_1"]
    assert json.loads(first["points"]) == [[535, 1024 - 425], [197]]
    assert first[["xmin", "ymin", "xmax", "ymax"]].tolist() == [338, 402, 732, 796]
    assert findings.loc["mdb005_1", ["xmin", "ymin", "xmax", "ymax"]].tolist() == [0, 0, 49, 43]


def test_lesions_without_coordinates_stay(tree):
    findings = mias.inventory(tree).findings.set_index("finding_id")
    for name in ("mdb004_1", "mdb006_1"):
        assert findings.loc[name, "geometry"] == "none"
        assert findings.loc[name, ["points", "xmin", "ymax"]].isna().all()
    assert findings.loc["mdb006_1", "finding_categories"] == "['Suspicious Calcification']"
    assert findings.loc["mdb006_1", "finding_native"] == "CALC"


def test_a_film_of_another_height_sets_the_origin(tmp_path):
    (tmp_path / "README").write_text("mdb001 F SPIC M 30 40 8\n", encoding="latin-1")
    write_film(tmp_path, 1, size=128)
    listed = mias.inventory(tmp_path)
    assert listed.images[["height", "width"]].iloc[0].tolist() == [128, 128]
    assert json.loads(listed.findings["points"].iloc[0]) == [[30, 88], [8]]


def test_a_film_without_row_is_listed_as_unlabelled(tree):
    write_film(tree, 99)
    row = mias.inventory(tree).images.set_index("image_id").loc["mdb099"]
    assert (row["use"], row["label_source"], row["path"]) == ("unlabelled", "none", "mdb099.pgm")


def test_table_with_normal_films_only(tmp_path):
    (tmp_path / "Info.txt").write_text("mdb003 D NORM \n", encoding="latin-1")
    listed = mias.inventory(tmp_path)
    assert len(listed.images) == 1
    assert len(listed.findings) == 0


def test_archive_may_lie_one_folder_deeper(tree):
    images = mias.inventory(tree.parent).images
    assert images["path"].dropna().iloc[0] == "all-mias/mdb001.pgm"


def test_broken_film_keeps_its_path(tree):
    (tree / "mdb004.pgm").write_bytes(b"")
    row = mias.inventory(tree).images.set_index("image_id").loc["mdb004"]
    assert (row["path"], row["source_size"], row["use"]) == ("mdb004.pgm", 0, "labelled")


def test_absent_table_is_one_sentence(tmp_path):
    write_film(tmp_path, 1, size=32)
    with pytest.raises(UserError, match=r"holds no Info.txt.*put Info.txt"):
        mias.inventory(tmp_path)


def test_empty_and_absent_directories(tmp_path):
    with pytest.raises(UserError, match=r"is empty: put Info.txt"):
        mias.inventory(tmp_path)
    with pytest.raises(UserError, match="is not a directory"):
        mias.inventory(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "row",
    [
        "mdb001 X CIRC B 535 425 197",
        "mdb001 G BLOB B 535 425 197",
        "mdb001 G CIRC Q 535 425 197",
        "mdb001 G CIRC B 535 425",
        "mdb001 G CIRC B 535 425 wide",
        "mdb001 G CIRC",
    ],
)
def test_unknown_value_names_file_line_and_cure(tmp_path, row):
    (tmp_path / "Info.txt").write_text(f"prose\n{row}\n", encoding="latin-1")
    with pytest.raises(UserError, match=r"Info.txt, line 2: .*take the unchanged Info.txt"):
        mias.inventory(tmp_path)


def test_detect(tree, tmp_path):
    (found,) = search(tmp_path)
    assert (found.dataset, found.root, found.images_found) == ("mias", tree, 4)
    assert found.missing == ["318 of 322 films"]
    (tree / "Info.txt").unlink()
    assert mias.detect(tree).missing == ["Info.txt", "318 of 322 films"]
    assert mias.detect(tmp_path) is None


def test_another_readme_is_no_table(tmp_path):
    (tmp_path / "README").write_text("A project about mdb001.\n", encoding="utf-8")
    assert mias.detect(tmp_path) is None
    with pytest.raises(UserError, match=r"holds no Info.txt"):
        mias.inventory(tmp_path)


def test_phantom_circles_lie_on_their_lesions(tmp_path):
    """The phantom draws bright lesions and writes Info.txt with the origin at the bottom, as the archive does."""
    phantom.write("mias", tmp_path / "archive", patients=12, seed=3)
    listed = mias.inventory(tmp_path / "archive")
    assert listed.images["path"].notna().all()
    paths = listed.images.set_index("image_id")["path"]
    circles = listed.findings[listed.findings["geometry"] == "circle"]
    right, wrong = [], []
    for circle in circles.itertuples():
        film = cv2.imread(str(tmp_path / "archive" / paths[circle.image_id]), cv2.IMREAD_GRAYSCALE)
        ((x, y), _) = json.loads(circle.points)
        right.append(film[y, x])
        wrong.append(film[film.shape[0] - y, x])
    assert len(circles) >= 5
    assert np.mean(right) > np.mean(wrong)
