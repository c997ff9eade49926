"""Make torchvision importable beside a CPU-only torch, so that timm can be imported.

torchvision's wheel on PyPI is built for CUDA. Beside a torch without CUDA its compiled library cannot be loaded, and
``import torchvision`` then stops at ``operator torchvision::nms does not exist``, although nothing here uses that
operator. Naming the two operators it asks for lets the import through. Where torchvision works, nothing is changed.

Import this module before timm.
"""

import importlib
import sys

import torch

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: torch.library.Library | None = None  # its operators vanish with it


def ensure_torchvision() -> None:
    """Import torchvision, after declaring its missing operators where needed. Safe to call again."""
    global _library
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error) or _library is not None:
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _library = torch.library.Library("torchvision", "DEF")
        for operator in _OPERATORS:
            _library.define(operator)
        importlib.import_module("torchvision")


ensure_torchvision()
