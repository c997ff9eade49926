"""A trained run leaves as safetensors and ONNX that compute what the run computes, or not at all."""

import json
import re
import shutil

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch

from mammoflow import files, pack, settings, tables
from mammoflow.cli import main
from mammoflow.train import command, export_model, onnx_graph
from mammoflow.train.auxiliary import AGE_MEAN, AGE_STD
from mammoflow.train.model import normalise
from mammoflow.train.predict import load_fold, score_units
from mammoflow.train.units import build_units, participants
from training_cohort import one_thread, pack_cohort, write_cohort

SECTION = {
    "cohort": "synthetic", "encoder": "test_resnet", "image_size": [64, 32], "epochs": 1, "batch_size": 8,
    "workers": 0, "accelerator": "cpu", "learning_rate": 0.01,
}  # fmt: skip
DRAWN = {"task": "segment", "segment": {
    "classes": "lesion", "decoder_channels": 16, "sampling": "window", "window": [32, 32],
}}  # fmt: skip


TAUGHT = {"auxiliary": {"view": 0.1, "density": 0.1, "age": 0.1, "birads": 0.1}}


@pytest.fixture(scope="module", autouse=True)
def same_threads():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results with a cohort, its pack, and runs of one fold each: `demo`, `drawn` and `taught`."""
    root = tmp_path_factory.mktemp("results")
    written, store = write_cohort(root, patients=20)
    cohort = root / "cohorts" / "synthetic"
    cohort.parent.mkdir()
    shutil.move(written, cohort)
    files.write_yaml(root / "config.yaml", {"data": str(root / "data"), "convert": {}})
    images = root / "packs" / "synthetic-64x32"
    pack_cohort(cohort, store, images)
    manifest = tables.read(cohort / "manifest.parquet", "manifest")
    number = pd.Series(range(len(manifest)), index=manifest.index)
    manifest["breast_density"] = (number % 4).map(dict(enumerate(tables.DENSITIES)))
    manifest["breast_birads"] = (number % 5 + 1).map("BI-RADS {}".format)
    manifest["age"] = 40 + number
    tables.write(tables.finish("manifest", manifest), cohort / "manifest.parquet")
    for name, changes in (("demo", {}), ("drawn", DRAWN), ("taught", TAUGHT)):
        section = settings.resolve_section("run", SECTION | changes)
        command.train(name, 0, cohort, images, section, 1, root / "runs" / name / "0")
    return root


@pytest.fixture(scope="module")
def exported(results):
    """The export of `demo`."""
    assert main(["model-card", str(results / "runs" / "demo")]) == 0
    out = results / "out" / "demo"
    assert main(["export-model", str(results / "runs" / "demo"), "--out", str(out)]) == 0
    return out


def told(out):
    return json.loads((out / "export.json").read_text())


def test_record_names_every_file_by_size_and_digest_and_how_close_the_two_are(results, exported):
    record = told(exported)
    assert [one["fold"] for one in record["folds"]] == [0]
    for one in record["folds"]:
        for name in ("model.safetensors", "model.onnx"):
            path = exported / str(one["fold"]) / name
            assert one["files"][name] == {"bytes": path.stat().st_size, "sha256": files.file_digest(path)}
        assert set(one["compared"]) == {
            "two random images", "one random image", "three of another size", "images of the run",
        }  # fmt: skip
        for numbers in one["compared"].values():
            assert set(numbers) == set(record["outputs"])
            assert all(0 <= number["largest_difference"] <= record["tolerance"] for number in numbers.values())
        trained = results / "runs" / "demo" / str(one["fold"])
        assert one["record"] == json.loads((trained / "train.json").read_text())
        assert (exported / str(one["fold"]) / "model.safetensors").read_bytes() == (
            trained / "weights.safetensors"
        ).read_bytes()
    assert record["compared_on_images_of_the_run"]
    assert record["opset"] == 18
    assert {"torch", "onnx", "onnxruntime", "timm"} <= set(record["reproduction"])
    left = sorted(path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file())
    assert left == ["0/model.onnx", "0/model.safetensors", "export.json", "model_card.md"]


def test_onnx_alone_gives_the_scores_of_predict(results, exported):
    """Grey values in, log-odds out: numpy and ONNX Runtime are enough."""
    directory = results / "runs" / "demo" / "0"
    record = json.loads((directory / "train.json").read_text())
    images = pack.PackedImages(results / "packs" / "synthetic-64x32")
    manifest = tables.read(results / "cohorts" / "synthetic" / "manifest.parquet", "manifest")
    test = [unit for unit in build_units(participants(manifest), "breast") if unit.split == "test"]
    assert len(test) == 8
    model = load_fold(directory, record, torch.device("cpu")).model
    session = onnxruntime.InferenceSession(exported / "0" / "model.onnx")
    scores = []
    for expected in score_units(model, test, images, record["settings"], torch.device("cpu")):
        pixels = np.stack([images[key][None] for key in expected.unit.images]).astype(np.float32) / 255
        made = dict(zip(OUTPUTS, session.run(OUTPUTS, {"image": pixels}), strict=True))
        np.testing.assert_allclose(sigmoid(made["breast_logit"]), [expected.score], atol=1e-5)
        views = np.stack([sigmoid(made["view_logit"]), made["view_share"], made["heat"].max((1, 2, 3))], axis=1)
        np.testing.assert_allclose(views, expected.views, atol=1e-5)
        np.testing.assert_allclose(made["attention"].sum((1, 2, 3)), 1, atol=1e-5)
        scores.append(expected.score)
    assert np.std(scores) > 0


OUTPUTS = list(onnx_graph.BreastGraph.outputs)


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def test_files_describe_themselves_and_name_nothing_of_this_machine(exported):
    model = onnx.load(exported / "0" / "model.onnx")
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties["run"] == "demo"
    assert properties["fold"] == "0"
    assert properties["image_size"] == "64x32"
    assert "not for diagnosis" in properties["notice"]
    (image,) = model.graph.input
    dimensions = image.type.tensor_type.shape.dim
    assert [one.dim_param or one.dim_value for one in dimensions] == ["views", 1, "height", "width"]
    assert {value.name for value in model.graph.output} == set(OUTPUTS)
    written = (exported / "0" / "model.onnx").read_bytes() + (exported / "export.json").read_bytes()
    for trace in (b"site-packages", b"/home/", b"/tmp/", b"/root/", b"stack_trace", str(exported.parent).encode()):
        assert trace not in written


def test_the_code_on_the_card_runs_as_it_stands(results, exported, monkeypatch, capsys):
    """Pasted into the exported directory, beside two pictures of one breast as `convert-file` makes them."""
    card = (exported / "model_card.md").read_text()
    assert "**Not evaluated.**" in card
    for view in ("CC", "MLO"):
        picture = results / "store" / "synthetic" / "r0" / "p001" / f"p001_L_{view}.png"
        shutil.copyfile(picture, exported / f"left_{view.lower()}.png")
    monkeypatch.chdir(exported)
    onnx_code, torch_code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    spaces = {}, {}
    for code, space in zip((onnx_code, torch_code), spaces, strict=True):
        exec(compile(code, "model_card.md", "exec"), space)
    views = torch.from_numpy(spaces[0]["views"])
    assert views.shape == (2, 1, 64, 32)
    with torch.inference_mode():
        expected = torch.sigmoid(spaces[1]["model"](normalise(views), torch.zeros(2, dtype=torch.int64), 1).bags)
    assert float(capsys.readouterr().out) == pytest.approx(float(expected), abs=1e-5)
    for view in ("cc", "mlo"):
        (exported / f"left_{view}.png").unlink()


def test_a_graph_that_computes_something_else_is_not_exported(results, exported, tmp_path, monkeypatch, capsys):
    """One bias is off by a thousandth; an earlier export in the same place stays whole."""
    model = onnx.load(exported / "0" / "model.onnx")
    (bias,) = [one for one in model.graph.initializer if one.name.endswith("head.bias")]
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(1e-3), bias.name))

    def wrong(graph, size, path, metadata):
        onnx.save(model, path)

    monkeypatch.setattr(export_model, "export", wrong)
    out = tmp_path / "out"
    assert main(["export-model", str(results / "runs" / "demo"), "--out", str(out)]) == 2
    assert re.search(
        r"0/model.onnx: breast_logit of two random images differs by .* nothing was", capsys.readouterr().err
    )
    assert list(out.iterdir()) == []
    before = {path: path.read_bytes() for path in exported.rglob("*") if path.is_file()}
    assert main(["export-model", str(results / "runs" / "demo"), "--out", str(exported)]) == 2
    assert {path: path.read_bytes() for path in exported.rglob("*") if path.is_file()} == before


def test_a_segmentation_of_windows_says_so_and_takes_whole_images_too(results, tmp_path):
    out = tmp_path / "drawn"
    assert main(["export-model", str(results / "runs" / "drawn"), "--out", str(out)]) == 0
    record = told(out)
    assert record["classes"] == ["background", "lesion"]
    assert record["window"] == [32, 32]
    assert set(record["outputs"]) == {"probability", "logits"}
    session = onnxruntime.InferenceSession(out / "0" / "model.onnx")
    image = np.random.default_rng(0).random((3, 1, 64, 96), np.float32)
    probability, logits = session.run(["probability", "logits"], {"image": image})
    assert probability.shape == logits.shape == (3, 2, 64, 96)
    np.testing.assert_allclose(probability.sum(1), 1, atol=1e-5)
    assert not (out / "model_card.md").exists()


def test_auxiliary_heads_are_outputs_of_their_own(results, tmp_path):
    out = tmp_path / "taught"
    assert main(["export-model", str(results / "runs" / "taught"), "--out", str(out)]) == 0
    record = told(out)
    assert set(record["outputs"]) == {*OUTPUTS, "mlo_logit", "density_logits", "age_years", "birads_logits"}
    assert all(set(numbers) == set(record["outputs"]) for numbers in record["folds"][0]["compared"].values())

    directory = results / "runs" / "taught" / "0"
    model = load_fold(directory, record["folds"][0]["record"], torch.device("cpu")).model
    views = torch.rand(3, 1, 64, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model(normalise(views), torch.zeros(3, dtype=torch.int64), 1).auxiliary
    session = onnxruntime.InferenceSession(out / "0" / "model.onnx")
    made = dict(zip(record["outputs"], session.run(list(record["outputs"]), {"image": views.numpy()}), strict=True))
    for head, output in onnx_graph.AUXILIARY.items():
        shape = [3 if length == "views" else length for length in record["outputs"][output]["shape"]]
        assert list(made[output].shape) == shape
        if head != "age":
            np.testing.assert_allclose(made[output], expected[head].numpy(), atol=1e-4)
    np.testing.assert_allclose(made["age_years"], AGE_MEAN + AGE_STD * expected["age"][:, 0].numpy(), atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: (run / "0" / "train.json").unlink(), "is not trained to its end"),
        (lambda run: shutil.rmtree(run / "0"), "holds no trained fold"),
        (lambda run: torch.save({}, run / "0" / "weights.safetensors"), "weights.safetensors is damaged"),
        (lambda run: shutil.copytree(run / "0", run / "1"), "are the same fold"),
    ],
)
def test_what_cannot_be_exported_is_named(results, tmp_path, change, message, capsys):
    run = tmp_path / "runs" / "demo"
    shutil.copytree(results / "runs" / "demo", run)
    change(run)
    assert main(["export-model", str(run), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*"))
