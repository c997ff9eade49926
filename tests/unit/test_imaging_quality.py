"""Faults drawn into phantoms are seen, faultless phantoms and real films are not accused, and headers speak too."""

import json
from functools import cache

import cv2
import numpy as np
import pandas as pd
import pytest
from pydicom.dataset import Dataset
from test_imaging_breast import REAL, find

from made_images import dicom, save
from mammoflow import convert, settings, tables
from mammoflow.imaging import acquisition, quality
from mammoflow.imaging.decode import read_image
from mammoflow.imaging.flags import FLAGS
from mammoflow.phantom.anatomy import Woman, draw_breast
from mammoflow.phantom.mg_dicom import view_code
from mammoflow.rows import from_frame

SHAPE = (1664, 1280)
NAME = ["DOE^JANE 1961-03-02", "ID 4711-0815"]


def ledger(rows):
    return tables.finish("convert_ledger", pd.DataFrame(rows))


@cache
def draw(view="MLO", density="C", side="L", marker="L MLO", seed=0):
    """A phantom without faults, float32 0..1, and where its breast is."""
    rng = np.random.default_rng(seed)
    woman = Woman.draw(rng, density)
    drawn = draw_breast(SHAPE, side, view, woman.density, [], rng, woman=woman, marker=marker)
    return drawn.pixels, drawn.breast_mask


def stored(grey):
    return np.rint(np.clip(grey, 0, 1) * 4095).astype(np.uint16)


def measured(pixels, bits=12):
    measures = quality.measure(find(pixels, bits=bits))
    return measures, set(quality.flags_of(measures))


def written(grey, lines, scale):
    ink = np.zeros(SHAPE, np.uint8)
    for number, line in enumerate(lines):
        (width, height), _ = cv2.getTextSize(line, cv2.FONT_HERSHEY_SIMPLEX, scale, 2)
        place = (SHAPE[1] - width - 20, int((number + 1) * 1.8 * height) + 15)
        cv2.putText(ink, line, place, cv2.FONT_HERSHEY_SIMPLEX, scale, 230, round(2 * scale))
    return np.where(ink > 0, ink / 255, grey)


def with_fault(fault):
    grey, breast = draw()
    height, width = SHAPE
    field = np.zeros(SHAPE, bool)
    field[height // 4 : 3 * height // 4, width // 12 : 7 * width // 12] = True
    if fault == "text_suspected":
        grey = written(grey, NAME, 1.2)
    elif fault == "inverted_grey":
        grey = 1 - grey
    elif fault == "noise_only":
        grey = np.random.default_rng(1).normal(0.2, 0.02, SHAPE)
    elif fault == "blank_image":
        grey = np.full(SHAPE, 0.1) + np.random.default_rng(1).normal(0, 0.0005, SHAPE)
    elif fault == "saturated":
        grey = grey * 3
    elif fault == "implant_suspected":
        body = np.zeros(SHAPE, np.float32)
        cv2.ellipse(body, (round(0.22 * width), height // 2), (round(0.24 * width), height // 5), 0, 0, 360, 0.92, -1)
        grey = np.maximum(grey, cv2.GaussianBlur(body, (0, 0), 3) * breast)
    elif fault == "straight_edge":  # a spot paddle: less light outside
        grey = np.where(field, grey, grey * 0.6)
    elif fault == "rectangular_field":  # collimation: nothing outside
        grey = np.where(field, grey, 0)
    elif fault == "bright_background":  # magnified: tissue to all edges
        grey = cv2.resize(grey[500:1000, 150:550], SHAPE[::-1], interpolation=cv2.INTER_LINEAR)
    elif fault == "breast_cut_off":
        grey = np.hstack([np.zeros((height, 700), np.float32), grey[:, : width - 700]])[:, ::-1]
    return stored(grey)


@pytest.mark.parametrize("fault", list(quality.THRESHOLDS))
def test_a_drawn_fault_is_flagged_and_its_number_passes_the_bound(fault):
    measures, flags = measured(with_fault(fault))
    name, bound, above = quality.THRESHOLDS[fault]
    value = getattr(measures, name)
    assert fault in flags
    assert value > bound if above else value < bound
    companions = {
        "inverted_grey": {"bright_background"},
        "saturated": {"implant_suspected"},  # one white body, indeed
        "implant_suspected": {"straight_edge"},  # its upper edge
        "blank_image": {"noise_only"},
    }
    assert flags - {fault} <= companions.get(fault, set())


@pytest.mark.parametrize("density", ["A", "D"])
@pytest.mark.parametrize(("view", "side"), [("CC", "L"), ("MLO", "R")])
def test_a_faultless_phantom_is_not_accused(view, side, density):
    for seed in range(2):
        grey, breast = draw(view, density, side, marker=f"{side} {view}", seed=seed)
        measures, flags = measured(stored(grey))
        assert flags == set()
        assert abs(measures.breast_fraction - breast.mean()) < 0.03
        assert measures.background_level == 0
        assert abs(measures.breast_level - np.median(grey[breast])) < 0.05
        assert (measures.side_score > 0) == (side == "L")


def test_a_breast_at_a_name_s_distance_is_not_writing_and_writing_has_both_polarities():
    plain, _ = draw(marker=None)
    assert measured(stored(plain))[0].text_score == 0
    plate = np.full((140, 560), 240, np.uint8)
    for number, line in enumerate(NAME):
        cv2.putText(plate, line, (15, 55 + 55 * number), cv2.FONT_HERSHEY_SIMPLEX, 1.2, 12, 3)
    plain = plain.copy()
    plain[20:160, 700:1260] = plate / 255
    assert "text_suspected" in measured(stored(plain))[1]


def test_more_writing_has_a_higher_score():
    grey, _ = draw(marker=None)
    scores = [measured(stored(written(grey, NAME[:1], 1.2)[:, :]))[0].text_score]
    scores.append(measured(stored(written(grey, NAME, 1.2)))[0].text_score)
    scores.append(measured(stored(written(grey, [*NAME, "ST ANNA HOSPITAL"], 1.2)))[0].text_score)
    assert scores == sorted(scores)
    assert scores[0] < scores[2]


@pytest.mark.real
@pytest.mark.skipif(not (REAL / "mini-mias").is_dir(), reason="the real films are not here")
def test_real_films_are_hardly_accused():
    """None of these films is blank, inverted, magnified or carries a name. Two straight edges: one is real."""
    counts: dict[str, int] = {}
    films = [(path, 8) for path in sorted((REAL / "mini-mias").glob("*.pgm"))]
    films += [(path, 16) for path in sorted((REAL / "cbis-ddsm-samples").glob("*.png"))]
    for path, bits in films:
        for flag in measured(read_image(path).pixels, bits)[1]:
            counts[flag] = counts.get(flag, 0) + 1
    assert len(films) == 46
    assert counts.keys() <= {"straight_edge"}
    assert counts.get("straight_edge", 0) <= 2


def test_measures_are_the_ledger_s_columns_and_every_flag_is_explained():
    assert list(quality.NAMES) == list(tables.QUALITY)
    assert set(quality.THRESHOLDS) <= set(FLAGS)
    assert {*acquisition.MODIFIERS.values()} <= set(FLAGS)
    nothing = quality.measure(find(np.zeros((40, 30), np.uint16)))
    assert nothing.breast_level is None
    assert json.dumps(nothing.as_row(), allow_nan=False)


def test_every_flag_is_documented(repository):
    page = (repository / "docs/flags.md").read_text(encoding="utf-8")
    for flag, meaning in FLAGS.items():
        assert f"| `{flag}` | {meaning} |" in page
    for flag, (name, bound, above) in quality.THRESHOLDS.items():
        assert f"| `{flag}` | `{name}` | {'above' if above else 'below'} {bound:g} |" in page


def header(**values):
    ds = Dataset()
    for name, value in values.items():
        setattr(ds, name, value)
    return ds


def coded(value):
    item = Dataset()
    item.CodeValue = value
    return item


@pytest.mark.parametrize(
    ("ds", "flags"),
    [
        (header(), ()),
        (header(PresentationIntentType="FOR PROCESSING"), ("for_processing",)),
        (header(SOPClassUID=acquisition.FOR_PROCESSING), ("for_processing",)),
        (header(BreastImplantPresent="YES", PartialView="YES"), ("implant", "partial_view")),
        (header(BreastImplantPresent="NO", PartialView="", BurnedInAnnotation="YES"), ("burned_in_annotation",)),
        (header(QualityControlImage="YES"), ("quality_control",)),
        (header(PaddleDescription="10CM SPOT"), ("spot_compression",)),
        (header(PaddleDescription="SPOTLESS 24x30"), ()),
        (header(EstimatedRadiographicMagnificationFactor="1.8"), ("magnification",)),
        (header(EstimatedRadiographicMagnificationFactor="1.08", PaddleDescription="18x24"), ()),
        (header(ViewModifierCodeSequence=[coded("R-102D7"), coded("399209000")]),
         ("spot_compression", "implant_displaced")),
        (header(ViewCodeSequence=[coded("127457009")]), ("specimen",)),
    ],
)  # fmt: skip
def test_flags_of_headers(ds, flags):
    assert acquisition.flags(ds) == flags


def test_modifiers_inside_the_view_s_item():
    views = view_code("CC")
    views[0].ViewModifierCodeSequence = [coded("399163009"), coded("0815")]
    assert acquisition.flags(header(ViewCodeSequence=views)) == ("magnification",)


def test_the_ledger_carries_numbers_and_flags(tmp_path):
    root = tmp_path / "raw"
    save(dicom(with_fault("text_suspected"), BitsStored=12, BreastImplantPresent="YES"), root / "a.dcm")
    images = pd.DataFrame([
        {"dataset": "dicom_folder", "image_id": "a", "study_id": "s", "patient_id": "p", "group_id": "g",
         "path": "a.dcm", "file_format": "dicom", "laterality": "R", "use": "labelled"},
    ])  # fmt: skip
    section = settings.resolve_section("convert", {"long_side": 200})
    rows = convert.convert_images(
        "dicom_folder", from_frame(tables.finish("images", images)), root, tmp_path / "s", section
    )
    row = ledger(rows).iloc[0]
    assert set(row["flags"].split(";")) == {"implant", "laterality_disagrees", "text_suspected"}
    assert row["text_score"] > quality.THRESHOLDS["text_suspected"][1]
    assert row["side_score"] > 0
    again = convert.convert_images(
        "dicom_folder", from_frame(tables.finish("images", images)), root, tmp_path / "s", section
    )
    assert ledger(again).drop(columns="seconds").equals(ledger(rows).drop(columns="seconds"))
