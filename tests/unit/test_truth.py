"""A reader's opinion is never called cancer, in no place that tells a result."""

import shutil

import pytest

from mammoflow import audit, headline, model_card, report, tables
from mammoflow.files import read_json, write_json
from mammoflow.report.balance import balance_view
from mammoflow.truth import CANCER, SUSPICION, label_sources, truth_of


@pytest.mark.parametrize("sources", [{}, {"pathology": 3}, {"pathology": 3, "followup": 2, "folder": 1, "none": 1}])
def test_pathology_and_its_like_are_spoken_of_as_cancer(sources):
    assert truth_of(sources) == CANCER
    assert CANCER.note is None


def test_a_mixture_says_its_shares():
    assert truth_of({"birads": 4}) == SUSPICION
    mixed = truth_of({"birads": 1, "pathology": 2, "followup": 1})
    assert "25.0 % carry a reader's opinion (BI-RADS) as label, 75.0 % pathology" in mixed.note
    assert mixed.called == "positive"


def test_only_labelled_images_that_take_part_are_counted(two_runs):
    manifest = tables.read(two_runs["cohorts"][0] / "manifest.parquet", "manifest").copy()
    inside = manifest.index[manifest["exclude_reason"].isna()]
    manifest.loc[inside[:3], "label_malignant"] = None
    manifest.loc[inside[3:5], "label_source"] = "birads"
    manifest.loc[inside[5], "exclude_reason"] = "missing_file"
    assert label_sources(manifest) == {"birads": 2, "pathology": len(inside) - 6}


def test_the_evaluation_counts_the_test_split(two_runs):
    manifest = tables.read(two_runs["cohorts"][0] / "manifest.parquet", "manifest")
    metrics = read_json(two_runs["runs"][0] / "evaluate" / "metrics.json")
    assert metrics["label_sources"] == {"pathology": int((manifest["split"] == "test").sum())}


@pytest.fixture
def graded(two_runs, tmp_path):
    """A function: copies of a cohort and a run whose labels rest on BI-RADS in some archives."""

    def make(datasets):
        results = tmp_path / "results"
        cohort = shutil.copytree(two_runs["cohorts"][0], results / "cohorts" / "pooled")
        run = shutil.copytree(two_runs["runs"][0], results / "runs" / "baseline")
        shutil.copy(two_runs["config"][0], results / "config.yaml")
        manifest = tables.read(cohort / "manifest.parquet", "manifest")
        opinions = manifest["dataset"].isin(datasets)
        manifest = manifest.assign(label_source=manifest["label_source"].mask(opinions, "birads"))
        tables.write(manifest, cohort / "manifest.parquet")
        path = run / "evaluate" / "metrics.json"
        sources = label_sources(manifest[manifest["split"] == "test"])
        write_json(path, read_json(path) | {"label_sources": sources})
        page = report.build([], [cohort], [run], two_runs["store"][0], results / "config.yaml")[0]
        balance = report.balance_page(balance_view("pooled", manifest, audit.audit(manifest), manifest.head(0).assign(
            attribute="", deviation_points=0.0, attainable_points=0.0)))  # fmt: skip
        printed = "\n".join(headline.lines(read_json(path)))
        return {"page": page, "balance": balance, "headline": printed, "card": model_card.build(run)}

    return make


def test_readers_opinions_are_named_as_such(graded):
    told = graded(["cbis_ddsm", "mias"])
    for place, text in told.items():
        assert SUSPICION.note.replace("'", "&#39;") in text or SUSPICION.note in text, place
        assert "with cancer<" not in text.replace(" |", "<"), place
        assert "suspicious" in text, place
    assert "one breast that was graded suspicious by a reader (BI-RADS) and one that was not, the" in told["page"]
    assert "with and one without cancer" not in told["page"]


def test_a_mixture_is_named_as_such(graded):
    told = graded(["mias"])
    for place, text in told.items():
        assert "reader's opinion (BI-RADS) as label" in text.replace("&#39;", "'"), place
    assert "one breast with cancer or graded suspicious by a reader (BI-RADS) and one with neither" in told["page"]
    assert "units, " in told["headline"]
    assert " malignant, " not in told["headline"]
