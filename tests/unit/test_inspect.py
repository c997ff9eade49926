"""``inspect``: the table says what the ledger says, and the picture shows the lesions where they are."""

import cv2
import numpy as np
import pytest

from made_images import breast_picture, dicom, save
from mammoflow import cli, convert, inspect, inspect_picture, phantom, settings, tables
from mammoflow.datasets import archive as catalogue_entry
from mammoflow.inventory import take_inventory


@pytest.fixture(scope="module")
def vindr(tmp_path_factory):
    """A synthetic archive with boxes and its inventory. Returns (root, results)."""
    place = tmp_path_factory.mktemp("inspected")
    phantom.write("vindr_mammo", place / "vindr", 1, 1)
    for name, table in take_inventory("vindr_mammo", place / "vindr", [])._asdict().items():
        tables.write(table, place / "results" / "vindr_mammo" / "inventory" / f"{name}.parquet")
    return place / "vindr", place / "results"


def marked_file(root, results):
    folder = results / "vindr_mammo" / "inventory"
    findings = tables.read(folder / "findings.parquet", "findings").query("geometry == 'bbox' and laterality == 'R'")
    images = tables.read(folder / "images.parquet", "images").set_index("image_id")
    finding = findings.iloc[0]
    return root / images.loc[finding["image_id"], "path"], finding


def test_without_an_archive_the_header_alone_speaks(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = breast_picture(side="R")
    save(dicom(picture, BitsStored=12, WindowCenter=2000, WindowWidth=3000, ImageLaterality="L",
               BreastImplantPresent="YES"), tmp_path / "a.dcm")  # fmt: skip
    assert cli.main(["inspect", "a.dcm", "--out", "drawn.png"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "tag WindowCenter", "tag BreastImplantPresent", "right in the stored image", "breast box", "flag implant",
        "flag laterality_disagrees", "text_score", "text_suspected above 16", "pixel spacing │ unknown",
    ):  # fmt: skip
        assert words in shown
    assert "finding" not in shown
    drawn = cv2.imread("drawn.png")
    assert drawn.shape[0] > 960
    assert (drawn == inspect_picture.BOX).all(axis=2).any()
    assert (drawn == inspect_picture.FLAG).all(axis=2).any()
    assert not (drawn == inspect_picture.LESION).all(axis=2).any()


def test_the_archive_s_tables_are_found_and_its_lesions_drawn(vindr, tmp_path, capsys, monkeypatch):
    root, results = vindr
    file, finding = marked_file(root, results)
    monkeypatch.chdir(results.parent)
    assert cli.main(["inspect", str(file), "--out", str(tmp_path / "drawn.png")]) == 0
    found = capsys.readouterr().out
    named = ["--inventory", str(results / "vindr_mammo" / "inventory")]
    monkeypatch.chdir(tmp_path)
    assert cli.main(["inspect", str(file), *named]) == 0
    assert found.startswith(capsys.readouterr().out)
    for words in ("table dataset", "vindr_mammo", "table laterality", "finding 1", f"{finding['xmin']:.0f}, "):
        assert words in found

    red = (cv2.imread(str(tmp_path / "drawn.png")) == inspect_picture.LESION).all(axis=2)
    listed = inspect.find_listed(file, None, results)
    stored, working = inspect.see(
        file, listed, settings.resolve_section("convert", {}), catalogue_entry("vindr_mammo").intensity
    )
    box = np.array([[finding[name] for name in ("xmin", "ymin", "xmax", "ymax")]], dtype=float)
    left, top, geometry = inspect_picture._GAP, inspect_picture._LINE + inspect_picture._GAP, working.geometry
    scale = 960 / stored.pixels.shape[0]
    beside = 2 * left + round(stored.pixels.shape[1] * scale)
    assert geometry.flip  # a right breast: mirrored in the working panel
    for corners, x in ((box * scale, left), (geometry.forward(box) * 960 / geometry.out_height, beside)):
        x0, y0, x1, y1 = np.rint(corners[0] + np.array([x, top, x, top])).astype(int)
        for side in (red[y0 + 10 : y1 - 10, [x0, x1 - 1]], red[[y0, y1 - 1], x0 + 25 : x1 - 10]):
            assert side.mean() > 0.9


def test_the_numbers_are_those_of_the_ledger(vindr):
    root, results = vindr
    file, _ = marked_file(root, results)
    listed = inspect.find_listed(file, None, results)
    section = settings.resolve_section("convert", {})
    rule = catalogue_entry("vindr_mammo").intensity
    stored, working = inspect.see(file, listed, section, rule)
    known = listed.image["laterality"], listed.image["pixel_spacing_mm"]
    _, row = convert.convert_stored(stored, {}, "x.png", section, rule, *known)
    rows = inspect.facts(stored, working, listed)
    for name in tables.QUALITY:
        assert rows[name].split()[0] == ("-" if row[name] is None else f"{row[name]:g}")
    assert rows["breast box"] == f"x {row['crop_x0']} to {row['crop_x1']}, y {row['crop_y0']} to {row['crop_y1']}"
    assert {name.removeprefix("flag ") for name in rows if name.startswith("flag ")} == set(working.flags)


@pytest.mark.parametrize("name", ["mias", "cbis_ddsm"])
def test_archives_of_circles_and_masks(name, tmp_path):
    phantom.write(name, tmp_path / name, 2, 2)
    listed = take_inventory(name, tmp_path / name, [])
    for kind, table in listed._asdict().items():
        tables.write(table, tmp_path / "results" / name / "inventory" / f"{kind}.parquet")
    with_place = listed.findings[listed.findings["geometry"] != "none"].iloc[0]
    path = listed.images.set_index("image_id").loc[with_place["image_id"], "path"]
    row = inspect.find_listed(tmp_path / name / path, None, tmp_path / "results")
    stored, working = inspect.see(tmp_path / name / path, row, settings.resolve_section("convert", {}),
                                  catalogue_entry(name).intensity)  # fmt: skip
    marks = inspect.marks_of(row, stored.pixels.shape)
    x0, y0, x1, y1 = marks[0].box
    assert 0 <= x0 < x1 <= stored.pixels.shape[1]
    assert 0 <= y0 < y1 <= stored.pixels.shape[0]
    page = inspect_picture.draw("x", stored, working, catalogue_entry(name).intensity, marks)
    assert (page == inspect_picture.LESION).all(axis=2).sum() > 200


def test_raw_and_small_images_can_be_drawn(tmp_path):
    save(dicom(breast_picture(), BitsStored=12), tmp_path / "a.dcm")
    save(dicom(np.full((9, 5), 3, np.uint16)), tmp_path / "tiny.dcm")
    for name, section in (("a.dcm", '{"intensity": "raw"}'), ("a.dcm", '{"crop": false}'), ("tiny.dcm", "{}")):
        out = tmp_path / "out.png"
        assert cli.main(["inspect", str(tmp_path / name), "--out", str(out), "--settings", section]) == 0
        assert cv2.imread(str(out)).std() > 5


def test_bad_input_is_one_sentence(vindr, tmp_path, capsys):
    _, results = vindr
    (tmp_path / "notes.txt").write_text("no image" * 40)
    save(dicom(breast_picture()), tmp_path / "a.dcm")
    folder = str(results / "vindr_mammo" / "inventory")
    for words, message in [
        ([str(tmp_path / "absent")], "is not a file"),
        ([str(tmp_path / "notes.txt")], "cannot be converted"),
        ([str(tmp_path / "a.dcm"), "--inventory", folder], "does not list"),
        ([str(tmp_path / "a.dcm"), "--inventory", str(tmp_path)], "does not exist"),
    ]:
        assert cli.main(["inspect", *words]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert len(said.splitlines()) == 1
