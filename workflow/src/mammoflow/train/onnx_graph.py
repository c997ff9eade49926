"""Trained models as ONNX graphs that take plain grey values, and the check that they compute the same.

The graphs hold the normalisation, so that a caller feeds grey values in 0..1. Number of views, height and width are
free; the sizes that the model was trained on are what its figures hold for.
"""

import logging
import warnings
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from onnxscript import opset18
from torch import Tensor, nn

from mammoflow.errors import UserError
from mammoflow.train.auxiliary import HEADS
from mammoflow.train.model import BreastModel, normalise
from mammoflow.train.segmenter import SegmentModel

OPSET = 18  # the first whose ScatterElements knows `max`, which the pooling over views needs
STRIDE = 32  # of an encoder's last stage: heights and widths are multiples of it
# Share of an output's scale by which the two may differ: the runtimes sum in different order, in single precision. The
# scale is 1, or the output's largest value where that is more. Attention is thousandths, so there it is always that.
TOLERANCE = 1e-4


class BreastGraph(nn.Module):
    """``image`` (V, 1, H, W) in 0..1, the views of one breast, to the outputs that :data:`OUTPUTS` describes."""

    outputs = ("breast_logit", "view_logit", "heat", "attention", "view_share")

    def __init__(self, model: BreastModel) -> None:
        super().__init__()
        self.model = model
        self.outputs = type(self).outputs + tuple(AUXILIARY[name] for name in model.auxiliary)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        bag = torch.zeros(image.shape[0], dtype=torch.int64, device=image.device)
        output = self.model(normalise(image), bag, 1)
        # Grades stay log-odds: a threshold within the runtimes' tolerance would be another grade in one of them.
        taught = [
            HEADS[name].values(logits) if HEADS[name].grades is None else logits
            for name, logits in output.auxiliary.items()
        ]
        return output.bags, output.views, torch.sigmoid(output.heat), output.attention, output.shares, *taught


class SegmentGraph(nn.Module):
    """``image`` (N, 1, H, W) in 0..1 to the outputs that :data:`OUTPUTS` describes."""

    outputs = ("probability", "logits")

    def __init__(self, model: SegmentModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        logits = self.model(normalise(image))
        return logits.softmax(1), logits


AUXILIARY = {"density": "density_logits", "birads": "birads_logits", "age": "age_years", "view": "mlo_logit"}
GRAPHS = {"classify": BreastGraph, "segment": SegmentGraph}
INPUT = {
    "name": "image",
    "shape": ["views", 1, "height", "width"],
    "dtype": "float32",
    "values": "grey value from 0 (black, and everything outside of the breast) to 1 (white); not normalised further",
    "sizes": f"multiples of {STRIDE}; `image_size` is what the model was trained and tested on",
    "placement": "the breast's crop with the chest wall at the left edge, fitted without distortion, free rows shared "
    "between top and bottom (mammoflow.pack.fit)",
}
OUTPUTS = {
    "breast_logit": {
        "shape": [1],
        "meaning": "log-odds of malignancy of the views together; the sigmoid is the score. Feed the views of one "
        "breast, and of one only",
    },
    "view_logit": {
        "shape": ["views"],
        "meaning": "log-odds of malignancy of each view by itself: any images may share a call",
    },
    "heat": {
        "shape": ["views", 1, "h", "w"],
        "meaning": "probability of a malignant lesion per cell, over the whole input; means nothing where "
        "`heat_learned` is false",
    },
    "attention": {"shape": ["views", 1, "h", "w"], "meaning": "attention on each cell; sums to 1 in each view"},
    "view_share": {"shape": ["views"], "meaning": "share of each view in the attention; sums to 1 over the call"},
    "density_logits": {"shape": [1, 3], "meaning": "log-odds that the breast is denser than A, than B, than C"},
    "birads_logits": {
        "shape": [1, 4],
        "meaning": "log-odds that the assessment is above BI-RADS 1, above 2, above 3, above 4",
    },
    "age_years": {"shape": [1], "meaning": "age"},
    "mlo_logit": {"shape": ["views", 1], "meaning": "log-odds that the view is MLO and not CC"},
    "probability": {
        "shape": ["views", "classes", "height", "width"],
        "meaning": "probability of each class per pixel, background first",
    },
    "logits": {"shape": ["views", "classes", "height", "width"], "meaning": "the same before the softmax"},
}


def export(graph: nn.Module, size: tuple[int, int], path: Path, metadata: dict[str, str]) -> None:
    """Write ``graph`` (in evaluation mode, on the CPU) as one ONNX file. ``size``: (H, W) to trace it with.

    Raises UserError where torch cannot translate the encoder.
    """
    height, width = (STRIDE * torch.export.Dim(name, min=2) for name in ("height_in_strides", "width_in_strides"))
    # A dimension of one would be taken for a constant.
    example = torch.rand(2, 1, *(max(2 * STRIDE, length) for length in size))
    try:
        with _quiet():
            program = torch.onnx.export(
                graph,
                (example,),
                dynamo=True,
                dynamic_shapes={"image": {0: torch.export.Dim("views"), 2: height, 3: width}},
                input_names=["image"],
                output_names=list(graph.outputs),
                opset_version=OPSET,
                custom_translation_table={round: _round},
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(f"torch cannot write this encoder as ONNX ({reason}): safetensors is all there is") from error
    model = program.model_proto
    strip(model)
    shapes = {"image": INPUT["shape"], **{name: OUTPUTS[name]["shape"] for name in graph.outputs}}
    for value in [*model.graph.input, *model.graph.output]:
        for dimension, name in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
            if dimension.dim_param:  # else a number
                dimension.dim_param = name
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def strip(model: onnx.ModelProto) -> None:
    """Take out what the exporter notes of the machine: names of source files, and stack traces with them."""
    assert not model.functions  # the exporter inlines them
    del model.graph.value_info[:], model.graph.metadata_props[:]
    model.graph.doc_string = ""
    for part in [*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer]:
        part.doc_string = ""
        del part.metadata_props[:]


def session(path: Path) -> onnxruntime.InferenceSession:
    """The file in ONNX Runtime on the CPU, with as many threads as torch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@torch.inference_mode()
def compare(
    path: Path, graph: nn.Module, inputs: Iterable[tuple[str, Tensor]]
) -> dict[str, dict[str, dict[str, float]]]:
    """What ONNX Runtime and torch make of the same inputs: input -> output -> ``largest_difference`` and ``largest``,
    the largest absolute difference and value. Raises UserError where an output is beyond :data:`TOLERANCE`.
    """
    runtime, found = session(path), {}
    for name, image in inputs:
        made = runtime.run(list(graph.outputs), {"image": image.numpy()})
        found[name] = {}
        for output, one, other in zip(graph.outputs, made, graph(image), strict=True):
            expected, got = other.float(), torch.from_numpy(one)
            same_shape = got.shape == expected.shape
            difference = float((got - expected).abs().max()) if same_shape else float("nan")
            largest = float(expected.abs().max())
            scale = largest if output == "attention" else max(1.0, largest)
            if not difference <= TOLERANCE * scale:  # NaN is not
                raise UserError(
                    f"{path.parent.name}/{path.name}: {output} of {name} differs by {difference:.3g} from torch's "
                    f"(largest value {largest:.3g}, shapes {tuple(got.shape)} and {tuple(expected.shape)}): nothing "
                    "was exported; please report it with the encoder's name"
                )
            found[name][output] = {"largest_difference": difference, "largest": largest}
    return found


def _round(number: Any, digits: None = None) -> Any:
    """Python's ``round`` of a size that is not known yet, which the exporter lacks; both round halves to even."""
    return opset18.Cast(opset18.Round(number), to=onnx.TensorProto.INT64)


@contextmanager
def _quiet() -> Any:
    """The exporter reports its progress and what it wants from its own developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, before, strict=True):
            one.setLevel(level)
