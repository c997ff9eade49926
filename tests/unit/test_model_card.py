"""The card states the figures of the result files, the data's licences and its limits, of unfinished runs, too."""

import json
import shutil

import pandas as pd
import pytest
from huggingface_hub import ModelCard

from mammoflow import card_facts, model_card, tables
from mammoflow.cli import main
from mammoflow.datasets.catalog import ARCHIVES, TERMS
from mammoflow.files import read_json, write_json
from mammoflow.headline import select
from mammoflow.metrics import METRIC_NAMES

MODELS = {"image model": "image", "metadata only": "metadata", "image + metadata": "fused"}


@pytest.fixture(scope="module")
def results(two_runs, tmp_path_factory):
    """A copy of the shared tree: these tests write into it."""
    root = tmp_path_factory.mktemp("cards")
    shutil.copytree(two_runs["runs"][0].parents[1], root / "results")
    return root / "results"


@pytest.fixture(scope="module")
def card(results):
    assert main(["model-card", str(results / "runs" / "baseline")]) == 0
    return (results / "runs" / "baseline" / "model_card.md").read_text()


def rows_under(card, heading):
    """The first table below a heading: one dictionary per row."""
    lines = card.split(f"\n{heading}\n", 1)[1].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    assert lines[start - 1] == "", "a table needs an empty line before it"
    table = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split(" | ")])
    head, rule, *rows = table
    assert set(rule[0]) <= {"-", "|"}
    assert all(len(row) == len(head) for row in rows), table
    return [dict(zip(head, row, strict=True)) for row in rows]


def figure(number):
    """As the card should print it, put together here from the file alone."""
    if number["low"] is None:
        return f"{number['value']:.3f} (no interval)"
    return f"{number['value']:.3f} ({number['low']:.3f} to {number['high']:.3f})"


def test_every_figure_of_the_results_is_that_of_the_metrics_file(results, card):
    metrics = read_json(results / "runs/baseline/evaluate/metrics.json")
    rows = rows_under(card, "## Results")
    assert [(row["level"], row["score"]) for row in rows] == [
        ("image", "image model"),
        *[(level, name) for level in ("breast", "patient") for name in list(MODELS)],
    ]  # fmt: skip
    for row in rows:
        (block,) = select(metrics["results"], split="test", level=row["level"], model=MODELS[row["score"]])
        for name in ("auc", "average_precision", "pf1", "brier", "ece"):
            assert row[METRIC_NAMES[name]] == figure(block["metrics"][name])
        counts = [row["units"], row["malignant"], row["patients"].removesuffix(" (few)")]
        assert counts == [str(block[name]) for name in ("n_units", "n_positive", "n_patients")]
    (breast,) = select(metrics["results"], split="test", level="breast", model="image")
    (row,) = rows_under(card, "### At the threshold chosen on validation")
    assert row["sensitivity"] == figure(breast["metrics"]["sensitivity"])
    assert [int(row[name]) for name in ("true positive", "false negative")] == [
        breast["confusion"]["tp"], breast["confusion"]["fn"],
    ]  # fmt: skip
    fits = {row["score"]: row for row in rows_under(card, "### Calibration")}
    platt = next(r for r in metrics["calibrations"] if (r["model"], r["method"]) == ("image", "platt"))
    assert fits["Platt scaling"]["slope"] == f"{platt['fit']['slope']:.4f}"
    assert fits["Platt scaling"][METRIC_NAMES["brier"]] == figure(platt["metrics"]["brier"])
    (difference,) = [
        r for r in metrics["differences"]
        if (r["level"], r["split"], r["first"], r["second"]) == ("breast", "test", "image", "metadata")
    ]  # fmt: skip
    assert f"on the same patients: {figure(difference)}." in card


def test_small_subgroups_are_marked_and_only_those(results, card):
    metrics = read_json(results / "runs/baseline/evaluate/metrics.json")
    blocks = card_facts.subgroups(metrics["results"])
    rows = rows_under(card, "### Subgroups")
    assert len(rows) == len(blocks) > 10
    small = [block["small"] for block in blocks]
    assert any(small)
    assert not all(small)
    assert [row["group"].endswith(" **few**") for row in rows] == small
    for row, block in zip(rows, blocks, strict=True):
        auc = block["metrics"].get("auc", {"value": None})
        assert row["AUC"].startswith("–" if auc["value"] is None else f"{auc['value']:.3f} (")
        assert row["patients"] == str(block["n_patients"])


def test_head_is_read_by_the_hub_s_own_library(results, card):
    parsed = ModelCard(card)
    assert parsed.data.license == "other"
    assert parsed.data.datasets == ["cbis_ddsm", "mias"]
    assert "not-for-diagnosis" in parsed.data.tags
    assert "synthetic-data" in parsed.data.tags
    metrics = read_json(results / "runs/baseline/evaluate/metrics.json")
    stated = {one.metric_name.split(",")[1].split()[0]: one.metric_value for one in parsed.data.eval_results}
    for level in ("image", "breast", "patient"):
        (block,) = select(metrics["results"], split="test", level=level, model="image")
        assert stated[level] == pytest.approx(block["metrics"]["auc"]["value"], abs=5e-5)
    assert {one.dataset_split for one in parsed.data.eval_results} == {"test"}


def test_counts_of_the_data_are_those_of_the_cohort(results, card):
    manifest = tables.read(results / "cohorts/pooled/manifest.parquet", "manifest")
    part = manifest[manifest["exclude_reason"].isna()]
    for row in rows_under(card, "## Data"):
        inside = part[part["split"] == row["split"]]
        inside = inside if row["archive"] == "all" else inside[inside["dataset"] == row["archive"]]
        assert int(row["images"]) == len(inside)
        assert int(row["malignant"]) == int((inside["label_malignant"] == 1).sum())
        assert int(row["patients"]) == inside["group_id"].nunique()
    assert "Audited: no patient, file or known duplicate stands on two sides (8 checks)." in card


def test_strictest_licence_is_named_over_all_data_that_the_weights_have_seen(results, card):
    assert "**Strictest: research only** (mias: Research only; no sale" in card
    run = results / "runs" / "second"
    seen = tables.finish("seen", pd.DataFrame([
        {"dataset": name, "image_id": "1", "patient_id": "p", "group_id": f"{name}|p", "role": "train", "run": by}
        for name, by in (("mias", "second"), ("rsna", "pretrain"), ("vindr_mammo", "pretrain"))
    ]))  # fmt: skip
    for fold in range(3):
        tables.write(seen, run / str(fold) / "seen.parquet")
    text = model_card.build(run)
    assert "**Strictest: agreement** (vindr_mammo: PhysioNet Credentialed" in text
    assert "- rsna was seen by pretrain." in text
    assert ARCHIVES["rsna"].citation.split(" et al")[0] in text
    assert all(archive.terms in TERMS for archive in ARCHIVES.values())


def test_the_command_of_use_makes_the_pixels_that_were_learned_from(card):
    """DICOM's rule would apply the window of CMMD's headers, which its conversion leaves out."""
    assert card_facts.own_grey_scale(["cmmd", "rsna", "vindr_mammo", "gone"]) == ["cmmd"]
    for name in ("cbis_ddsm", "mias"):
        assert f"Files of {name} have a grey scale of their own: add `--dataset {name}`." in card


def test_the_runs_before_it_are_told_to_the_first(results, tmp_path):
    shutil.copytree(results, tmp_path / "results")
    runs = tmp_path / "results" / "runs"
    for name, before in (("second", "baseline"), ("baseline", "gone")):
        path = runs / name / "0" / "train.json"
        start = {"run": before, "fold": 2, "cohort": "other", "loaded": 70, "started_anew": ["head.weight"]}
        write_json(path, read_json(path) | {"started_from": start})
        shutil.copytree(runs / name / "0", runs / name / "2", dirs_exist_ok=True)
    lines = model_card.build(runs / "second").splitlines()
    assert [line for line in lines if "started anew" in line] == [
        "- Starts from baseline, fold 2 (cohort other): 70 tensors loaded, 1 started anew.",
        "- which started from gone, fold 2 (cohort other): 70 tensors loaded, 1 started anew.",
    ]


def test_a_run_that_is_not_evaluated_has_a_card_that_says_so(results, tmp_path):
    shutil.copytree(results, tmp_path / "results")
    run = tmp_path / "results" / "runs" / "baseline"
    shutil.rmtree(run / "evaluate")
    text = model_card.build(run)
    assert "**Not evaluated.**" in text
    assert "model-index" not in text
    assert "AUC" not in text
    assert "### Licences" in text
    assert "onnxruntime.InferenceSession" in text


def test_a_test_split_of_one_class_gives_reasons_in_place_of_figures(results, tmp_path):
    shutil.copytree(results, tmp_path / "results")
    run = tmp_path / "results" / "runs" / "baseline"
    path = run / "evaluate" / "metrics.json"
    metrics = json.loads(path.read_text())
    for block in metrics["results"]:
        if block["split"] == "test" and block["model"] == "image":
            block["metrics"]["auc"] = {"value": None, "low": None, "high": None, "reason": "one class only"}
            block["reason"] = "one class only"
    write_json(path, metrics)
    text = model_card.build(run)
    assert "**No figure can be stated on the test split**: one class only." in text
    assert "model-index" not in text
    assert rows_under(text, "## Results")[0]["AUC"] == "not stated: one class only"


def test_text_of_headers_has_no_meaning_in_markdown():
    assert model_card.plain("A|B\n<img src=x> [x](http://y) `c` *d*") == (
        "A\\|B \\<img src=x\\> \\[x\\](http://y) \\`c\\` \\*d\\*"
    )


def test_records_of_an_older_version_are_named(results, tmp_path, capsys):
    shutil.copytree(results, tmp_path / "results")
    run = tmp_path / "results" / "runs" / "baseline"
    for path in run.glob("*/train.json"):
        write_json(path, {key: value for key, value in read_json(path).items() if key != "world_size"})
    assert main(["model-card", str(run)]) == 2
    error = capsys.readouterr().err
    assert "older version" in error
    assert "world_size" in error
