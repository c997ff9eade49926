"""What of a stage is done with the settings of today, as far as a look at its files tells."""

from pathlib import Path
from typing import Any

from mammoflow import settings, tables
from mammoflow.files import read_json
from mammoflow.layout import ledger_paths

# Cohorts, packs and scores bear no mark that is quickly compared.
EXISTENCE = (
    "splits, packs and scores count as done where their files are there; whether a change makes them anew, "
    "`snakemake -n` tells"
)


def crops_done(results: Path, dataset: str, shards: int, recipe: str) -> bool:
    """Whether each shard has a crop ledger and no row of it another recipe."""
    ledgers = ledger_paths(results, dataset, "crop", shards)
    return len(ledgers) == shards and all(
        (tables.read(path, "crop_ledger")["recipe"] == recipe).all() for path in ledgers
    )


def fold_done(folder: Path, section: dict[str, Any], seed: int) -> bool:
    """Whether a fold is trained with this seed and the settings of ``section``, but for those of later stages."""
    record = read_json(folder / "train.json")
    if not record or not (folder / "weights.safetensors").is_file():
        return False
    given = settings.training_settings
    return record["seed"] == seed and given(record["settings"]) == given(section)
