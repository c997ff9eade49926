import io
import json
import pickle
import tarfile

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from mammoflow import pack, tables
from mammoflow.cli import main
from mammoflow.errors import UserError
from training_cohort import write_cohort

sides = st.integers(1, 200)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """(manifest, store) of ten patients with images of 50 x 40 pixels."""
    directory, store = write_cohort(tmp_path_factory.mktemp("cohort"), patients=10, size=(50, 40))
    return tables.read(directory / "manifest.parquet", "manifest"), store


@given(sides, sides, sides, sides)
def test_fit_keeps_the_aspect_and_the_chest_wall_at_the_left(rows, columns, height, width):
    frame, place = pack.fit(np.full((rows, columns), 7, np.uint8), height, width)
    assert frame.shape == (height, width)
    assert place["content_height"] == height or place["content_width"] == width
    content = np.zeros_like(frame)
    top = place["offset_y"]
    content[top : top + place["content_height"], : place["content_width"]] = 7
    assert (frame == content).all()
    assert abs(top - (height - place["content_height"] - top)) <= 1  # centred
    # The two scales differ by no more than rounding to whole pixels demands.
    assert abs(place["scale_x"] - place["scale_y"]) <= 0.5 / rows + 0.5 / columns + max(0, 1 / columns, 1 / rows)


def test_a_box_lands_on_its_lesion(tmp_path):
    image = np.zeros((100, 60), np.uint16)
    image[40:60, 10:30] = 65535
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    row = {"dataset": "d", "image_id": "a", "image_path": "a.png"}
    manifest = tables.finish(
        "manifest",
        pd.DataFrame([{**row, "study_id": "s", "patient_id": "p", "group_id": "g", "label_policy": "l"}]),
    )
    pack.pack(manifest, tmp_path, tmp_path / "pack", (64, 64))
    images = pack.PackedImages(tmp_path / "pack")
    [[xmin, ymin, xmax, ymax]] = images.place(("d", "a"), [[10, 40, 30, 60]])
    bright_rows, bright_columns = np.nonzero(images["d", "a"] > 127)
    assert np.allclose([bright_columns.min(), bright_rows.min()], [xmin, ymin], atol=0.51)
    assert np.allclose([bright_columns.max() + 1, bright_rows.max() + 1], [xmax, ymax], atol=0.51)


def test_grey_values_scale_to_the_nearest():
    values = np.arange(65536, dtype=np.uint16)[None]
    assert (pack.to_bits(values, 8) == np.round(values / 257)).all()
    assert (pack.to_bits(pack.to_bits(values, 8), 16) == np.round(values / 257) * 257).all()
    assert pack.to_bits(values, 16) is values


@given(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=30))
def test_member_names_are_webdataset_keys_and_unique(first, second):
    names = [pack.member_name("rsna", text) for text in (first, second)]
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") for name in names)
    assert (names[0] == names[1]) == (first == second)


@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (16, np.uint16)])
def test_every_image_comes_back(cohort, tmp_path, bits, dtype):
    manifest, store = cohort
    pack.pack(manifest, store, tmp_path, (25, 20), bits=bits)
    images = pack.PackedImages(tmp_path)
    assert len(images) == len(manifest) == 40
    assert images.image_size == (25, 20)
    for row in manifest.itertuples():
        source = cv2.imread(str(store / row.image_path), cv2.IMREAD_UNCHANGED)
        wanted = pack.to_bits(cv2.resize(source, (20, 25), interpolation=cv2.INTER_AREA), bits)
        got = images[row.dataset, row.image_id]
        assert got.dtype == dtype
        assert (got == wanted).all()


def test_the_tars_open_without_us(cohort, tmp_path):
    manifest, store = cohort
    index = pack.pack(manifest, store, tmp_path, (25, 20), shard_bytes=8000)
    shards = sorted(tmp_path.glob("*.tar"))
    assert len(shards) > 2
    assert set(index["shard"]) == {shard.name for shard in shards}
    found = {}
    for shard in shards:
        assert shard.stat().st_size <= 8000 + tarfile.RECORDSIZE
        with tarfile.open(shard) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}
        for name in [name for name in members if name.endswith(".tif")]:
            note = json.loads(members[name.replace(".tif", ".json")])
            found[note["dataset"], note["image_id"]] = tifffile.imread(io.BytesIO(members[name]))
            assert note["label_malignant"] in (0, 1)
    images = pack.PackedImages(tmp_path)
    assert set(found) == set(images.keys())
    assert all((found[key] == images[key]).all() for key in found)


def test_bytes_depend_on_the_cohort_only(cohort, tmp_path):
    manifest, store = cohort
    for name, threads in [("one", 1), ("three", 3)]:
        pack.pack(manifest, store, tmp_path / name, (25, 20), threads=threads, shard_bytes=20000)
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "three"))
    assert first == second


def test_excluded_rows_are_not_packed(cohort, tmp_path):
    manifest, store = cohort
    manifest = manifest.copy()
    manifest.loc[:4, "exclude_reason"] = "duplicate"
    assert len(pack.pack(manifest, store, tmp_path, (25, 20))) == len(manifest) - 5
    manifest["exclude_reason"] = "duplicate"
    with pytest.raises(UserError, match="no image that takes part"):
        pack.pack(manifest, store, tmp_path, (25, 20))


def test_a_failed_pack_leaves_no_index_and_the_next_one_no_leftovers(cohort, tmp_path):
    manifest, store = cohort
    pack.pack(manifest, store, tmp_path, (25, 20), shard_bytes=8000)
    broken = manifest.copy()
    broken.loc[len(broken) - 1, "image_path"] = "synthetic/r0/gone.png"
    with pytest.raises(UserError, match=r"gone\.png does not exist"):
        pack.pack(broken, store, tmp_path, (25, 20), threads=2)
    assert not (tmp_path / pack.INDEX).exists()
    pack.pack(manifest, store, tmp_path, (25, 20))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0000.tar", pack.INDEX]


def test_a_colour_png_is_refused(cohort, tmp_path):
    manifest, _ = cohort
    path = tmp_path / manifest["image_path"][0]
    path.parent.mkdir(parents=True)
    cv2.imwrite(str(path), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(UserError, match="not a grey PNG"):
        pack.pack(manifest.head(1), tmp_path, tmp_path / "pack", (25, 20))


def test_a_truncated_shard_is_named(cohort, tmp_path):
    manifest, store = cohort
    pack.pack(manifest, store, tmp_path, (25, 20))
    shard = tmp_path / "0000.tar"
    shard.write_bytes(shard.read_bytes()[:6000])
    with pytest.raises(UserError, match=r"0000\.tar is cut short"):
        pack.PackedImages(tmp_path)
    shard.unlink()
    with pytest.raises(UserError, match=r"0000\.tar is missing"):
        pack.PackedImages(tmp_path)


def test_a_flipped_bit_is_named(cohort, tmp_path):
    manifest, store = cohort
    index = pack.pack(manifest, store, tmp_path, (25, 20))
    data = bytearray((tmp_path / "0000.tar").read_bytes())
    data[index["offset"][3] + 20] ^= 1
    (tmp_path / "0000.tar").write_bytes(data)
    images = pack.PackedImages(tmp_path)
    keys = images.keys()
    assert images[keys[2]].shape == (25, 20)
    with pytest.raises(UserError, match=f"0000.tar is damaged at synthetic/{keys[3][1]}"):
        images[keys[3]]


def test_an_open_pack_travels_to_another_process(cohort, tmp_path):
    manifest, store = cohort
    pack.pack(manifest, store, tmp_path, (25, 20))
    images = pack.PackedImages(tmp_path)
    key = images.keys()[0]
    pixels = images[key]  # now a file is open
    assert (pickle.loads(pickle.dumps(images))[key] == pixels).all()


def test_command(cohort, tmp_path, capsys):
    manifest, store = cohort
    tables.write(manifest, tmp_path / "cohort" / "manifest.parquet")
    arguments = ["pack", "--cohort", str(tmp_path / "cohort"), "--store", str(store), "--out", str(tmp_path / "pack")]
    assert main([*arguments, "--image-size", "25", "20", "--threads", "2"]) == 0
    assert capsys.readouterr().out.startswith("40 images in 1 shards")
    assert len(pack.PackedImages(tmp_path / "pack")) == 40
