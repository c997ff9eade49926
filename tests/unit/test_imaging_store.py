"""Names in the store, and the pool that runs the jobs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammoflow.imaging import pool, store

NAMES = st.text(max_size=200)


@given(NAMES)
def test_names_are_safe_file_names(name):
    safe = store.safe_name(name)
    assert safe.isascii()
    assert all(sign.isalnum() or sign in "._-" for sign in safe)
    assert 0 < len(safe) < 150
    assert not safe.startswith(".")


@given(NAMES, NAMES)
def test_different_names_stay_different(first, second):
    assert (store.safe_name(first) == store.safe_name(second)) == (first == second)


def test_ordinary_ids_are_kept():
    for name in ("mdb001", "1.2.840.113619", "D1-0001_1-1", "a_b"):
        assert store.safe_name(name) == name
    assert store.relative_path("mias", "abcd1234", "p1", "mdb001") == "mias/abcd1234/p1/mdb001.png"


def test_only_the_same_inputs_give_the_row_back(tmp_path):
    path = tmp_path / "a.png"
    store.save(path, np.zeros((2, 2), np.uint8), {"image_id": "a"}, {"recipe": "r", "source_size": 5})
    assert store.reusable_row(path, {"recipe": "r", "source_size": 5}) == {"image_id": "a"}
    assert store.reusable_row(path, {"recipe": "r", "source_size": 6}) is None
    assert store.reusable_row(path, {"recipe": "r"}) is None
    assert store.reusable_row(tmp_path / "absent.png", {}) is None


def test_rows_come_in_the_order_of_the_jobs(capsys):
    def work(number):
        return [("done" if number % 3 else "failed", {"n": number})]

    rows = pool.run_jobs(work, range(20), threads=4, label="stage x")
    assert [row["n"] for row in rows] == list(range(20))
    assert capsys.readouterr().err.startswith("stage x: done=13 reused=0 failed=7 (")


def test_an_error_of_the_run_is_not_hidden_in_a_row():
    def work(number):
        if number == 3:
            raise OSError("no space left on device")
        return [("done", {})]

    with pytest.raises(OSError, match="no space left"):
        pool.run_jobs(work, range(50), threads=2, label="stage x")
