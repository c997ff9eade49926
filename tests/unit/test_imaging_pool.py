"""Reading ahead: which files, in which order, and not where nothing is read."""

from pathlib import Path

from mammoflow.imaging import pool


def read_ahead(monkeypatch, words, threads=1):
    """Indices of the jobs whose files are read ahead while jobs with these outcomes run in order."""
    ahead = []
    monkeypatch.setattr(pool, "read_ahead", lambda path: ahead.append(int(path.name)))
    jobs = [[index] for index in range(len(words))]
    work = pool.reading_ahead(lambda job: [(words[job[0]], {})], jobs, threads, lambda job: Path(str(job[0])))
    for job in jobs:
        assert work(job) == [(words[job[0]], {})]
    return ahead


def test_files_are_read_ahead_in_order(monkeypatch):
    assert read_ahead(monkeypatch, ["done"] * 6) == [2, 3, 4, 5]
    assert read_ahead(monkeypatch, ["done"] * 6, threads=2) == [4, 5]


def test_nothing_is_read_ahead_of_jobs_that_read_nothing(monkeypatch):
    assert read_ahead(monkeypatch, ["reused"] * 5) == []
    assert read_ahead(monkeypatch, ["reused", "failed", "reused", "done", "reused", "reused"]) == [3, 5]


def test_what_cannot_be_read_ahead_is_its_own_job_s_problem(tmp_path):
    (tmp_path / "there").write_bytes(b"x")
    for name in ("there", "absent", "."):
        pool.read_ahead(tmp_path / name)
