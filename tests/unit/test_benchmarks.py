"""The benchmarks run, and write their own sections only. How fast anything is, is not judged here."""

import os
import re
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_conversion_benchmark_writes_its_section(tmp_path, repository):
    page = tmp_path / "benchmarks.md"
    page.write_text("# Benchmarks\n\n## Conversion\n\nold numbers\n\n## Another\n\nkept\n")
    environment = {**os.environ, "PYTHONPATH": str(repository / "workflow" / "src")}
    command = [sys.executable, repository / "benchmarks" / "conversion.py", "--quick", "--write", page]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert "old numbers" not in text
    assert text.endswith("## Another\n\nkept\n")
    rows = [row for row in text.splitlines() if re.match(r"\| .*(lossless|JPEG-LS|RLE|uncompressed).* \| A \|", row)]
    assert len(rows) == 6
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert all(float(cell) > 0 for cell in cells[2:])
    for title in ("largest memory, MiB", "16-bit PNG", "fast_j2k", "2 threads", "`convert` up to its first image"):
        assert title in text


def test_the_feed_benchmark_writes_its_section(tmp_path, repository):
    page = tmp_path / "benchmarks.md"
    environment = {**os.environ, "PYTHONPATH": str(repository / "workflow" / "src")}
    small = ["--images", "8", "--rounds", "1", "--size", "256", "128", "--write", page]
    command = [sys.executable, repository / "benchmarks" / "feed.py", *small]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert "\n## Feed\n" in text
    rows = [line.strip("|").split("|") for line in text.splitlines() if re.match(r"\| (PNG|pack),", line)]
    assert len(rows) == 2
    for row in rows:
        assert float(row[1]) > 0
        assert float(row[4]) > 0
    assert re.search(r"working images of 320 x 160: \d+ images/s with 1 thread", text)


@pytest.mark.slow
def test_planning_at_full_size_stays_within_its_memory(repository):
    """The full archives and twenty times them, planned whole and for one archive, with and without work to do."""
    environment = {**os.environ, "PYTHONPATH": str(repository / "workflow" / "src")}
    command = [sys.executable, repository / "benchmarks" / "scale.py", "--repeats", "1", "--layouts", "20 minutes"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("|").split("|") for line in done.stdout.splitlines() if line.startswith("| 20 minutes")]
    jobs = {(row[1].strip(), row[3].strip()): int(row[2]) for row in rows}
    assert set(jobs) == {(size, target) for size in ("x1", "x20") for target in ("everything", "rsna")}
    assert jobs["x20", "everything"] > 5 * jobs["x1", "everything"]
    for row in rows:
        assert int(row[5]) < 250  # MB, dry run
        assert int(row[7]) < 250  # MB, nothing to do
