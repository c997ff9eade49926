"""Every result file says where it comes from, and the same configuration and seed give the same bytes."""

import json
import subprocess

import pandas as pd
import pyarrow.parquet as pq
import pytest

from mammoflow import provenance, settings, tables
from mammoflow.cli import main
from mammoflow.errors import UserError
from results_tree import cohort_tables, predictions_of

SECTION = settings.resolve_section("run", {"cohort": "pooled", "evaluate": {"bootstrap": 100}})
EVALUATED = [f"evaluate/{name}" for name in ("metrics.json", "metrics.csv", "curves.json")]
FILES = ["fuse/fused.parquet", "fuse/fuse.json", *EVALUATED]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("inputs")
    manifest, findings = cohort_tables(100, seed=1)
    tables.write(manifest, directory / "cohort" / "manifest.parquet")
    tables.write(findings, directory / "cohort" / "findings.parquet")
    (directory / "cohort" / "digest.json").write_text('{"manifest_sha256": "abc"}')
    tables.write(predictions_of(manifest, seed=2), directory / "predictions.parquet")
    return directory


def fuse_and_evaluate(inputs, out, seed=5, section=SECTION):
    given = ["--cohort", str(inputs / "cohort"), "--predictions", str(inputs / "predictions.parquet")]
    given += ["--settings", json.dumps(section), "--seed", str(seed)]
    assert main(["fuse", "demo", *given, "--out", str(out / "fuse")]) == 0
    fused = str(out / "fuse" / "fused.parquet")
    assert main(["evaluate", "demo", *given, "--fused", fused, "--out", str(out / "evaluate")]) == 0
    return out


@pytest.fixture(scope="module")
def result(inputs, tmp_path_factory):
    return fuse_and_evaluate(inputs, tmp_path_factory.mktemp("first"))


def test_same_configuration_and_seed_give_the_same_bytes(inputs, result, tmp_path):
    again = fuse_and_evaluate(inputs, tmp_path)
    for name in FILES:
        assert (again / name).read_bytes() == (result / name).read_bytes(), name


def test_another_seed_and_another_setting_show_in_the_record(inputs, result, tmp_path):
    first = json.loads((result / "evaluate/metrics.json").read_text())
    section = settings.resolve_section("run", {**SECTION, "fuse": {"features": ["age"]}})
    second = json.loads((fuse_and_evaluate(inputs, tmp_path, 6, section) / "evaluate/metrics.json").read_text())
    for key in ("seed", "config_digest", "inputs"):
        assert first["reproduction"][key] != second["reproduction"][key], key
    assert first["reproduction"]["cohort_digest"] == second["reproduction"]["cohort_digest"]


@pytest.mark.parametrize("name", ["fuse/fuse.json", "evaluate/metrics.json", "evaluate/curves.json"])
def test_json_files_carry_the_whole_record(inputs, result, name):
    record = json.loads((result / name).read_text())["reproduction"]
    stage = name.split("/")[0]
    assert record["stage"] == stage
    assert record["config_digest"] == settings.recipe(stage, SECTION)
    assert record["cohort_digest"]["content"] == {"manifest_sha256": "abc"}
    assert record["inputs"]["predictions"] == provenance.file_digest(inputs / "predictions.parquet")
    assert record["seed"] == 5
    assert record["hardware"]["cores"] >= 1
    assert record["hardware"]["processor"]
    assert {"numpy", "lightgbm", "scikit-learn", "code_version", "code_commit", "python"} <= set(record)


def test_tables_carry_the_record_too(result):
    kept = json.loads(pq.read_schema(result / "fuse/fused.parquet").metadata[b"PANDAS_ATTRS"])
    assert kept["reproduction"] == json.loads((result / "fuse/fuse.json").read_text())["reproduction"]
    table = pd.read_csv(result / "evaluate/metrics.csv", dtype={"config_digest": str})  # 09035535 is no number
    record = json.loads((result / "evaluate/metrics.json").read_text())["reproduction"]
    assert set(table["config_digest"]) == {record["config_digest"]}
    assert set(table["cohort_digest"]) == {record["cohort_digest"]["sha256"]}
    assert set(table["seed"]) == {5}


def test_commit_is_that_of_this_checkout(repository):
    found = provenance.code_commit()
    command = ["git", "-C", str(repository), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"not a git checkout: {done.stderr.strip()}")
    assert found["code_commit"] == done.stdout.strip()
    assert isinstance(found["code_changed"], bool)


def test_commit_of_a_foreign_repository_is_not_taken_for_ours(tmp_path, monkeypatch):
    """Installed below somebody's project, git would answer with that project's commit."""
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], [*author, "commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    package = tmp_path / "site-packages" / "mammoflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(provenance, "PACKAGE_DIR", package)
    assert provenance.code_commit() == {"code_commit": None, "code_changed": None}
    monkeypatch.setenv("PATH", str(tmp_path))  # no git at all
    assert provenance.code_commit() == {"code_commit": None, "code_changed": None}


def test_missing_digest_is_named(tmp_path):
    with pytest.raises(UserError, match=r"digest\.json does not exist"):
        provenance.record("fuse", SECTION, 1, tmp_path)
