"""Side and view of a DICOM mammogram: the order of trust, and what counts as a contradiction."""

import pytest

from mammoflow.datasets.views import LATERALITY_CONFLICT, VIEW_CONFLICT, resolve


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"ViewPosition": "MLO", "ImageLaterality": "R"}, ("R", "MLO")),
        ({"ViewPosition": "cc", "Laterality": "L"}, ("L", "CC")),
        ({"ImageLaterality": "L", "Laterality": "R", "ViewPosition": "CC"}, ("L", "CC")),
        ({"ImageLaterality": "B"}, (None, None)),
        ({"ImageLaterality": "L", "ViewCodeSequence": ["399162004"]}, ("L", "CC")),
        ({"ImageLaterality": "L", "ViewCodeSequence": ["399368009"]}, ("L", "MLO")),
        ({"ImageLaterality": "L", "ViewCodeSequence": ["R-10242"]}, ("L", "CC")),
        ({"ImageLaterality": "L", "ViewCodeSequence": ["R-10226"]}, ("L", "MLO")),
        ({"ImageLaterality": "L", "ViewCodeSequence": ["R-102D5", "R-10226"]}, ("L", "MLO")),
        ({"PatientOrientation": ["A", "R"]}, ("L", "CC")),
        ({"PatientOrientation": ["A", "FR"]}, ("L", "MLO")),
        ({"PatientOrientation": "P\\L"}, ("R", "CC")),
        ({"PatientOrientation": ["P", "FL"]}, ("R", "MLO")),
        ({"PatientOrientation": ["A", "F"]}, (None, None)),
        ({"PatientOrientation": ["H", "R"]}, (None, None)),
        ({"PatientOrientation": ["A"]}, (None, None)),
        ({}, (None, None)),
    ],
)
def test_each_source_in_turn(header, expected):
    assert resolve(header)[:2] == expected
    assert resolve(header).flags == ()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("20586908_6c613a14b80a8591_MG_R_CC_ANON.dcm", ("R", "CC")),
        ("A_1141_1.LEFT_MLO.LJPEG", ("L", "MLO")),
        ("lcc.png", ("L", "CC")),
        ("skull_cc.dcm", (None, None)),
        ("RIGHT.dcm", (None, None)),
    ],
)
def test_the_file_name_is_the_last_resort(name, expected):
    assert resolve({}, file_name=name)[:2] == expected


def test_the_table_wins_and_the_contradiction_is_told():
    header = {"ImageLaterality": "R", "ViewPosition": "MLO"}
    assert resolve(header, laterality="L", view_position="CC") == ("L", "CC", (LATERALITY_CONFLICT, VIEW_CONFLICT))


def test_the_header_is_checked_by_the_orientation():
    header = {"ImageLaterality": "L", "ViewCodeSequence": ["399162004"], "PatientOrientation": ["P", "FL"]}
    assert resolve(header) == ("L", "CC", (LATERALITY_CONFLICT, VIEW_CONFLICT))


def test_an_exaggerated_view_is_no_contradiction_of_cc():
    header = {"ImageLaterality": "L", "ViewPosition": "XCCL", "PatientOrientation": ["A", "R"]}
    assert resolve(header) == ("L", "XCCL", ())
