"""Curves as inline SVG. Colours are names of the page's CSS variables, so that one picture serves light and dark."""

import io
import re
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

# Matplotlib knows colours only as numbers: these stand in for CSS variables and are replaced in the finished SVG.
STAND_INS = {
    "#000011": "var(--ink)",
    "#000012": "var(--quiet)",
    "#000013": "var(--line)",
    "#000021": "var(--image)",
    "#000022": "var(--metadata)",
    "#000023": "var(--fused)",
    "#000024": "var(--calibrated)",
}
INK, QUIET, LINE = "#000011", "#000012", "#000013"
MODEL_COLOURS = {"image": "#000021", "metadata": "#000022", "fused": "#000023", "calibrated": "#000024"}
MODEL_DASHES = {"image": "-", "metadata": (0, (4, 2)), "fused": "-", "calibrated": (0, (1, 1))}
MODEL_NAMES = {"image": "image", "metadata": "metadata only", "fused": "image + metadata", "calibrated": "calibrated"}
STYLE = {
    "svg.fonttype": "none",  # text stays text: it takes the page's font and can be found and read aloud
    "svg.hashsalt": "mammoflow",  # the same picture gives the same bytes
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
}


def roc(curves: list[dict[str, Any]]) -> Markup | None:
    """ROC curves with their pointwise bands; None where no curve is defined."""
    with mpl.rc_context(STYLE):
        figure, axes = _square("1 - specificity", "sensitivity")
        drawn = [curve for curve in curves if curve["roc"]]
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":")
        for curve in drawn:
            colour = MODEL_COLOURS[curve["model"]]
            if curve["model"] != "metadata":
                band = pd.DataFrame(curve["band"])
                axes.fill_between(band["fpr"], band["low"], band["high"], color=colour, alpha=0.14, linewidth=0)
            _line(axes, curve, [p["fpr"] for p in curve["roc"]], [p["tpr"] for p in curve["roc"]])
        return _finish(figure, axes, "lower right") if drawn else None


def precision_recall(curves: list[dict[str, Any]], prevalence: float) -> Markup | None:
    """Precision-recall curves over the line of a guess; None where no curve is defined."""
    with mpl.rc_context(STYLE):
        figure, axes = _square("recall (sensitivity)", "precision (PPV)")
        drawn = [curve for curve in curves if curve["pr"]]
        axes.axhline(prevalence, color=QUIET, linewidth=0.8, linestyle=":")
        for curve in drawn:
            _line(axes, curve, [p["recall"] for p in curve["pr"]], [p["precision"] for p in curve["pr"]])
        return _finish(figure, axes, "lower left") if drawn else None


def calibration(curves: list[dict[str, Any]]) -> Markup | None:
    """Reliability diagram: observed share of malignant over the mean score, per bin of equal size."""
    with mpl.rc_context(STYLE):
        figure, axes = _square("score", "share malignant")
        drawn = [curve for curve in curves if curve["reliability"]]
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":")
        for curve in drawn:
            points = pd.DataFrame(curve["reliability"])
            _line(axes, curve, points["mean_score"], points["observed"], marker="o", markersize=4)
        return _finish(figure, axes, "upper left") if drawn else None


def learning(folds: dict[str, tuple[pd.DataFrame, dict[str, Any]]]) -> list[tuple[str, Markup]]:
    """(title, picture) of the losses and of the validation AUC over the epochs, one line per fold."""
    pictures = []
    for title, columns in [("Loss", ["train_loss", "val_loss"]), ("Validation AUC", ["val_auc"])]:
        with mpl.rc_context(STYLE):
            figure = Figure(figsize=(4.0, 2.8))
            axes = figure.add_subplot()
            shown = 0
            for position, (table, record) in enumerate(folds.values()):
                for column in columns:
                    if column not in table or table[column].isna().all():
                        continue
                    label = column.replace("_", " ") if position == 0 and len(columns) > 1 else None
                    colour = MODEL_COLOURS["metadata" if column == "train_loss" else "image"]
                    axes.plot(table["epoch"], table[column], color=colour, alpha=0.75, linewidth=1.3, label=label)
                    shown += 1
                best = table[table["epoch"] == record.get("best_epoch")]
                if len(best) and columns[-1] in best and best[columns[-1]].notna().all():
                    axes.plot(best["epoch"], best[columns[-1]], "o", color=MODEL_COLOURS["image"], markersize=4.5)
            if not shown:
                continue
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            pictures.append((title, _finish(figure, axes, "best")))
    return pictures


def _square(x: str, y: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(4.0, 3.8))
    axes = figure.add_subplot(xlabel=x, ylabel=y, xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), aspect="equal")
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_yticks(np.linspace(0, 1, 6))
    return figure, axes


def _line(axes: Any, curve: dict[str, Any], x: Any, y: Any, **options: Any) -> None:
    model = curve["model"]
    style = {"color": MODEL_COLOURS[model], "linestyle": MODEL_DASHES[model], "label": MODEL_NAMES[model]}
    axes.plot(x, y, **style, **options)


def _finish(figure: Figure, axes: Any, place: str) -> Markup:
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc=place)
    # Curves end in the corners: nothing of a line is cut off at the frame.
    target = io.StringIO()
    nothing = dict.fromkeys(["Date", "Creator", "Format", "Type"])
    figure.savefig(target, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.04, metadata=nothing)
    svg = target.getvalue()[target.getvalue().index("<svg") :]
    for number, variable in STAND_INS.items():
        svg = svg.replace(number, variable)
    # The page decides the width; the height follows from the viewBox.
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", svg.replace(' height="', ' data-height="', 1), count=1)
    return Markup(svg)  # noqa: S704 (drawn above from numbers and our own words)
