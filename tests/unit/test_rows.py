"""Tables as plain rows: the same files, the same checks, and no pandas."""

import subprocess
import sys

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mammoflow import rows, tables
from mammoflow.errors import UserError

WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
VALUES = {
    tables.TEXT: WORDS,
    tables.INTEGER: st.integers(-(2**63), 2**63 - 1),
    tables.NUMBER: st.floats(allow_nan=False, allow_infinity=False),
    tables.FLAG: st.booleans(),
}


@st.composite
def made_rows(draw, table: str):
    """Up to four allowed rows of ``table`` with distinct keys."""
    made = []
    for number in range(draw(st.integers(0, 4))):
        row = {}
        for name, column in tables.TABLES[table].items():
            values = st.sampled_from(column.values) if column.values else VALUES[column.dtype]
            row[name] = draw(values if column.required else st.none() | values)
        row[tables.KEYS[table][-1]] = f"{draw(st.integers(0, 9))}-{number}"
        made.append(row)
    return made


@given(data=st.data(), table=st.sampled_from(["convert_ledger", "crop_ledger"]))
@settings(max_examples=30)
def test_a_written_ledger_reads_as_the_frame_s(tmp_path_factory, data, table):
    made = data.draw(made_rows(table))
    path = tmp_path_factory.mktemp("rows") / "a.parquet"
    rows.write_parquet(rows.finish(table, made), path, table)
    expected = tables.finish(table, pd.DataFrame(made, columns=list(tables.TABLES[table]), dtype=object))
    pd.testing.assert_frame_equal(tables.read(path, table), expected)
    assert dict(pd.read_parquet(path).dtypes) == dict(expected.dtypes)  # to the bit, also without our reader


@given(data=st.data(), table=st.sampled_from(["images", "findings"]))
@settings(max_examples=30)
def test_a_csv_reads_as_the_frame_s_rows(tmp_path_factory, data, table):
    frame = tables.finish(
        table, pd.DataFrame(data.draw(made_rows(table)), columns=list(tables.TABLES[table]), dtype=object)
    )
    path = tmp_path_factory.mktemp("rows") / "a.csv"
    tables.write(frame, path)
    assert rows.read_csv(path, table) == rows.from_frame(frame)


GOOD = {"dataset": "d", "image_id": "a", "patient_id": "p", "status": "ok", "recipe": "r"}


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([{**GOOD, "status": "fine"}], "status: not allowed is 'fine'"),
        ([{**GOOD, "recipe": None}], "recipe: not allowed is None"),
        ([GOOD, GOOD], "dataset/image_id: .* more than once"),
    ],
)
def test_what_the_schema_forbids_is_refused_as_in_a_frame(made, message):
    with pytest.raises(UserError, match=message):
        rows.finish("convert_ledger", made)
    with pytest.raises(UserError):
        tables.finish("convert_ledger", pd.DataFrame(made))
    with pytest.raises(ValueError, match="not in the schema"):
        rows.finish("convert_ledger", [{**GOOD, "colour": 1}])


@pytest.mark.parametrize("text", ["", "dataset,image_id\nd,a\n", None, "not-a-number"])
def test_an_unreadable_csv_is_named(tmp_path, text):
    path = tmp_path / "a.csv"
    if text == "not-a-number":
        frame = tables.finish("images", pd.DataFrame([{**dict.fromkeys(["dataset", "image_id", "study_id"], "x"),
                              "patient_id": "p", "group_id": "g", "use": "labelled", "height": 77777}]))  # fmt: skip
        tables.write(frame, path)
        path.write_text(path.read_text().replace("77777", "wide"))
    elif text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=r"a\.csv"):
        rows.read_csv(path, "images")


@pytest.mark.parametrize("module", ["convert", "crop", "convert_file", "inspect"])
def test_conversion_starts_without_pandas_and_torch(module):
    code = (
        f"import sys, mammoflow.{module}; print([name for name in "
        "('pandas', 'pandera', 'torch', 'pyarrow', 'tifffile', 'PIL', 'gdcm', 'requests') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
