"""The page stands alone, says the numbers that were computed, and grows with the results."""

import base64
import json
import re
import shutil
from html.parser import HTMLParser

import cv2
import numpy as np
import pandas as pd
import pytest

from mammoflow import report, tables
from mammoflow.cli import main
from mammoflow.files import write_json
from mammoflow.headline import chosen_model, select
from mammoflow.report import collect, examples, figures, page, sentences
from results_tree import cohort_tables, predictions_of, write_tree

VOID = {"meta", "br", "image", "rect", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects what a browser would fetch, ids, text, and tags that were never closed."""

    def __init__(self, html):
        super().__init__()
        self.fetched, self.anchors, self.ids, self.open, self.text, self.tags = [], [], [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self._attributes(tag, attrs)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self._attributes(tag, attrs)

    def _attributes(self, tag, attrs):
        for name, value in attrs:
            if name in ("src", "srcset", "data", "poster", "action") or (name in ("href", "xlink:href") and tag != "a"):
                self.fetched.append(value)
            if name == "href" and tag == "a":
                self.anchors.append(value)
            if name == "id" and tag in ("section", "main"):
                self.ids.append(value)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)


@pytest.fixture(scope="module")
def tree(two_runs):
    return two_runs


@pytest.fixture(scope="module")
def html(tree):
    return build(tree)


def build(tree, **changed):
    parts = {**tree, **changed}
    return report.build(parts["datasets"], parts["cohorts"], parts["runs"], parts["store"][0], parts["config"][0])[0]


def words(html):
    return " ".join(" ".join(Page(html).text).split())


def metrics_of(tree, name="baseline"):
    directory = next(path for path in tree["runs"] if path.name == name)
    return json.loads((directory / "evaluate" / "metrics.json").read_text())


def test_page_fetches_nothing(html):
    parsed = Page(html)
    assert parsed.fetched
    for address in parsed.fetched:
        assert address.startswith(("data:image/", "#")), address[:80]
    assert "script" not in parsed.tags
    assert "link" not in parsed.tags
    assert "@import" not in html
    for address in re.findall(r"url\(([^)]*)\)", html):
        assert address.strip("\"'").startswith("#")


def test_page_is_well_formed_and_its_links_lead_somewhere(html):
    parsed = Page(html)
    assert parsed.open == []
    inside = [address[1:] for address in parsed.anchors if address.startswith("#")]
    assert set(inside) <= set(parsed.ids)
    assert {"result", "data", "splits", "run-baseline", "run-second", "quality", "reproduce"} <= set(inside)
    assert html.count("prefers-color-scheme: dark") == 1
    assert 'name="viewport"' in html


def test_headline_states_score_floor_and_interval(tree, html):
    metrics = metrics_of(tree)
    model = chosen_model(metrics)
    test = {
        block["model"]: block["metrics"]["auc"] for block in select(metrics["results"], level="breast", split="test")
    }
    text = words(html)
    for name in ("image", "metadata", "fused"):
        number = test[name]
        assert f"{number['value']:.3f} {number['low']:.3f}–{number['high']:.3f}" in text
    assert f"{100 * test[model]['value']:.0f} of 100 pairs (95 % interval" in text
    assert f"metadata alone reaches {100 * test['metadata']['value']:.0f} of 100" in text
    assert "not for diagnosis" in text


def test_every_level_and_archive_has_its_row(tree, html):
    text = words(html)
    metrics = metrics_of(tree)
    for level in ("image", "patient"):
        number = select(metrics["results"], level=level, split="test", model="image")[0]["metrics"]["auc"]
        assert f"{level} image {number['value']:.3f}" in text
    for block in select(metrics["results"], "dataset", level="breast", split="test", model="metadata"):
        assert f"{block['subgroup']['value']} metadata only {block['metrics']['auc']['value']:.3f}" in text


def test_confusion_is_the_chosen_models(tree, html):
    metrics = metrics_of(tree)
    block = select(metrics["results"], level="breast", split="test", model=chosen_model(metrics))[0]
    cells = block["confusion"]
    assert (
        f"malignant {cells['tp']} true positive {cells['fn']} false negative "
        f"not malignant {cells['fp']} false positive {cells['tn']} true negative"
    ) in words(html)


def test_flow_split_audit_and_quarantine_are_counted(tree, html):
    text = words(html)
    summary = json.loads((tree["datasets"][0] / "summary.json").read_text())
    assert f"{summary['images']} images listed" in text
    assert f"{summary['participating']} take part" in text
    assert f"{summary['exclude_reasons']['missing_file']} missing file" in text
    assert "✓ no leak found" in text
    assert "convert DecodeError 3" in text
    assert "gdcm 1.2.840.10008.1.2.4.90" in text
    manifest = tables.read(tree["cohorts"][0] / "manifest.parquet", "manifest")
    val = manifest[(manifest["split"] == "val") & (manifest["dataset"] == "mias")]
    assert f"mias val {val['group_id'].nunique()}" in text


def test_a_leaking_cohort_is_shown_as_leaking(tree, tmp_path):
    directory = tmp_path / "pooled"
    for name in ("manifest.parquet", "findings.parquet"):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes((tree["cohorts"][0] / name).read_bytes())
    check = {"name": "patient in one split", "checked": 9, "leaks": 2, "examples": ["mias|P1 in test and train"]}
    write_json(directory / "audit.json", {"ok": False, "checks": [check], "conflicts_resolved": []})
    text = words(build(tree, cohorts=[directory], runs=[]))
    assert "✗ leaks" in text
    assert "mias|P1 in test and train" in text


def test_synthetic_archives_are_flagged(html):
    assert "Synthetic pictures. mias: drawn by mammoflow phantom" in words(html)
    assert html.count('class="badge warn">synthetic') == 1


def test_archives_carry_licence_and_citation(html):
    assert "Licence: CC BY 3.0." in words(html)
    assert "Suckling J" in words(html)


def test_untrusted_words_are_escaped(tree, html):
    assert "<truncated>" not in html
    config = tree["config"][0].parent / "other.yaml"
    config.write_text(tree["config"][0].read_text() + "\nnote: <script>alert(1)</script>\n")
    assert "<script>" not in build(tree, config=[config])


def test_page_grows_with_the_results(tree, tmp_path):
    nothing = Page(build(tree, datasets=[], cohorts=[], runs=[]))
    assert "result" not in nothing.ids
    datasets_only = build(tree, cohorts=[], runs=[])
    assert "images listed" in words(datasets_only)
    assert 'id="splits"' not in datasets_only
    waiting = tmp_path / "runs" / "waiting"
    waiting.mkdir(parents=True)
    assert "Not evaluated yet." in words(build(tree, runs=[waiting]))
    half = tmp_path / "inventory_only"
    half.mkdir()
    assert "No manifest yet." in words(build(tree, datasets=[half], cohorts=[], runs=[]))


def test_examples_follow_the_rule(tree):
    directory = tree["runs"][0]
    predictions = tables.read(directory / "predictions.parquet", "predictions")
    threshold = metrics_of(tree)["thresholds"]["image"]["image"]["threshold"]
    for (title, label, called, ascending), (name, rows) in zip(
        examples.KINDS, examples.pick(predictions, threshold), strict=True
    ):
        assert title == name
        assert 0 < len(rows) <= examples.PER_KIND
        assert (rows["split"] == "test").all()
        assert (rows["label_malignant"] == label).all()
        assert ((rows["score"] >= threshold) == called).all()
        assert rows["group_id"].is_unique
        assert rows["score"].is_monotonic_increasing if ascending else rows["score"].is_monotonic_decreasing


def test_thumbnail_keeps_the_picture_and_boxes_lie_in_its_frame(tree):
    manifest = tables.read(tree["cohorts"][0] / "manifest.parquet", "manifest")
    findings = tables.read(tree["cohorts"][0] / "findings.parquet", "manifest_findings")
    predictions = tables.read(tree["runs"][0] / "predictions.parquet", "predictions")
    groups = examples.cards(predictions, 0.5, manifest, findings, tree["store"][0])
    cards = [card for group in groups for card in group["cards"]]
    assert any(card["boxes"] for card in cards)
    for card in cards:
        data = np.frombuffer(base64.b64decode(card["picture"].split(",")[1]), np.uint8)
        grey = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
        assert grey.shape[0] / grey.shape[1] == pytest.approx(card["height"] / card["width"], rel=0.02)
        for box in card["boxes"]:
            scale = grey.shape[0] / card["height"]
            left, top = int(box["x"] * scale), int(box["y"] * scale)
            inside = grey[top : top + int(box["height"] * scale), left : left + int(box["width"] * scale)]
            # The fixture draws a bright blob in each box: a mirrored or shifted box would miss it.
            assert inside.mean() > grey.mean() + 30


def test_pictures_that_are_gone_are_said_to_be_missing(tree, tmp_path):
    html = build(tree, store=[tmp_path])
    assert "picture not in the store" in words(html)
    assert "Where the models look" not in words(html)


def test_heat_maps_lie_over_the_picture(html):
    assert "Where the models look" in words(html)
    for part in html.split("Where the models look")[1:]:
        assert part.split("</section>")[0].count("data:image/png;base64,") == examples.HEAT_CARDS
    # Those of the examples that have a map carry it too, behind a switch.
    for part in html.split("show the heat maps of these images")[1:]:
        assert "data:image/png;base64," in part.split("Where the models look")[0]


def test_runs_are_compared_where_there_are_two(tree, html):
    text = words(html)
    assert "Runs compared" in text
    assert "By the image alone, the AUC of second minus that of baseline is" in text
    assert 'id="compare"' not in build(tree, runs=tree["runs"][:1])


def test_fusion_is_explained_by_dots_and_by_numbers(tree, html):
    fuse_json = json.loads((tree["runs"][0] / "fuse" / "fuse.json").read_text())
    importance = fuse_json["models"]["metadata"]["importance"]
    strongest = next(row for row in importance if row["feature"] == "age")
    assert f"age {strongest['mean_abs_shap']:.3f} {strongest['direction']:+.2f}".replace("-", "−") in words(html)
    drawn = figures.shap_summary(fuse_json["models"]["metadata"]["shap"], {"age": "age in years"})
    assert "age in years" in drawn
    assert "var(--image)" in drawn
    assert figures.shap_summary([], {}) is None


def test_calibration_methods_stand_side_by_side(tree, html):
    for row in metrics_of(tree)["calibrations"]:
        assert f"{row['metrics']['brier']['value']:.3f}" in html
    assert "temperature" in words(html)


def test_suspicions_are_shown_above_the_results(tree, tmp_path):
    directory = tmp_path / "baseline"
    shutil.copytree(tree["runs"][0], directory)
    path = directory / "fuse" / "fuse.json"
    write_json(path, json.loads(path.read_text()) | {"suspicions": ["image scores are far too good"]})
    assert "Too good? Image scores are far too good." in words(build(tree, runs=[directory]))
    assert "Too good?" not in words(build(tree, runs=tree["runs"][:1]))


def test_timings_come_from_the_workflow(tree, html, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_bytes(tree["config"][0].read_bytes())
    for name, seconds in [("convert/mias/0", 100.0), ("convert/mias/1", 50.0), ("report", 3.0)]:
        path = tmp_path / "benchmarks" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"s": seconds, "max_rss": 512.3}) + "\n")
    first = {"stage": "convert", "jobs": 2, "seconds": 150.0, "longest": 100.0, "memory": 512.3}
    assert collect.read_timings(tmp_path)[0] == first
    text = words(build(tree, config=[config], runs=[]))
    assert "convert 2 2 min 2 min 512 MB report 1 3.0 s 3.0 s 512 MB" in text
    assert "Jobs of the workflow" not in words(html)


def test_reproduction_names_configuration_data_code_and_machine(tree, html):
    record = metrics_of(tree)["reproduction"]
    text = words(html)
    for word in (record["config_digest"], record["cohort_digest"]["sha256"][:16], record["hardware"]["processor"]):
        assert word in text


def test_figures_follow_the_theme_and_are_the_same_each_time(tree):
    curves = json.loads((tree["runs"][0] / "evaluate" / "curves.json").read_text())["curves"]
    curves = [curve for curve in curves if curve["level"] == "breast"]
    first, second = figures.roc(curves), figures.roc(curves)
    assert first == second
    assert "var(--fused)" in first
    assert "#0000" not in first
    assert "http://purl.org" not in first
    assert figures.roc([{"model": "image", "roc": [], "pr": [], "reliability": []}]) is None


def test_learning_curves_without_auc_show_the_loss_alone():
    table = pd.DataFrame(
        {"epoch": [0, 1], "train_loss": [0.7, 0.6], "val_loss": [0.7, 0.65], "val_auc": [np.nan, np.nan]}
    )
    assert [title for title, _ in figures.learning({"0": (table, {"best_epoch": 1})})] == ["Loss"]
    assert figures.learning({}) == []


def test_no_claim_where_the_interval_holds_zero():
    number = {"value": 0.8, "low": 0.7, "high": 0.9, "reason": None}
    blocks = [
        {
            "level": "breast",
            "split": "test",
            "model": name,
            "subgroup": None,
            "metrics": {"auc": number},
            "n_patients": 9,
        }
        for name in ("image", "metadata", "fused")
    ]
    row = {
        "level": "breast",
        "split": "test",
        "first": "image",
        "second": "metadata",
        "value": 0.02,
        "low": -0.1,
        "high": 0.14,
    }
    metrics = {"results": blocks, "differences": [row], "settings": {"confidence": 0.95}}
    assert "does not show that the picture adds anything" in sentences.headline_sentences(metrics, "image")[-1]
    row |= {"low": 0.01}
    assert "gain is +2 pairs in 100 (+1 to +14)" in sentences.headline_sentences(metrics, "image")[-1]


@pytest.mark.parametrize(
    ("patients", "said"),
    [
        (5, "No AUC can be stated on the test split: needs at least 1 positive"),
        (8, "Only 2 patients: too few to conclude"),
    ],
)
def test_tiny_run_says_why_there_is_no_number(tmp_path, patients, said):
    assert said in words(build(write_tree(tmp_path, patients=patients, runs=("tiny",))))


def test_command_writes_the_page_and_prints_the_result_last(tree, tmp_path, capsys):
    command = ["report", "--datasets", *map(str, tree["datasets"]), "--cohorts", *map(str, tree["cohorts"])]
    command += ["--runs", *map(str, tree["runs"]), "--store", str(tree["store"][0]), "--config", str(tree["config"][0])]
    out = tmp_path / "report" / "index.html"
    assert main([*command, "--out", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == f"report: {out}"
    assert any("metadata-only floor" in line for line in printed)
    first = out.read_bytes()
    assert main([*command, "--out", str(out)]) == 0
    assert out.read_bytes() == first
    assert len(first) < 2_000_000


def test_broken_files_are_named(tree, tmp_path, capsys):
    (tmp_path / "mias").mkdir()
    (tmp_path / "mias" / "summary.json").write_text("{broken")
    base = ["--store", str(tmp_path), "--out", str(tmp_path / "x.html"), "--config"]
    assert main(["report", "--datasets", str(tmp_path / "mias"), *base, str(tree["config"][0])]) == 2
    assert "summary.json is not valid JSON" in capsys.readouterr().err
    assert main(["report", *base, str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml does not exist" in capsys.readouterr().err


def test_quarantine_and_speed_tables(tree):
    dataset = collect.read_dataset(tree["datasets"][0], {})
    view = page.dataset_view(dataset)
    assert view["failures"] == [
        {"stage": "convert", "kind": "DecodeError", "count": 3, "example": view["failures"][0]["example"]}
    ]
    done = dataset.convert[dataset.convert["status"] == "ok"]
    assert view["speed"][0]["size"] == len(done)
    assert view["speed"][0]["rate"] == pytest.approx(len(done) / done["seconds"].sum())


def test_tree_fixture_is_what_the_stages_write():
    manifest, findings = cohort_tables(10, 0)
    pd.testing.assert_frame_equal(tables.validate("manifest", manifest), manifest)
    pd.testing.assert_frame_equal(tables.validate("manifest_findings", findings), findings)
    predictions = predictions_of(manifest, 0)
    pd.testing.assert_frame_equal(tables.validate("predictions", predictions), predictions)


def test_froc_without_any_interval_is_drawn():
    """Fewer than five patients give none."""
    points = [{"false_positives": rate, "value": 0.5, "low": None, "high": None} for rate in (0.1, 1.0)]
    assert "<svg" in figures.froc(points)
