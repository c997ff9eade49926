"""Which series a selection takes: whole exams, nested, fair; on made-up series and on the real index."""

from pathlib import Path
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammoflow.collect.http import Client
from mammoflow.collect.model import Series
from mammoflow.collect.pace import Pace
from mammoflow.collect.selection import choose, exam_of, read_patients
from mammoflow.collect.sources.idc import COLUMNS, Idc
from mammoflow.errors import UserError


def make(exam: str, number: int, size: int = 1_000_000, modality: str = "MG") -> Series:
    return Series(f"{exam}.{number}", exam, exam, modality, 1, size, "CC0", f"x/{exam}.{number}")


exams = st.dictionaries(st.text("abcdef", min_size=1, max_size=5), st.integers(1, 6), min_size=1, max_size=12)


@given(exams, st.integers(1, 40), st.floats(0.001, 0.04))
def test_whole_exams_under_every_limit_and_larger_limits_hold_smaller_sets(
    sizes: dict[str, int], max_series: int, max_gb: float
) -> None:
    series = [make(exam, k) for exam, count in sizes.items() for k in range(count)]
    try:
        chosen = choose(series, max_series=max_series, max_gb=max_gb)
    except UserError:
        return
    assert len(chosen) <= max_series
    assert sum(one.bytes for one in chosen) <= max_gb * 1e9
    for exam in {one.exam for one in chosen}:
        assert sum(one.exam == exam for one in chosen) == sizes[exam]
    larger = choose(series, max_series=max_series + 3, max_gb=max_gb + 1)
    assert {one.uid for one in chosen} <= {one.uid for one in larger}
    assert choose(list(reversed(series)), max_series=max_series, max_gb=max_gb) == chosen


def test_a_limit_below_the_first_exam_says_so() -> None:
    with pytest.raises(UserError, match=r"the first exam has 3 series and 0\.003 GB.*raise max_series or max_gb"):
        choose([make("a", k) for k in range(3)], max_series=2)


def test_modality_and_patients() -> None:
    series = [make("a", 0), make("a", 1, modality="MR"), make("b", 0)]
    assert {one.uid for one in choose(series, modality=["MG"])} == {"a.0", "b.0"}
    assert {one.uid for one in choose(series, patients=["a"])} == {"a.0", "a.1"}
    with pytest.raises(UserError, match=r"modality: the archive has no 'CT'; it has MG, MR"):
        choose(series, modality=["CT"])
    with pytest.raises(UserError, match=r"patients: the archive has no 'P_0001' \(did you mean 'P_00001'\?\)"):
        choose([make("P_00001", 0)], patients=["P_0001"])


def test_a_folder_name_of_cbis_brings_the_whole_woman() -> None:
    names = [
        "Mass-Training_P_00001_LEFT_CC",
        "Mass-Training_P_00001_LEFT_CC_1",
        "Calc-Test_P_00001_RIGHT_MLO",
        "Mass-Test_P_00002_LEFT_CC",
    ]
    series = [Series(n, n, exam_of("cbis_ddsm", n, f"study of {n}"), "MG", 1, 1, "", n) for n in names]
    assert {one.uid for one in choose(series, patients=[names[0]])} == set(names[:3])
    assert {one.uid for one in choose(series, patients=["P_00001"])} == set(names[:3])


def test_patients_of_a_file_or_a_list(tmp_path: Path) -> None:
    (tmp_path / "women.txt").write_text("D1-0001\nD1-0002\n\n")
    assert read_patients(str(tmp_path / "women.txt")) == ["D1-0001", "D1-0002"]
    assert read_patients("D1-0001, D1-0002") == ["D1-0001", "D1-0002"]
    with pytest.raises(UserError, match="neither a file"):
        read_patients(",")


def test_histology_slides_are_no_part_of_the_archive(tmp_path: Path) -> None:
    rows = [
        f"tcga_brca,,TCGA-AO-A03M,1.2,1.3.{k},{name},1.4,1,CC0,s3://b/u{k}/*,1"
        for k, name in enumerate(["MR", "SM", "ANN"])
    ]
    (tmp_path / "index.csv").write_text("\n".join([",".join(COLUMNS), *rows, ""]))
    settings = {"base_url": None, "idc_index": str(tmp_path / "index.csv")}
    series = Idc("tcga_brca", settings, tmp_path, Client(Pace(0, Event()), 1)).series()
    assert [one.modality for one in series] == ["MR"]


@pytest.mark.real
def test_the_real_index_of_cmmd_gives_a_fair_small_sample(real_data: Path, tmp_path: Path) -> None:
    """A twentieth of the archive holds both of its parts, in about their shares (D1 1,107 of 1,872 labelled
    breasts)."""
    series = _real(real_data, "cmmd")
    assert len(series) == 1775
    chosen = choose(series, max_gb=1.0)
    assert sum(one.bytes for one in chosen) <= 1e9
    share = sum(one.patient.startswith("D1") for one in chosen) / len(chosen)
    assert 0.4 < share < 0.75


@pytest.mark.real
def test_the_real_index_of_cbis_keeps_a_woman_together(real_data: Path) -> None:
    series = _real(real_data, "cbis_ddsm")
    assert len({one.exam for one in series}) == 1566
    chosen = choose(series, max_series=100)
    taken = {one.exam for one in chosen}
    assert sum(one.exam in taken for one in series) == len(chosen) <= 100


def _real(real_data: Path, collection: str) -> list[Series]:
    client = Client(Pace(0, Event()), 1)
    index = str(real_data / "idc-index" / f"{collection}_idc_v25.csv.gz")
    return Idc(collection, {"base_url": None, "idc_index": index}, real_data, client).series()
