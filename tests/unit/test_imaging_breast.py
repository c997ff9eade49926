"""The breast box on made images with the disturbances of real ones, and on all real films at hand."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from made_images import breast_picture
from mammoflow import settings
from mammoflow.datasets.catalog import FINISHED
from mammoflow.imaging import breast, intensity
from mammoflow.imaging.decode import read_image
from mammoflow.imaging.header import Header
from mammoflow.imaging.working import make_working_image, orient, working_size

REAL = Path(os.environ.get("MAMMOFLOW_REAL_DATA") or Path(__file__).parents[3] / "shared" / "data")


def find(pixels, margin=0, bits=12, photometric="MONOCHROME2"):
    header = Header(*pixels.shape, bits_stored=bits, photometric=photometric)
    table = intensity.window_table(header, pixels.dtype.itemsize, FINISHED, 8)
    return breast.find(table.apply, pixels, margin)


def drawn_box(height=1600, width=1280, side="L"):
    """The half ellipse of breast_picture."""
    depth = 0.6 * width
    x0, x1 = (0, depth) if side == "L" else (width - depth, width)
    return np.array([x0, 0.1 * height, x1, 0.9 * height])


def disturbed(kind, side="L"):
    picture = breast_picture(1600, 1280, side, background=300 if kind == "film_base" else 0)
    near, far = (0, 1280) if side == "L" else (1280, 0)
    step = 1 if far > near else -1
    if kind == "label":
        picture[60:200, min(far - step * 60, far - step * 300) : max(far - step * 60, far - step * 300)] = 4095
    elif kind == "film_edge":
        picture[:25], picture[-25:] = 4095, 4095  # bright strips that touch the breast's column
        picture[:, min(far, far - step * 25) : max(far, far - step * 25)] = 4095
    elif kind == "black_border":
        picture[:, min(far, far - step * 200) : max(far, far - step * 200)] = 0
        picture[:80] = 0
    elif kind == "noise":
        picture = picture + np.random.default_rng(2).integers(0, 120, picture.shape).astype(np.uint16)
    return picture


@pytest.mark.parametrize("side", ["L", "R"])
@pytest.mark.parametrize("kind", ["clean", "label", "film_edge", "film_base", "black_border", "noise"])
def test_box_and_side(kind, side):
    found = find(disturbed(kind, side))
    box = np.array(found.box)
    drawn = drawn_box(side=side)
    assert (found.chest_wall, found.certain) == (side, True)
    assert (box[:2] <= drawn[:2] + 12).all()  # no tissue is lost
    assert (box[2:] >= drawn[2:] - 12).all()
    assert (np.abs(box - drawn) <= 40).all()  # and little background kept


def test_monochrome1_is_inverted_before_the_search():
    pixels = (4095 - breast_picture(1600, 1280)).astype(np.uint16)
    found = find(pixels, photometric="MONOCHROME1")
    assert np.abs(np.array(found.box) - drawn_box()).max() <= 40


def test_a_bright_background_is_recognised():
    """Unprocessed exposures: air is white, tissue dark, whatever the header calls it."""
    found = find((4095 - breast_picture(1600, 1280)).astype(np.uint16))
    assert np.abs(np.array(found.box) - drawn_box()).max() <= 40


def test_the_margin_is_kept_inside_the_frame():
    tight, wide = find(breast_picture(1600, 1280)), find(breast_picture(1600, 1280), margin=50)
    assert wide.box == (0, tight.box[1] - 50, tight.box[2] + 50, tight.box[3] + 50)
    assert find(breast_picture(1600, 1280), margin=5000).box == (0, 0, 1280, 1600)


def test_a_large_white_band_is_not_taken_for_the_breast():
    picture = breast_picture(1600, 1280) // 2
    picture[:, 850:] = 4095
    found = find(picture)
    assert found.box[2] < 850


@pytest.mark.parametrize("value", [0, 1234, 4095])
def test_a_blank_image_has_no_breast(value):
    assert find(np.full((400, 300), value, np.uint16)).box is None


def test_specks_are_no_breast():
    picture = np.zeros((1600, 1280), np.uint16)
    picture[::160, ::128] = 4095
    assert find(picture).box is None


@pytest.mark.parametrize(
    ("found", "laterality", "flip", "flags"),
    [
        (breast.Breast((0, 0, 9, 9), "L", True), "L", False, ()),
        (breast.Breast((0, 0, 9, 9), "R", True), "R", True, ()),
        (breast.Breast((0, 0, 9, 9), "R", True), None, True, ()),
        (breast.Breast((0, 0, 9, 9), "R", True), "L", True, ("laterality_disagrees",)),
        (breast.Breast((0, 0, 9, 9), "L", False), "R", True, ("orientation_uncertain",)),
        (breast.Breast((0, 0, 9, 9), "R", False), None, True, ("orientation_uncertain",)),
        (breast.Breast(None, "L", False), "R", True, ("no_breast_found",)),
        (breast.Breast(None, "L", False), None, False, ("no_breast_found",)),
    ],
)
def test_pixels_decide_the_orientation_and_the_table_where_they_do_not_tell(found, laterality, flip, flags):
    assert orient(found, laterality) == (flip, flags)


def test_working_size_only_shrinks():
    assert working_size(3000, 1500, 1536) == (1536, 768)
    assert working_size(1500, 3000, 1536) == (768, 1536)
    assert working_size(100, 50, 1536) == (100, 50)
    assert working_size(9000, 5000, None) == (9000, 5000)
    assert working_size(6000, 1, 32) == (32, 1)


real_films = pytest.mark.skipif(
    not (REAL / "mini-mias").is_dir(), reason=f"no mini-mias under {REAL} (set MAMMOFLOW_REAL_DATA)"
)
# Breasts that do not reach the film's lower or upper edge, checked by eye: x0, y0, x1, y1, to within 20 pixels.
SEEN = {
    "mdb001": (325, 0, 790, 885),
    "mdb010": (228, 0, 720, 920),
    "mdb015": (290, 0, 775, 750),
    "mdb075": (310, 0, 785, 925),
    "mdb117": (335, 0, 855, 850),
    "mdb148": (0, 0, 775, 955),
}


@pytest.mark.real
@real_films
def test_all_real_films_have_their_chest_wall_where_the_archive_says():
    """Odd numbers are right breasts, even ones left; in these 40 films all stand in the usual orientation."""
    films = sorted((REAL / "mini-mias").glob("*.pgm"))
    assert len(films) == 40
    for path in films:
        image = read_image(path)
        found = find(image.pixels, margin=16, bits=8)
        side = "R" if int(path.stem[3:]) % 2 else "L"
        assert (found.chest_wall, found.certain) == (side, True), path.stem
        x0, y0, x1, y1 = found.box
        assert 0.15 < (x1 - x0) * (y1 - y0) / image.pixels.size < 0.8, path.stem
        outside = image.pixels.copy()
        outside[y0:y1, x0:x1] = 0
        rows = outside[:, x0:x1]
        assert (rows > 60).mean() < 0.02, path.stem  # no tissue above or below the box
        if path.stem in SEEN:
            assert np.abs(np.array(found.box) - SEEN[path.stem]).max() <= 20, (path.stem, found.box)


@pytest.mark.real
@real_films
def test_a_real_film_s_circle_lands_on_the_same_tissue():
    """mdb001's lesion (535, 1024 - 425, radius 197), mapped into the working image, covers what it covered."""
    image = read_image(REAL / "mini-mias" / "mdb001.pgm")
    section = settings.resolve_section("convert", {"bits": 8, "long_side": 512})
    working = make_working_image(image, section, FINISHED, "R")
    assert working.geometry.flip
    box = np.array([[535 - 197, 599 - 197, 535 + 197, 599 + 197]], dtype=float)
    x0, y0, x1, y1 = np.rint(working.geometry.forward(box)[0]).astype(int)
    inside = cv2.flip(working.pixels, 1)
    width = working.pixels.shape[1]
    patch = inside[max(y0, 0) : y1, width - x1 : width - x0]
    stored = cv2.resize(image.pixels[402:796, 338:732], patch.shape[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(patch.astype(int) - stored).mean() < 2
