"""The cost preview: published counts before an inventory, measured rates after a run, what is left, disks, advice."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml

from mammoflow import settings, tables
from mammoflow.cli import main
from mammoflow.costs import estimate, rates
from mammoflow.costs.archives import SIZES
from mammoflow.datasets.catalog import ARCHIVES
from mammoflow.plan import duration, number, tables_of
from mammoflow.shard import shard_of

RUN = {"cohort": "main", "image_size": [1024, 512], "epochs": 10}
SPLITS = {"splits": {"train": 0.6, "val": 0.2, "test": 0.2}, "folds": 3}


def resolved(folder, **sections):
    config = {"results": str(folder / "results"), "store": str(folder / "store"), **sections}
    return settings.check_references(settings.resolve(config))


def write_inventory(results, dataset, patients, views=4, megabytes=2.0, syntax="1.2.840.10008.1.2.4.90"):
    rows = [
        {
            "dataset": dataset, "image_id": f"p{patient}_{view}", "study_id": f"p{patient}",
            "patient_id": f"p{patient}", "group_id": f"{dataset}|p{patient}", "path": f"p{patient}/{view}.dcm",
            "file_format": "dicom", "transfer_syntax": syntax,
            "source_size": round(megabytes * 1e6), "source_mtime_ns": 1,
            "use": "labelled",
        }
        for patient in range(patients)
        for view in range(views)
    ]  # fmt: skip
    folder = results / dataset / "inventory"
    images = tables.finish("images", pd.DataFrame(rows))
    tables.write(images, folder / "images.parquet")
    tables.write(tables.finish("findings", pd.DataFrame(columns=list(tables.FINDINGS))), folder / "findings.parquet")
    return images


def write_ledger(folder, dataset, images, shard, shards, seconds, cpu_time=None, **convert):
    """The ledger of one shard, made with settings ``convert``, its pictures (1,000 bytes each) and benchmark file."""
    recipe = settings.convert_recipe(dataset, settings.resolve_section("convert", convert))
    mine = images[images["patient_id"].map(lambda patient: shard_of(patient, shards)) == shard]
    paths = [f"{dataset}/{recipe}/{image_id}.png" for image_id in mine["image_id"]]
    for path in paths:
        (folder / "store" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "store" / path).write_bytes(bytes(1000))
    ledger = pd.DataFrame(
        {
            **{name: mine[name] for name in ("dataset", "image_id", "patient_id")},
            "status": "ok", "recipe": recipe, "path": paths, "seconds": seconds,
        }
    )  # fmt: skip
    name = f"{shard:04d}-of-{shards:04d}"
    results = folder / "results"
    tables.write(tables.finish("convert_ledger", ledger), results / dataset / "convert" / f"{name}.parquet")
    (results / dataset / "shards").mkdir(parents=True, exist_ok=True)
    (results / dataset / "shards" / f"{name}.csv").touch()
    if cpu_time is not None:
        path = results / "benchmarks" / "convert" / dataset / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"s": 9.0, "cpu_time": cpu_time, "max_rss": 100.0}) + "\n")
    return len(mine)


def test_every_archive_has_a_size_and_a_known_coding():
    assert set(SIZES) == set(ARCHIVES)
    assert {size.coding for size in SIZES.values()} <= set(rates.SECONDS_PER_MB)


def test_before_any_inventory_the_published_counts_stand_and_the_plan_says_so(tmp_path):
    costs = estimate.plan(resolved(tmp_path, datasets={"rsna": {"shards": 140}, "bcdr": {}}))
    row = costs["datasets"]["rsna"]
    assert (row["images"], row["images_done"], row["source"]) == (54706, 0, "published")
    assert row["read_gb"] == pytest.approx(314, rel=1e-3)
    assert row["core_hours"] == row["core_hours_left"]
    assert costs["datasets"]["bcdr"]["images"] is None
    assert any("published counts stand for them: rsna" in note for note in costs["notes"])
    assert any("no size is published: bcdr" in note for note in costs["notes"])


def test_max_images_limits_the_plan(tmp_path):
    costs = estimate.plan(resolved(tmp_path, datasets={"rsna": {"shards": 2, "max_images": 500}}))
    assert costs["datasets"]["rsna"]["images"] == 500


def test_an_inventory_replaces_the_published_counts(tmp_path):
    write_inventory(tmp_path / "results", "rsna", patients=50, megabytes=5.0)
    row = estimate.plan(resolved(tmp_path, datasets={"rsna": {"shards": 3}}))["datasets"]["rsna"]
    assert (row["images"], row["source"], row["rate_source"]) == (200, "inventory", "assumed")
    assert row["read_gb"] == pytest.approx(1.0)
    assert row["seconds_per_image"] == pytest.approx(rates.image_seconds(5.0, "jpeg2000"))


def test_the_longest_shard_is_that_of_the_real_dealing(tmp_path):
    images = write_inventory(tmp_path / "results", "rsna", patients=40)
    row = estimate.plan(resolved(tmp_path, datasets={"rsna": {"shards": 7}}))["datasets"]["rsna"]
    most = images["patient_id"].map(lambda patient: shard_of(patient, 7)).value_counts().max()
    expected = most * rates.image_seconds(2.0, "jpeg2000") / estimate.CONVERT_THREADS / 60
    assert row["longest_shard_minutes"] == pytest.approx(expected, abs=0.06)


def test_measured_rates_replace_the_assumed_and_done_shards_are_not_counted_again(tmp_path):
    images = write_inventory(tmp_path / "results", "rsna", patients=40)
    done = write_ledger(tmp_path, "rsna", images, shard=0, shards=4, seconds=1.0, cpu_time=0.0)
    done += write_ledger(tmp_path, "rsna", images, shard=1, shards=4, seconds=1.0)
    config = resolved(tmp_path, datasets={"rsna": {"shards": 4}})
    row = estimate.plan(config)["datasets"]["rsna"]
    assert (row["images_done"], row["shards_done"]) == (done, 2)
    assert row["seconds_per_image"] == 1.0
    assert row["rate_source"] == f"measured on {done} images"
    assert row["core_hours_left"] == pytest.approx((160 - done) / 3600, abs=1e-3)
    assert row["write_gb"] == pytest.approx(160 * 1000 / 1e9, abs=1e-3)


def test_a_benchmark_file_counts_what_the_rows_do_not(tmp_path):
    """Core-seconds of the whole job, with its start."""
    images = write_inventory(tmp_path / "results", "rsna", patients=10)
    count = write_ledger(tmp_path, "rsna", images, shard=0, shards=1, seconds=0.5, cpu_time=200.0)
    recipe = settings.convert_recipe("rsna", settings.resolve_section("convert", {}))
    known = rates.conversion(tmp_path / "results", tmp_path / "store", "rsna", 1, recipe)
    assert known.seconds == pytest.approx(200.0 / count)


def test_images_that_a_repeated_job_found_in_the_store_have_no_time_and_do_not_count(tmp_path):
    """The real steps: a whole conversion, one picture lost, the same again."""
    root, results, store = tmp_path / "mias", tmp_path / "results", tmp_path / "store"
    shard, ledger = results / "mias/shards/0000-of-0001.csv", results / "mias/convert/0000-of-0001.parquet"
    benchmark = results / "benchmarks/convert/mias/0000-of-0001.jsonl"
    convert = ["convert", "mias", "--shard", str(shard), "--root", str(root), "--store", str(store),
               "--ledger", str(ledger), "--settings", '{"long_side": 64}', "--threads", "1"]  # fmt: skip
    assert main(["phantom", "mias", str(root), "--patients", "3", "--seed", "1"]) == 0
    assert main(["inventory", "mias", str(root), "--out", str(results / "mias/inventory")]) == 0
    assert main(["shard", "mias", "--inventory", str(results / "mias/inventory"), "--out", str(shard.parent),
                 "--shards", "1"]) == 0  # fmt: skip
    assert main(convert) == 0
    benchmark.parent.mkdir(parents=True)
    benchmark.write_text(json.dumps({"s": 90.0, "cpu_time": 77.0, "max_rss": 100.0}))
    config = resolved(tmp_path, datasets={"mias": {"shards": 1}}, convert={"long_side": 64})
    whole = estimate.plan(config)["datasets"]["mias"]
    assert whole["seconds_per_image"] == pytest.approx(77 / whole["images"], rel=1e-3)
    next(store.rglob("*.png")).unlink()
    assert main(convert) == 0
    seconds = tables.read(ledger, "convert_ledger")["seconds"].dropna()
    assert len(seconds) == 1
    resumed = estimate.plan(config)["datasets"]["mias"]
    assert resumed["seconds_per_image"] == pytest.approx(seconds.iloc[0], abs=1e-4)
    assert resumed["rate_source"] == "measured on 1 images"
    assert (resumed["images_done"], resumed["shards_done"]) == (whole["images"], 1)
    assert main(convert) == 0  # nothing was lost: nothing tells a time
    assert estimate.plan(config)["datasets"]["mias"]["rate_source"] == "assumed"


def test_what_was_made_with_other_settings_is_made_anew_and_tells_no_rate(tmp_path):
    images = write_inventory(tmp_path / "results", "rsna", patients=10)
    write_ledger(tmp_path, "rsna", images, shard=0, shards=2, seconds=1.0, long_side=512)
    write_ledger(tmp_path, "rsna", images, shard=1, shards=2, seconds=1.0, long_side=512)
    datasets = {"rsna": {"shards": 2}}
    same = estimate.plan(resolved(tmp_path, datasets=datasets, convert={"long_side": 512}))["datasets"]["rsna"]
    assert (same["images_done"], same["core_hours_left"]) == (40, 0)
    other = estimate.plan(resolved(tmp_path, datasets=datasets, convert={"long_side": 1024}))["datasets"]["rsna"]
    assert (other["images_done"], other["shards_done"], other["rate_source"]) == (0, 0, "assumed")
    assert other["core_hours_left"] > 0
    assert other["write_gb_left"] == other["write_gb"] > 40 * 1000 / 1e9


def test_crops_of_another_margin_are_cut_anew(tmp_path):
    recipe = settings.crop_recipe("cbis_ddsm", settings.resolve_section("crop", {}))
    row = {"dataset": "cbis_ddsm", "image_id": "a", "finding_id": "a_0", "patient_id": "p", "status": "failed",
           "error": "Gone", "recipe": recipe}  # fmt: skip
    ledger = tables.finish("crop_ledger", pd.DataFrame([row]))
    tables.write(ledger, tmp_path / "results/cbis_ddsm/crop/0000-of-0001.parquet")
    datasets = {"cbis_ddsm": {"shards": 1}}
    hours = [
        estimate.plan(resolved(tmp_path, datasets=datasets, crop=crop))["datasets"]["cbis_ddsm"]["core_hours_left"]
        for crop in ({}, {"margin": 0.5})
    ]
    assert hours[1] > 1.5 * hours[0]


def test_another_layout_of_shards_is_not_counted_as_done(tmp_path):
    images = write_inventory(tmp_path / "results", "rsna", patients=10)
    write_ledger(tmp_path, "rsna", images, shard=0, shards=1, seconds=0.5)
    row = estimate.plan(resolved(tmp_path, datasets={"rsna": {"shards": 5}}))["datasets"]["rsna"]
    assert row["shards_done"] == 0


def test_lesions_are_decoded_twice_only_where_they_are_marked(tmp_path):
    costs = estimate.plan(resolved(tmp_path, datasets={"cbis_ddsm": {}, "rsna": {}}))["datasets"]
    assert costs["cbis_ddsm"]["read_gb"] == pytest.approx(2 * 102.6, rel=1e-3)  # each film has a lesion
    assert costs["rsna"]["read_gb"] == pytest.approx(314, rel=1e-3)  # none has


def test_small_images_are_not_enlarged(tmp_path):
    row = estimate.plan(resolved(tmp_path, datasets={"mias": {}}))["datasets"]["mias"]
    assert row["write_gb"] == pytest.approx(0.338 + 119 * rates.CROP_BYTES / 1e9, abs=1e-3)


def test_training_hours_follow_epochs_folds_and_devices(tmp_path):
    sections = {"datasets": {"rsna": {}}, "cohorts": {"main": {"datasets": ["rsna"], **SPLITS}}}
    one = estimate.plan(resolved(tmp_path, **sections, runs={"a": {**RUN, "processes": 1, "accelerator": "cuda"}}))
    four = estimate.plan(
        resolved(tmp_path, **sections, runs={"a": {**RUN, "processes": 4, "accelerator": "cuda", "epochs": 20}})
    )
    cpu = estimate.plan(resolved(tmp_path, **sections, runs={"a": {**RUN, "accelerator": "cpu"}}))
    seen = 54706 * 0.6 * 2 / 3 + 54706 * 0.2 / rates.PREDICT_SPEEDUP
    speed = rates.TRAIN_MPX_PER_GPU_SECOND / (1024 * 512 / 1e6)
    assert one["runs"]["a"]["hours_per_fold"] == pytest.approx(10 * seen / speed / 3600, rel=1e-3)
    assert four["runs"]["a"]["hours_per_fold"] == pytest.approx(one["runs"]["a"]["hours_per_fold"] / 2, rel=1e-2)
    assert four["total"]["gpu_hours"] > 1.9 * one["total"]["gpu_hours"]
    assert cpu["total"]["gpu_hours"] == 0
    assert cpu["total"]["core_hours"] > one["total"]["core_hours"]


def test_a_finished_fold_gives_the_speed_and_is_not_counted_again(tmp_path):
    folder = tmp_path / "results" / "runs" / "a" / "0"
    folder.mkdir(parents=True)
    pd.DataFrame({"epoch": range(4), "images_per_s": [1.0, 40.0, 50.0, 60.0]}).to_csv(folder / "metrics.csv")
    section = settings.resolve_section("run", RUN)
    (folder / "train.json").write_text(json.dumps({"device": "NVIDIA H200", "settings": section, "seed": 2026}))
    (folder / "weights.safetensors").touch()
    cohorts = {"main": {"datasets": ["rsna"], **SPLITS}}
    row = estimate.plan(resolved(tmp_path, datasets={"rsna": {}}, cohorts=cohorts, runs={"a": RUN}))["runs"]["a"]
    assert row["rate_source"].endswith("on NVIDIA H200")
    seen = 54706 * 0.6 * 2 / 3 + 54706 * 0.2 / rates.PREDICT_SPEEDUP
    assert row["hours_per_fold"] == pytest.approx(10 * seen / 50.0 / 3600, rel=1e-3)
    assert row["folds_done"] == 1
    assert row["gpu_hours_left"] == pytest.approx(row["gpu_hours"] - row["hours_per_fold"], abs=2e-3)
    longer = {"a": {**RUN, "epochs": 20}}
    row = estimate.plan(resolved(tmp_path, datasets={"rsna": {}}, cohorts=cohorts, runs=longer))["runs"]["a"]
    assert (row["folds_done"], row["rate_source"]) == (0, f"measured: {folder / 'metrics.csv'} on NVIDIA H200")
    larger = {"a": {**RUN, "image_size": [2048, 1024]}}
    row = estimate.plan(resolved(tmp_path, datasets={"rsna": {}}, cohorts=cohorts, runs=larger))["runs"]["a"]
    assert row["rate_source"].startswith("assumed")
    later = {"a": {**RUN, "evaluate": {"bootstrap": 100}}}
    assert estimate.plan(resolved(tmp_path, datasets={"rsna": {}}, cohorts=cohorts, runs=later))["runs"]["a"][
        "folds_done"
    ]


def test_shards_that_are_too_long_or_too_short_are_named_with_a_better_number(tmp_path):
    long = estimate.plan(resolved(tmp_path, datasets={"rsna": {"shards": 2}}))["notes"]
    short = estimate.plan(resolved(tmp_path, datasets={"rsna": {"shards": 2000}}))["notes"]
    (advice,) = [note for note in long if "of its 120 minutes" in note]
    shards = int(re.search(r"shards: (\d+) would", advice)[1])
    assert f"datasets.rsna.shards: {shards} would" in " ".join(short)
    good = estimate.plan(resolved(tmp_path, datasets={"rsna": {"shards": shards}}))
    assert 15 < good["datasets"]["rsna"]["longest_shard_minutes"] < 40
    assert not [note for note in good["notes"] if "shards:" in note]


def test_the_plan_knows_what_the_rule_asks_for(repository):
    rule = (repository / "workflow" / "rules" / "convert.smk").read_text()
    assert f"threads: {estimate.CONVERT_THREADS}" in rule
    assert f"runtime=runtime_minutes({estimate.CONVERT_LIMIT_MINUTES})" in rule


def test_a_full_disk_is_said_before_the_run(tmp_path, monkeypatch):
    config = resolved(tmp_path, datasets={"rsna": {}})
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 5 * 10**9}))
    costs = estimate.plan(config)
    (disk,) = costs["disks"]  # store and results lie on one filesystem here: one line, one sum
    assert disk["free_gb"] == 5.0
    assert any("5.0 GB are free" in note for note in costs["notes"])


def test_numbers_read_well():
    assert [number(54706), number(None), number(0.004, 1), number(0.0, 1)] == ["54,706", "?", "0.004", "0.0"]
    assert [duration(3.21), duration(45), duration(300), duration(None)] == ["3.2 min", "45 min", "5.0 h", "?"]


def test_the_command_prints_text_and_json(tmp_path, capsys):
    config = {"results": str(tmp_path / "r"), "datasets": {"mias": {}}, "cohorts": {"main": {"datasets": ["mias"]}}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**config, "runs": {"a": {"cohort": "main"}}}))
    assert main(["plan", "--config", str(tmp_path / "c.yaml")]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^mias +322 +0 +0 of 8", text, re.MULTILINE)
    assert "pack main-1024x512" in text
    assert main(["plan", "--config", str(tmp_path / "c.yaml"), "--json"]) == 0
    costs = json.loads(capsys.readouterr().out)
    assert costs["total"]["images"] == 322
    assert np.isfinite(list(costs["total"].values())).all()
    assert len(tables_of(costs)) == 4


def test_a_missing_or_broken_configuration_is_one_sentence(tmp_path, capsys):
    assert main(["plan", "--config", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml cannot be read" in capsys.readouterr().err
    (tmp_path / "bad.yaml").write_text("datasets: [a")
    assert main(["plan", "--config", str(tmp_path / "bad.yaml")]) == 2
    assert "is not valid YAML" in capsys.readouterr().err


def test_the_default_configuration_and_the_examples_can_be_planned(repository):
    for path in [repository / "config" / "config.yaml", *sorted((repository / "config").glob("*/*.yaml"))]:
        assert estimate.plan(settings.read_config(path))["total"]["images"] > 0
