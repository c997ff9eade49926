"""The main result of a run in plain words."""

from typing import Any

from mammoflow.headline import select
from mammoflow.truth import truth_of


def headline_sentences(metrics: dict[str, Any], model: str) -> list[str]:
    """The main result in plain words: the score, the floor beside it, and what the picture adds."""
    test = {block["model"]: block for block in select(metrics["results"], level="breast", split="test")}
    main, floor = (test[name]["metrics"].get("auc") for name in (model, "metadata"))
    if not main or main["value"] is None:
        reason = main["reason"] if main else test[model]["reason"]
        return [f"No AUC can be stated on the test split: {reason}."]
    block, truth = test[model], truth_of(metrics.get("label_sources", {}))
    names = {"image": "the image model", "fused": "the image model with metadata"}
    sentences = [
        f"Shown {truth.pair}, {names[model]} scores {truth.positive} higher in "
        f"{100 * main['value']:.0f} of 100 pairs{_between(main, metrics)}. "
        f"It had never seen these {block['n_patients']} patients."
    ]
    if truth.note:
        sentences.append(truth.note)
    if floor and floor["value"] is not None:
        reached = f"{100 * floor['value']:.0f} of 100{_between(floor, metrics)}"
        sentences.append(f"Without any picture, metadata alone reaches {reached}.")
    for row in select_differences(metrics, "test", model, "metadata"):
        amount = f"{_signed(row['value'])} pairs in 100 ({_signed(row['low'])} to {_signed(row['high'])})"
        if row["low"] > 0:
            sentences.append(f"Over that floor the gain is {amount}.")
        else:
            sentences.append(f"The difference is {amount}: this test set does not show that the picture adds anything.")
    return sentences


def select_differences(metrics: dict[str, Any], split: str, first: str, second: str) -> list[dict[str, Any]]:
    """The paired difference of two models per breast on a split, where it has an interval: one row or none."""
    wanted = ("breast", split, first, second)
    keys = ("level", "split", "first", "second")
    rows = [row for row in metrics["differences"] if tuple(row[key] for key in keys) == wanted]
    return [row for row in rows if row["low"] is not None]


def _signed(difference: float) -> str:
    return f"{100 * difference:+.0f}".replace("-", "−")


def _between(number: dict[str, Any], metrics: dict[str, Any]) -> str:
    if number["low"] is None:
        return " (no interval)"
    confidence = 100 * metrics["settings"]["confidence"]
    return f" ({confidence:g} % interval {100 * number['low']:.0f} to {100 * number['high']:.0f})"
