"""Shards of made archives: the ledger, the store, resuming, and what one broken file may not do."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from pydicom import uid

from made_images import breast_picture, dicom, save
from mammoflow import cli, convert, settings, tables
from mammoflow import rows as plain
from mammoflow.errors import UserError
from mammoflow.imaging import png, supervise
from mammoflow.imaging.decode import read_image
from mammoflow.imaging.geometry import Geometry

SOURCES = Path(convert.__file__).parents[1]
SECTION = settings.resolve_section("convert", {"long_side": 200})
FULL = {"long_side": settings.resolve_section("convert", {})["long_side"]}


def image_row(name, path, laterality="L", patient="p1", **more):
    return {
        "dataset": "dicom_folder",
        "image_id": name,
        "study_id": "s1",
        "patient_id": patient,
        "path": path,
        "file_format": "dicom",
        "laterality": laterality,
        "group_id": f"dicom_folder:{patient}",
        "use": "labelled",
        **more,
    }


def files_below(directory):
    return {path for path in directory.rglob("*") if path.is_file()}


def table(rows):
    return tables.finish("images", pd.DataFrame(rows))


@pytest.fixture
def archive(tmp_path):
    """Three good images and their table. Returns (root, images)."""
    root = tmp_path / "raw"
    rows = []
    for number, (side, syntax) in enumerate(
        [("L", uid.ExplicitVRLittleEndian), ("R", uid.JPEGLosslessSV1), ("L", uid.JPEG2000Lossless)]
    ):
        picture = breast_picture(side=side, seed=number)
        name = f"image{number}"
        save(dicom(picture, syntax, BitsStored=12, WindowCenter=2000, WindowWidth=3000), root / f"{name}.dcm")
        rows.append(image_row(name, f"{name}.dcm", side, f"p{number % 2}"))
    return root, table(rows)


def run(root, images, store, capsys=None, **section):
    """Convert; returns the ledger and the counts of the summary line."""
    values = settings.resolve_section("convert", {"long_side": 200, **section})
    rows = convert.convert_images(
        "dicom_folder", plain.from_frame(images), root, store, values, threads=2, label="convert x 0000-of-0001"
    )
    ledger = tables.finish("convert_ledger", pd.DataFrame(rows))
    if capsys is None:
        return ledger
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("convert x 0000-of-0001: done=")
    return ledger, dict(word.split("=") for word in last.split(": ")[1].split(" (")[0].split())


def test_each_image_becomes_a_png_and_a_row(archive, tmp_path):
    root, images = archive
    ledger = run(root, images, tmp_path / "store")
    assert list(ledger["status"]) == ["ok"] * 3
    assert list(ledger["decoder"]) == ["pydicom", "imagecodecs", "imagecodecs"]
    assert ledger["error"].isna().all()
    for row in ledger.to_dict("records"):
        pixels = cv2.imread(str(tmp_path / "store" / row["path"]), cv2.IMREAD_UNCHANGED)
        assert pixels.dtype == np.uint16
        assert pixels.shape == (row["out_height"], row["out_width"])
        assert max(pixels.shape) == 200
        left, right = pixels[:, : pixels.shape[1] // 3], pixels[:, -pixels.shape[1] // 3 :]
        assert left.mean() > right.mean()  # the chest wall stands at the left
        assert row["path"] == f"dicom_folder/{row['recipe']}/{row['patient_id']}/{row['image_id']}.png"
        assert row["source_size"] == (root / f"{row['image_id']}.dcm").stat().st_size
        assert json.loads(row["window"])["center"] == 2000.0
    assert list(ledger["flip"]) == [False, True, False]


def test_the_pixels_are_the_window_s_and_lie_where_the_geometry_says(archive, tmp_path):
    root, images = archive
    ledger = run(root, images, tmp_path / "store", long_side=None)
    row = ledger.iloc[1]
    stored = read_image(root / "image1.dcm").pixels
    geometry = Geometry.from_row(row)
    working = cv2.imread(str(tmp_path / "store" / row["path"]), cv2.IMREAD_UNCHANGED)
    expected = np.clip((stored - 1999.5) / 2999 + 0.5, 0, 1)[
        geometry.crop_y0 : geometry.crop_y1, geometry.crop_x0 : geometry.crop_x1
    ]
    np.testing.assert_array_equal(working, np.rint(expected * 65535)[:, ::-1])


def test_eight_bits_and_the_full_frame(archive, tmp_path):
    root, images = archive
    ledger = run(root, images, tmp_path / "store", bits=8, crop=False, long_side=None)
    assert (ledger[["out_height", "out_width"]].to_numpy() == [320, 256]).all()
    pixels = cv2.imread(str(tmp_path / "store" / ledger["path"][1]), cv2.IMREAD_UNCHANGED)
    assert pixels.dtype == np.uint8
    assert ledger["flip"][1]
    assert pixels[:, :40].mean() > pixels[:, -40:].mean()


def test_raw_keeps_stored_values(archive, tmp_path):
    root, images = archive
    ledger = run(root, images, tmp_path / "store", intensity="raw", crop=False, long_side=None)
    pixels = cv2.imread(str(tmp_path / "store" / ledger["path"][0]), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(pixels, breast_picture(seed=0))


def test_a_second_run_decodes_nothing_and_gives_the_same_ledger(archive, tmp_path, capsys, monkeypatch):
    root, images = archive
    first, counts = run(root, images, tmp_path / "store", capsys)
    assert counts == {"done": "3", "reused": "0", "failed": "0"}

    def never(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(convert, "read_listed", never)
    second, counts = run(root, images, tmp_path / "store", capsys)
    assert counts == {"done": "0", "reused": "3", "failed": "0"}
    assert second["seconds"].isna().all()  # what was not made anew took no time
    pd.testing.assert_frame_equal(first.drop(columns="seconds"), second.drop(columns="seconds"))


def test_one_lost_png_redoes_exactly_one_image(archive, tmp_path, capsys):
    root, images = archive
    first = run(root, images, tmp_path / "store")
    (tmp_path / "store" / first["path"][1]).unlink()
    capsys.readouterr()
    second, counts = run(root, images, tmp_path / "store", capsys)
    assert counts == {"done": "1", "reused": "2", "failed": "0"}
    pd.testing.assert_frame_equal(first.drop(columns="seconds"), second.drop(columns="seconds"))


def test_a_half_written_png_of_another_tool_is_redone(archive, tmp_path, capsys):
    root, images = archive
    first = run(root, images, tmp_path / "store")
    path = tmp_path / "store" / first["path"][0]
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    capsys.readouterr()
    _, counts = run(root, images, tmp_path / "store", capsys)
    assert counts["done"] == "1"
    assert png.read_row(path) is not None


def test_a_changed_source_or_setting_redoes_what_it_touches(archive, tmp_path, capsys):
    root, images = archive
    first = run(root, images, tmp_path / "store")
    save(dicom(breast_picture(seed=9), BitsStored=12), root / "image0.dcm")
    capsys.readouterr()
    second, counts = run(root, images, tmp_path / "store", capsys)
    assert counts == {"done": "1", "reused": "2", "failed": "0"}
    assert second["source_sha256"][0] != first["source_sha256"][0]
    third, counts = run(root, images, tmp_path / "store", capsys, long_side=100)
    assert counts["done"] == "3"
    assert (third["recipe"] != first["recipe"]).all()
    corrected = images.assign(laterality=pd.array(["R", "R", "L"], dtype="string"))
    fourth, counts = run(root, corrected, tmp_path / "store", capsys)
    assert counts == {"done": "1", "reused": "2", "failed": "0"}
    assert fourth["flags"][0] == "laterality_disagrees"


def test_a_truncated_file_is_a_failed_row_without_a_png_and_is_mended_alone(archive, tmp_path, capsys):
    root, images = archive
    whole = (root / "image1.dcm").read_bytes()
    first = run(root, images, tmp_path / "store")
    (root / "image1.dcm").write_bytes(whole[: len(whole) // 2])
    capsys.readouterr()
    broken, counts = run(root, images, tmp_path / "store", capsys)
    assert counts == {"done": "0", "reused": "2", "failed": "1"}
    row = broken.iloc[1]
    assert (row["status"], row["error"].split(":")[0]) == ("failed", "TruncatedPixelData")
    assert pd.isna(row["path"])
    assert pd.isna(row["crop_x0"])
    assert not (tmp_path / "store" / first["path"][1]).exists()
    (root / "image1.dcm").write_bytes(whole)
    mended, counts = run(root, images, tmp_path / "store", capsys)
    assert counts == {"done": "1", "reused": "2", "failed": "0"}
    assert mended["source_sha256"][1] == first["source_sha256"][1]


def test_an_absent_file_and_a_text_file_are_rows_too(archive, tmp_path):
    root, images = archive
    (root / "image0.dcm").unlink()
    (root / "image2.dcm").write_text("no image" * 100)
    ledger = run(root, images, tmp_path / "store")
    assert list(ledger["status"]) == ["failed", "ok", "failed"]
    assert ledger["error"][0].startswith("UnreadableFile: image0.dcm: No such file")
    assert pd.isna(ledger["source_size"][0])


def test_an_archive_out_of_sight_stops_the_run_and_costs_no_finished_picture(archive, tmp_path, capsys):
    """Another node, or another user of a shared store, sees the archive and counts on the pictures."""
    root, images = archive
    tables.write(images, tmp_path / "0000-of-0001.csv")
    command = shard_command(root, tmp_path / "0000-of-0001.csv", tmp_path)
    assert cli.main(command) == 0
    finished = files_below(tmp_path / "store") | files_below(tmp_path / "out")
    assert len(finished) == 4
    for hide in (lambda: root.rename(tmp_path / "away"), root.mkdir):  # no mount point; an empty one
        hide()
        assert cli.main(command) == 2
        assert f"{root} holds none of the 3 images of 0000-of-0001.csv" in capsys.readouterr().err
        assert files_below(tmp_path / "store") | files_below(tmp_path / "out") == finished
    root.rmdir()
    (tmp_path / "away").rename(root)
    (root / "image0.dcm").rename(tmp_path / "image0.dcm")  # one file is lost: a row, but its picture was right
    counts = run(root, images, tmp_path / "store", capsys, **FULL)[1]
    assert counts == {"done": "0", "reused": "2", "failed": "1"}
    (tmp_path / "image0.dcm").rename(root / "image0.dcm")
    assert run(root, images, tmp_path / "store", capsys, **FULL)[1] == {"done": "0", "reused": "3", "failed": "0"}


def test_a_store_that_cannot_be_written_stops_the_run(archive, tmp_path):
    root, images = archive
    (tmp_path / "store").write_text("a file where the store should be")
    with pytest.raises(supervise.Unfinished, match=r"the store cannot be written .*Not a directory") as caught:
        run(root, images, tmp_path / "store")
    assert [row["error"].split(":")[0] for row in caught.value.rows] == ["StoreUnwritable"] * 3


def test_ids_with_odd_signs_get_safe_and_distinct_names(archive, tmp_path):
    root, images = archive
    odd = images.assign(image_id=pd.array(["a/b", "a_b", "../c"], dtype="string"), patient_id="p/1")
    ledger = run(root, odd, tmp_path / "store")
    assert ledger["path"].nunique() == 3
    for path in ledger["path"]:
        assert (tmp_path / "store" / path).resolve().is_relative_to((tmp_path / "store").resolve())
        assert all(part.strip(".") for part in path.split("/"))


def test_blank_and_disagreeing_images_are_flagged(tmp_path):
    root = tmp_path / "raw"
    save(dicom(np.full((64, 64), 7, np.uint16), BitsStored=12), root / "blank.dcm")
    save(dicom(breast_picture(side="R"), BitsStored=12, PresentationIntentType="FOR PROCESSING"), root / "right.dcm")
    images = table([image_row("blank", "blank.dcm", "R"), image_row("right", "right.dcm", "L")])
    ledger = run(root, images, tmp_path / "store")
    assert ledger["flags"][0] == "constant_image;no_breast_found;blank_image"
    assert tuple(ledger.loc[0, ["crop_x0", "crop_y0", "crop_x1", "crop_y1"]]) == (0, 0, 64, 64)
    assert ledger["flags"][1] == "for_processing;laterality_disagrees"


def shard_command(root, shard, tmp_path, *more):
    return [
        "convert", "dicom_folder", "--shard", str(shard), "--root", str(root), "--store", str(tmp_path / "store"),
        "--ledger", str(tmp_path / "out" / "0000-of-0001.parquet"), "--threads", "2", *more,
    ]  # fmt: skip


def test_the_command_line_writes_the_ledger(archive, tmp_path, capsys):
    root, images = archive
    tables.write(images, tmp_path / "0000-of-0001.csv")
    command = shard_command(root, tmp_path / "0000-of-0001.csv", tmp_path, "--settings", '{"long_side": 128}')
    assert cli.main(command) == 0
    ledger = tables.read(tmp_path / "out" / "0000-of-0001.parquet", "convert_ledger")
    assert list(ledger["image_id"]) == ["image0", "image1", "image2"]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "convert dicom_folder 0000-of-0001: done=3 reused=0 failed=0" in captured.err


def test_an_empty_shard_gives_an_empty_ledger(archive, tmp_path):
    root, images = archive
    tables.write(images.iloc[:0], tmp_path / "0000-of-0001.csv")
    assert cli.main(shard_command(root, tmp_path / "0000-of-0001.csv", tmp_path)) == 0
    assert len(tables.read(tmp_path / "out" / "0000-of-0001.parquet", "convert_ledger")) == 0


def test_another_dataset_s_shard_is_refused(archive, tmp_path, capsys):
    root, images = archive
    tables.write(images.assign(dataset="mias"), tmp_path / "0000-of-0001.csv")
    assert cli.main(shard_command(root, tmp_path / "0000-of-0001.csv", tmp_path)) == 2
    assert "holds images of mias" in capsys.readouterr().err


def test_a_shard_without_paths_is_refused(archive, tmp_path):
    _, images = archive
    tables.write(images.assign(path=pd.NA), tmp_path / "a.csv")
    with pytest.raises(UserError, match="has no path"):
        convert.read_shard(tmp_path / "a.csv", "dicom_folder")


def test_the_recipe_follows_settings_and_rule():
    assert settings.convert_recipe("dicom_folder", SECTION) == settings.convert_recipe("rsna", SECTION)
    assert settings.convert_recipe("dicom_folder", SECTION) != settings.convert_recipe("mias", SECTION)
    assert settings.convert_recipe("mias", SECTION) != settings.convert_recipe("mias", {**SECTION, "bits": 8})


def test_convert_file_prints_the_row_and_writes_the_png(archive, tmp_path, capsys):
    root, _ = archive
    out = tmp_path / "one.png"
    assert cli.main(["convert-file", str(root / "image1.dcm"), "--out", str(out)]) == 0
    row = json.loads(capsys.readouterr().out)
    assert list(row) == list(tables.CONVERT_LEDGER)
    assert (row["status"], row["path"], row["decoder"]) == ("ok", "one.png", "imagecodecs")
    assert cv2.imread(str(out), cv2.IMREAD_UNCHANGED).shape == (row["out_height"], row["out_width"])


def test_convert_file_never_overwrites_what_it_reads(archive, tmp_path, capsys):
    raw = tmp_path / "raw.dcm"
    raw.write_bytes((archive[0] / "image1.dcm").read_bytes())
    link = tmp_path / "link.png"
    link.symlink_to(raw)
    before = raw.read_bytes()
    for out in (raw, tmp_path / "." / "raw.dcm", link):
        assert cli.main(["convert-file", str(raw), "--out", str(out)]) == 2
        assert "give another --out" in capsys.readouterr().err
    assert raw.read_bytes() == before
    assert cli.main(["convert-file", str(link), "--out", str(raw)]) == 2
    assert raw.read_bytes() == before


def test_convert_file_says_why_it_failed(tmp_path, capsys):
    (tmp_path / "a.dcm").write_text("no image" * 50)
    assert cli.main(["convert-file", str(tmp_path / "a.dcm"), "--out", str(tmp_path / "a.png")]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["status"] == "failed"
    assert "could not be converted: " in captured.err
    assert not (tmp_path / "a.png").exists()
    assert cli.main(["convert-file", str(tmp_path / "absent"), "--out", str(tmp_path / "a.png")]) == 2


def test_converting_loads_neither_torch_nor_rich():
    code = "import sys, mammoflow.convert, mammoflow.crop; print({'torch', 'rich', 'scipy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(SOURCES)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_a_killed_run_leaves_whole_files_and_is_completed(archive, tmp_path):
    """SIGKILL while the second image is being decoded: the ledger is absent, the store holds whole PNGs only."""
    root, images = archive
    tables.write(images, tmp_path / "0000-of-0001.csv")
    command = shard_command(root, tmp_path / "0000-of-0001.csv", tmp_path)
    command[command.index("--threads") + 1] = "1"
    code = (
        "import os, signal, sys\n"
        "from mammoflow import cli, convert\n"
        "read = convert.read_listed\n"
        "def killing(image, *others):\n"
        "    if image['image_id'] == 'image1': os.killpg(0, signal.SIGKILL)\n"
        "    return read(image, *others)\n"
        "convert.read_listed = killing\n"
        "cli.main(sys.argv[1:])\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, *command],
        env={"PYTHONPATH": str(SOURCES)},
        start_new_session=True,  # the job and its worker, and nobody else
        check=False,
    )
    assert killed.returncode == -9
    assert not list((tmp_path / "out").glob("*.parquet"))
    written = list((tmp_path / "store").rglob("*.png"))
    assert [png.read_row(path)["image_id"] for path in written] == ["image0"]
    assert cli.main(command) == 0
    ledger = tables.read(tmp_path / "out" / "0000-of-0001.parquet", "convert_ledger")
    assert list(ledger["status"]) == ["ok"] * 3
