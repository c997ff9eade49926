"""Lesion windows: where they lie, what is cut, and what the ledger says."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from made_images import breast_picture, dicom, save
from mammoflow import cli, crop, roi, settings, tables
from mammoflow import rows as plain
from mammoflow.errors import UserError
from mammoflow.imaging import decode
from mammoflow.imaging.errors import EmptyMask, NoBox

SECTION = settings.resolve_section("crop", {"margin": 0.25, "min_size_px": 32})


@st.composite
def box_and_frame(draw):
    height, width = draw(st.integers(1, 500)), draw(st.integers(1, 500))
    x0, y0 = draw(st.floats(0, width, exclude_max=True)), draw(st.floats(0, height, exclude_max=True))
    x1, y1 = draw(st.floats(x0, width)), draw(st.floats(y0, height))
    return (x0, y0, x1, y1), (height, width)


@given(box_and_frame(), st.floats(0, 2), st.integers(1, 300))
def test_the_window_holds_the_box_and_stays_inside_the_frame(case, margin, min_size):
    box, (height, width) = case
    x0, y0, x1, y1 = roi.roi_window(box, (height, width), margin, min_size)
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    assert x0 <= box[0]
    assert y0 <= box[1]
    assert x1 >= box[2]
    assert y1 >= box[3]
    assert x1 - x0 >= min(min_size, width)
    assert y1 - y0 >= min(min_size, height)


@given(box_and_frame(), st.floats(0, 1), st.integers(1, 100))
def test_the_window_is_not_larger_than_asked(case, margin, min_size):
    box, shape = case
    x0, y0, x1, y1 = roi.roi_window(box, shape, margin, min_size)
    border = margin * max(box[2] - box[0], box[3] - box[1])
    assert x1 - x0 <= max(box[2] - box[0] + 2 * border + 2, min_size)
    assert y1 - y0 <= max(box[3] - box[1] + 2 * border + 2, min_size)


@pytest.mark.parametrize(
    ("box", "window"),
    [
        ((100, 100, 140, 120), (90, 90, 150, 130)),  # 0.25 of the longer side, 40, on each side
        ((100, 100, 104, 104), (86, 86, 118, 118)),  # at least 32 pixels, about the same centre
        ((0, 0, 4, 4), (0, 0, 32, 32)),  # moved inward, not cut
        ((296, 196, 300, 200), (268, 168, 300, 200)),
    ],
)
def test_windows_by_hand(box, window):
    assert roi.roi_window(box, (200, 300), 0.25, 32) == window


def test_a_frame_smaller_than_the_window_is_taken_whole():
    assert roi.roi_window((1, 1, 3, 3), (10, 20), 5.0, 64) == (0, 0, 20, 10)


def test_clipping_and_boxes_outside():
    assert roi.clip_box((-5, 2, 8, 9), (10, 10)) == ((0, 2, 8, 9), True)
    assert roi.clip_box((1, 2, 8, 9), (10, 10)) == ((1, 2, 8, 9), False)
    for box in [(20, 2, 30, 9), (5, 5, 4, 9), (float("nan"), 1, 2, 3)]:
        with pytest.raises(NoBox):
            roi.clip_box(box, (10, 10))


def test_mask_boxes():
    mask = np.zeros((100, 80), np.uint8)
    mask[20:50, 10:30] = 255
    for shape, box, flags in [((100, 80), (10, 20, 30, 50), ()), ((200, 160), (20, 40, 60, 100), ("mask_resized",))]:
        marked, found = roi.marked_pixels(mask, shape)
        assert (marked.shape, roi.mask_box(marked), found) == (shape, box, flags)
    ringing = np.where(mask, mask, 3).astype(np.uint8)
    assert roi.mask_box(roi.marked_pixels(ringing, (100, 80), lossy=True)[0]) == (10, 20, 30, 50)
    with pytest.raises(EmptyMask):
        roi.mask_box(np.zeros((5, 5), np.uint8))


@given(box_and_frame(), st.integers(1, 300), st.integers(1, 300))
def test_a_fixed_window_has_its_size_and_says_what_it_loses(case, height, width):
    box, shape = case
    (x0, y0, x1, y1), flags = roi.fixed_window(box, shape, height, width)
    assert 0 <= x0 < x1 <= shape[1]
    assert 0 <= y0 < y1 <= shape[0]
    assert (y1 - y0, x1 - x0) == (min(height, shape[0]), min(width, shape[1]))
    assert ("roi_smaller_than_asked" in flags) == (height > shape[0] or width > shape[1])
    inside = x0 <= box[0] and y0 <= box[1] and box[2] <= x1 and box[3] <= y1
    assert ("lesion_exceeds_roi" in flags) != inside
    # Away from the frame's edges the lesion's centre is the window's, to within half a pixel.
    if x0 > 0 and x1 < shape[1]:
        assert abs((x0 + x1) - (box[0] + box[2])) <= 1 + 1e-6


def test_outlines_cover_the_areas_of_their_shapes():
    window = (10, 20, 110, 100)
    polygon = {"geometry": "polygon", "points": "[[30, 40], [90, 40], [60, 90]]"}
    filled = roi.outline_mask(polygon, (30, 40, 90, 90), window, None)
    assert filled.shape == (80, 100)
    assert abs((filled == 255).sum() - 1500) < 0.5 * (60 + 2 * 58.4)  # the outline itself counts as inside
    disc = roi.outline_mask({"geometry": "circle", "points": "[[60, 60], [25]]"}, (35, 35, 85, 85), window, None)
    assert abs((disc == 255).sum() - np.pi * 625) < 20
    assert np.argwhere(disc).mean(axis=0) == pytest.approx([39.5, 49.5])
    box = roi.outline_mask({"geometry": "bbox", "points": None}, (30.2, 40.6, 50.4, 60.0), window, None)
    assert (box == 255).sum() == 20 * 19
    for mask in (filled, disc, box):
        assert set(np.unique(mask)) == {0, 255}


# --- shards -------------------------------------------------------------------------------------------------------


def finding_row(name, image="image0", geometry="bbox", box=(60.0, 100.0, 100.0, 130.0), **more):
    corners = dict(zip(("xmin", "ymin", "xmax", "ymax"), box or [pd.NA] * 4, strict=True))
    ids = {"dataset": "dicom_folder", "finding_id": name, "image_id": image, "patient_id": "p1", "study_id": "s1"}
    return {**ids, "geometry": geometry, **corners, **more}


def findings_table(*rows):
    return tables.finish("findings", pd.DataFrame(rows))


@pytest.fixture
def archive(tmp_path):
    """Two images of 320 x 256, a mask of the first one, and an empty one. Returns (root, images)."""
    root = tmp_path / "raw"
    rows = []
    for number in range(2):
        save(
            dicom(breast_picture(seed=number), BitsStored=12, WindowCenter=2000, WindowWidth=3000),
            root / f"{number}.dcm",
        )
        ids = {"dataset": "dicom_folder", "image_id": f"image{number}", "study_id": "s1", "patient_id": "p1"}
        rows.append({**ids, "path": f"{number}.dcm", "file_format": "dicom", "group_id": "g", "use": "labelled"})
    mask = np.zeros((320, 256), np.uint8)
    mask[100:130, 60:100] = 255
    save(dicom(mask), root / "mask.dcm")
    save(dicom(mask[::2, ::2].copy()), root / "half.dcm")
    save(dicom(np.zeros_like(mask)), root / "empty.dcm")
    Image.fromarray(mask).save(root / "mask.jpg", quality=70)
    return root, tables.finish("images", pd.DataFrame(rows))


def run(root, images, findings, store, **section):
    values = settings.resolve_section("crop", {"margin": 0.25, "min_size_px": 32, **section})
    jobs = plain.from_frame(images), plain.from_frame(findings)
    rows = crop.crop_findings("dicom_folder", *jobs, root, store, values, threads=2)
    return tables.finish("crop_ledger", pd.DataFrame(rows)).set_index("finding_id", drop=False)


def test_a_box_is_cut_from_the_original_pixels_by_the_same_window(archive, tmp_path):
    root, images = archive
    row = run(root, images, findings_table(finding_row("f1")), tmp_path / "store").loc["f1"]
    assert row["status"] == "ok"
    assert tuple(row[["roi_x0", "roi_y0", "roi_x1", "roi_y1"]]) == (50, 90, 110, 140)
    assert tuple(row[["xmin", "ymin", "xmax", "ymax"]]) == (60, 100, 100, 130)
    assert row["path"] == f"dicom_folder/{row['recipe']}/p1/f1.png"
    pixels = cv2.imread(str(tmp_path / "store" / row["path"]), cv2.IMREAD_UNCHANGED)
    stored = breast_picture(seed=0)[90:140, 50:110]
    np.testing.assert_array_equal(pixels, np.rint(np.clip((stored - 1999.5) / 2999 + 0.5, 0, 1) * 65535))
    assert json.loads(row["window"])["width"] == 3000.0


def test_all_findings_of_an_image_cost_one_reading(archive, tmp_path, monkeypatch):
    root, images = archive
    read, seen = decode.read_listed, tmp_path / "seen"

    def telling(image, root):
        with open(seen, "a") as file:  # the worker is another process
            file.write(image["image_id"])
        return read(image, root)

    monkeypatch.setattr(crop, "read_listed", telling)
    findings = findings_table(*(finding_row(f"f{n}", box=(n, n, n + 20, n + 20)) for n in range(5)))
    assert len(run(root, images, findings, tmp_path / "store")) == 5
    assert seen.read_text() == "image0"


def test_findings_without_geometry_have_no_row(archive, tmp_path):
    root, images = archive
    findings = findings_table(finding_row("f1"), finding_row("f2", geometry="none", box=None))
    assert list(run(root, images, findings, tmp_path / "store")["finding_id"]) == ["f1"]


def test_every_kind_of_geometry(archive, tmp_path):
    root, images = archive
    none = {"box": None}
    ledger = run(
        root,
        images,
        findings_table(
            finding_row("circle", geometry="circle", **none, points="[[80,115],[20]]"),
            finding_row("clipped", box=(-10.0, 300.0, 30.0, 330.0)),
            finding_row("empty", geometry="mask", **none, mask_path="empty.dcm"),
            finding_row("garbled", geometry="polygon", **none, points="[[1,2"),
            finding_row("half", geometry="mask", **none, mask_path="half.dcm"),
            finding_row("jpeg", geometry="mask", **none, mask_path="mask.jpg"),
            finding_row("lost", geometry="mask", **none),
            finding_row("mask", geometry="mask", **none, mask_path="mask.dcm"),
            finding_row("missing", geometry="mask", **none, mask_path="absent.dcm"),
            finding_row("nothing", geometry="bbox", **none),
            finding_row("outside", box=(900.0, 900.0, 950.0, 950.0)),
            finding_row("point", geometry="point", **none, points="[[80,115]]"),
            finding_row("polygon", geometry="polygon", **none, points="[[60,100],[100,110],[80,130]]"),
        ),
        tmp_path / "store",
    )
    boxes = {name: tuple(row[["xmin", "ymin", "xmax", "ymax"]]) for name, row in ledger.iterrows()}
    assert boxes["mask"] == boxes["half"] == boxes["polygon"] == (60, 100, 100, 130)
    assert np.abs(np.array(boxes["jpeg"]) - boxes["mask"]).max() <= 1
    assert boxes["circle"] == (60, 95, 100, 135)
    assert boxes["clipped"] == (0, 300, 30, 320)
    assert boxes["point"] == (80 - roi.POINT_BOX_PX / 2, 115 - roi.POINT_BOX_PX / 2, 88, 123)
    assert set(ledger.index[ledger["points"].notna()]) == {"mask", "half", "jpeg"}
    (ring,) = json.loads(ledger.loc["mask", "points"])
    assert np.abs([np.min(ring, axis=0) - [60, 100], np.max(ring, axis=0) - [100, 130]]).max() <= 0.25
    flags = ledger["flags"].dropna().to_dict()
    assert flags == {"clipped": "box_clipped", "half": "mask_resized", "point": "point_box"}
    errors = ledger["error"].dropna().str.split(":").str[0].to_dict()
    assert errors == {
        "empty": "EmptyMask",
        "garbled": "NoBox",
        "lost": "UnreadableFile",
        "missing": "UnreadableFile",
        "nothing": "NoBox",
        "outside": "NoBox",
    }
    assert (ledger.loc[list(errors), "status"] == "failed").all()
    assert ledger.loc[list(errors), "path"].isna().all()


def opened(store, path):
    return cv2.imread(str(store / path), cv2.IMREAD_UNCHANGED)


SHAPES = [
    ("circle", {"geometry": "circle", "box": None, "points": "[[80,115],[20]]"}, np.pi * 400),
    ("polygon", {"geometry": "polygon", "box": None, "points": "[[60,100],[100,110],[80,130]]"}, 500),
    ("mask", {"geometry": "mask", "box": None, "mask_path": "mask.dcm"}, 1200),
    ("boxed", {"geometry": "mask", "mask_path": "mask.dcm"}, 1200),  # the table gives the box as well
    ("box", {}, 1200),
]


def test_outlines_beside_the_crop_and_cut_out_of_it(archive, tmp_path):
    root, images = archive
    findings = findings_table(*(finding_row(name, **values) for name, values, _ in SHAPES))
    plain = run(root, images, findings, tmp_path / "store")
    masked = run(root, images, findings, tmp_path / "store", outline="mask")
    zeroed = run(root, images, findings, tmp_path / "store", outline="zero")
    assert plain["outline_path"].isna().all()
    assert zeroed["outline_path"].isna().all()
    for name, _, area in SHAPES:
        crop_pixels = opened(tmp_path / "store", plain.loc[name, "path"])
        outline = opened(tmp_path / "store", masked.loc[name, "outline_path"])
        np.testing.assert_array_equal(opened(tmp_path / "store", masked.loc[name, "path"]), crop_pixels)
        assert (outline.dtype, outline.shape) == (np.uint8, crop_pixels.shape)
        assert abs((outline == 255).sum() - area) < 0.08 * area + 40, name
        y, x = np.argwhere(outline).mean(axis=0) + 0.5
        assert (x + plain.loc[name, "roi_x0"], y + plain.loc[name, "roi_y0"]) == pytest.approx((80, 114.2), abs=1.2)
        np.testing.assert_array_equal(
            opened(tmp_path / "store", zeroed.loc[name, "path"]), np.where(outline, crop_pixels, 0)
        )


def test_a_lost_outline_is_made_again(archive, tmp_path, capsys):
    root, images = archive
    findings = findings_table(finding_row("f1"))
    first = run(root, images, findings, tmp_path / "store", outline="mask")
    assert words(capsys) == "done=1 reused=0 failed=0"
    run(root, images, findings, tmp_path / "store", outline="mask")
    assert words(capsys) == "done=0 reused=1 failed=0"
    (tmp_path / "store" / first.loc["f1", "outline_path"]).unlink()
    run(root, images, findings, tmp_path / "store", outline="mask")
    assert words(capsys) == "done=1 reused=0 failed=0"
    assert (tmp_path / "store" / first.loc["f1", "outline_path"]).is_file()


def test_crops_of_a_fixed_size(archive, tmp_path):
    root, images = archive
    findings = findings_table(finding_row("f1"), finding_row("corner", box=(2.0, 3.0, 12.0, 13.0)))
    ledger = run(root, images, findings, tmp_path / "store", size_px=50)
    assert tuple(ledger.loc["f1", ["roi_x0", "roi_y0", "roi_x1", "roi_y1"]]) == (55, 90, 105, 140)
    assert tuple(ledger.loc["corner", ["roi_x0", "roi_y0", "roi_x1", "roi_y1"]]) == (0, 0, 50, 50)
    assert ledger["flags"].isna().all()
    ledger = run(root, images, findings, tmp_path / "store", size_px=24)
    assert ledger["flags"].dropna().to_dict() == {"f1": "lesion_exceeds_roi"}
    millimetres = images.assign(pixel_spacing_mm=pd.array([0.2] * len(images), dtype="Float64"))
    ledger = run(root, millimetres, findings, tmp_path / "store", size_mm=12.8)
    pixels = opened(tmp_path / "store", ledger.loc["f1", "path"])
    assert pixels.shape == (64, 64)
    ledger = run(root, images, findings, tmp_path / "store", size_mm=12.8)
    assert ledger["error"].str.startswith("NoSpacing: ").all()


def words(capsys):
    return capsys.readouterr().err.strip().splitlines()[-1].split(": ")[1].split(" (")[0]


def test_resuming_redoes_what_changed_and_nothing_else(archive, tmp_path, capsys):
    root, images = archive
    findings = findings_table(
        finding_row("f1"),
        finding_row("f2", image="image1", geometry="mask", box=None, mask_path="mask.dcm"),
        finding_row("f3", image="image1"),
    )
    store = tmp_path / "store"
    first = run(root, images, findings, store)
    assert words(capsys) == "done=3 reused=0 failed=0"
    second = run(root, images, findings, store)
    assert words(capsys) == "done=0 reused=3 failed=0"
    pd.testing.assert_frame_equal(first.drop(columns="seconds"), second.drop(columns="seconds"))
    (store / first.loc["f3", "path"]).unlink()
    run(root, images, findings, store)
    assert words(capsys) == "done=1 reused=2 failed=0"
    moved = findings.assign(xmin=findings["xmin"] + 5)
    assert run(root, images, moved, store).loc["f1", "xmin"] == 65
    assert words(capsys) == "done=2 reused=1 failed=0"
    mask = np.zeros((320, 256), np.uint8)
    mask[10:20, 30:40] = 1
    save(dicom(mask), root / "mask.dcm")
    assert run(root, images, moved, store).loc["f2", "xmin"] == 30
    assert words(capsys) == "done=1 reused=2 failed=0"
    other = run(root, images, moved, store, margin=0.5)
    assert words(capsys) == "done=3 reused=0 failed=0"
    assert (other["recipe"] != first["recipe"]).all()


def test_a_broken_image_fails_its_own_findings_only(archive, tmp_path):
    root, images = archive
    data = (root / "0.dcm").read_bytes()
    (root / "0.dcm").write_bytes(data[: len(data) // 2])
    ledger = run(root, images, findings_table(finding_row("f1"), finding_row("f2", image="image1")), tmp_path / "store")
    assert list(ledger["status"]) == ["failed", "ok"]
    assert ledger.loc["f1", "error"].startswith("TruncatedPixelData: ")
    assert len(list((tmp_path / "store").rglob("*.png"))) == 1


def test_a_finding_of_another_shard_is_refused(archive, tmp_path):
    root, images = archive
    with pytest.raises(UserError, match="image7"):
        run(root, images, findings_table(finding_row("f1", image="image7")), tmp_path / "store")


def test_the_command_line(archive, tmp_path, capsys):
    root, images = archive
    tables.write(images, tmp_path / "0000-of-0001.csv")
    tables.write(findings_table(finding_row("f1")), tmp_path / "0000-of-0001.findings.csv")
    command = [
        "crop", "dicom_folder", "--shard", str(tmp_path / "0000-of-0001.csv"), "--root", str(root),
        "--findings", str(tmp_path / "0000-of-0001.findings.csv"), "--store", str(tmp_path / "store"),
        "--ledger", str(tmp_path / "crop.parquet"), "--settings", '{"bits": 8}', "--threads", "1",
    ]  # fmt: skip
    assert cli.main(command) == 0
    assert "crop dicom_folder 0000-of-0001: done=1 reused=0 failed=0" in capsys.readouterr().err
    row = tables.read(tmp_path / "crop.parquet", "crop_ledger").iloc[0]
    assert cv2.imread(str(tmp_path / "store" / row["path"]), cv2.IMREAD_UNCHANGED).dtype == np.uint8
    tables.write(findings_table(finding_row("f1")).iloc[:0], tmp_path / "0000-of-0001.findings.csv")
    assert cli.main(command) == 0
    assert len(tables.read(tmp_path / "crop.parquet", "crop_ledger")) == 0
    tables.write(findings_table(finding_row("f1")), tmp_path / "0000-of-0001.findings.csv")
    root.rename(tmp_path / "away")
    assert cli.main(command) == 2
    assert f"{root} holds none of the" in capsys.readouterr().err
    assert (tmp_path / "store" / row["path"]).is_file()
