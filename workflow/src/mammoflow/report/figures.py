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
RUN_COLOURS = ["#000021", "#000022", "#000023", "#000024"]
RUN_DASHES = ["-", (0, (5, 2)), (0, (1, 1)), (0, (5, 2, 1, 2))]
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
    """ROC curves of one run's scores with their pointwise bands; None where no curve is defined."""
    return _draw_roc([(curve, _model_style(curve)) for curve in curves])


def roc_of_runs(curves: list[dict[str, Any]]) -> Markup | None:
    """ROC curves of several runs' same score, each with its ``run``; None where no curve is defined."""
    styles = [
        {"color": RUN_COLOURS[k % 4], "linestyle": RUN_DASHES[k % 4], "label": curve["run"]}
        for k, curve in enumerate(curves)
    ]
    return _draw_roc(list(zip(curves, styles, strict=True)))


def _draw_roc(styled: list[tuple[dict[str, Any], dict[str, Any]]]) -> Markup | None:
    with mpl.rc_context(STYLE):
        figure, axes = _square("1 - specificity", "sensitivity")
        drawn = [(curve, style) for curve, style in styled if curve["roc"]]
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":")
        for curve, style in drawn:
            if curve["model"] != "metadata":
                _band(axes, curve["band"], "fpr", style["color"])
            axes.plot([p["fpr"] for p in curve["roc"]], [p["tpr"] for p in curve["roc"]], **style)
        return _finish(figure, axes, "lower right") if drawn else None


def precision_recall(curves: list[dict[str, Any]], prevalence: float) -> Markup | None:
    """Precision-recall curves with their bands over the line of a guess; None where no curve is defined."""
    with mpl.rc_context(STYLE):
        figure, axes = _square("recall (sensitivity)", "precision (PPV)")
        drawn = [curve for curve in curves if curve["pr"]]
        axes.axhline(prevalence, color=QUIET, linewidth=0.8, linestyle=":")
        for curve in drawn:
            style = _model_style(curve)
            if curve["model"] != "metadata":
                _band(axes, curve["pr_band"], "recall", style["color"])
            axes.plot([p["recall"] for p in curve["pr"]], [p["precision"] for p in curve["pr"]], **style)
        return _finish(figure, axes, "lower left") if drawn else None


def froc(points: list[dict[str, Any]]) -> Markup | None:
    """Share of lesions found over false positives per image (logarithmic), with its pointwise band."""
    if not points:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.0, 3.4))
        axes = figure.add_subplot(xlabel="false positives per image", ylabel="lesions found", ylim=(-0.01, 1.02))
        axes.set_xscale("log")
        table = pd.DataFrame(points, dtype=float)  # without any interval the ends would be objects
        known = table.dropna(subset=["low", "high"])
        colour = MODEL_COLOURS["image"]
        axes.fill_between(known["false_positives"], known["low"], known["high"], color=colour, alpha=0.14, linewidth=0)
        axes.plot(table["false_positives"], table["value"], color=colour, drawstyle="steps-post")
        ticks = [0.05, 0.125, 0.25, 0.5, 1, 2, 4, 8]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlim(table["false_positives"].min(), table["false_positives"].max())
        return _finish(figure, axes, "lower right")


def calibration(curves: list[dict[str, Any]]) -> Markup | None:
    """Reliability diagram: observed share of malignant, with its interval, over the mean score of equal-size bins."""
    with mpl.rc_context(STYLE):
        figure, axes = _square("score", "share malignant")
        drawn = [curve for curve in curves if curve["reliability"]]
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":")
        for curve in drawn:
            style = _model_style(curve)
            points = pd.DataFrame(curve["reliability"])
            axes.vlines(points["mean_score"], points["low"], points["high"], color=style["color"], alpha=0.35)
            axes.plot(points["mean_score"], points["observed"], marker="o", markersize=4, **style)
        return _finish(figure, axes, "upper left") if drawn else None


def shap_summary(values: list[dict[str, Any]], names: dict[str, str]) -> Markup | None:
    """Beeswarm of SHAP values: one dot per breast, strongest feature on top; low values faint, high values strong.

    ``values``: as in fuse.json, each feature with ``rank`` (0..1 or None) and ``shap`` of the same breasts.
    """
    if not values:
        return None
    with mpl.rc_context({**STYLE, "axes.spines.left": False}):
        # Names of features lie inside the width: they stay readable on a phone.
        figure = Figure(figsize=(4.9, 0.42 * len(values) + 0.9), layout="constrained")
        axes = figure.add_subplot(xlabel="SHAP value (log-odds)")
        axes.axvline(0, color=QUIET, linewidth=0.8)
        rng = np.random.default_rng(0)
        for row, feature in enumerate(reversed(values)):
            shap = np.array(feature["shap"])
            rank = np.array([np.nan if value is None else value for value in feature["rank"]])
            height = row + rng.uniform(-0.3, 0.3, len(shap))
            # Three steps of one hue, told apart by light as well as by colour, and a ring for the unknown.
            for low, high, alpha in [(0, 1 / 3, 0.22), (1 / 3, 2 / 3, 0.5), (2 / 3, 1.01, 0.95)]:
                picked = (rank >= low) & (rank < high)
                colour = MODEL_COLOURS["image"]
                axes.plot(
                    shap[picked], height[picked], "o", markersize=3.2, color=colour, alpha=alpha, markeredgewidth=0
                )
            unknown = np.isnan(rank)
            axes.plot(
                shap[unknown], height[unknown], "o", markersize=3.2, markerfacecolor="none", color=QUIET, alpha=0.5
            )
        labels = [names.get(feature["feature"], feature["feature"]) for feature in reversed(values)]
        axes.set_yticks(range(len(values)), labels)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        return _finish(figure, axes, "best")


def learning(folds: dict[str, tuple[pd.DataFrame, dict[str, Any]]]) -> list[tuple[str, Markup]]:
    """(title, picture) of the losses and of the validation AUC or Dice over the epochs, one line per fold."""
    pictures = []
    for title, columns in [
        ("Loss", ["train_loss", "val_loss"]),
        ("Validation AUC", ["val_auc"]),
        ("Validation Dice", ["val_dice"]),
    ]:
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


def _model_style(curve: dict[str, Any]) -> dict[str, Any]:
    model = curve["model"]
    return {"color": MODEL_COLOURS[model], "linestyle": MODEL_DASHES[model], "label": MODEL_NAMES[model]}


def _band(axes: Any, band: list[dict[str, float]], x: str, colour: str) -> None:
    points = pd.DataFrame(band, columns=[x, "low", "high"], dtype=float)  # empty where patients are few
    axes.fill_between(points[x], points["low"], points["high"], color=colour, alpha=0.14, linewidth=0)


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
