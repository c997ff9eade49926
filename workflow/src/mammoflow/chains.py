"""Runs that build on runs: which a run names, that no run needs itself, and what a run has seen through them.

Free of numpy and pandas, as :mod:`mammoflow.settings`, which checks every configuration with this.
"""

from typing import Any

from mammoflow.datasets.same_films import refuse_seen_films
from mammoflow.errors import UserError


def source_runs(run: dict[str, Any]) -> dict[str, str]:
    """Key of a run's section -> the run it names: what has to be trained first."""
    named = {"from_run": run["from_run"], "pseudo_labels.run": (run["pseudo_labels"] or {}).get("run")}
    return {key: name for key, name in named.items() if name is not None}


def refuse_cycle(runs: dict[str, Any], name: str, where: str) -> None:
    """Raise UserError where ``name`` needs itself to be trained first."""
    paths = [[name]]
    while paths:
        path = paths.pop()
        for source in source_runs(runs[path[-1]]).values():
            if source == name:
                first = next(iter(source_runs(runs[name])))
                raise UserError(
                    f"{where}.{first}: {' -> '.join([*path, name])} is a cycle: no run could be trained first"
                )
            if source in runs and source not in path:
                paths.append([*path, source])


def refuse_films_seen_before(config: dict[str, Any], name: str, where: str) -> None:
    """Raise UserError where run ``name`` holds out patients whose films it or a run before it saw under other ids.

    ``config``: resolved, all its references good and without a cycle.
    """
    run = config["runs"][name]
    held_out = config["cohorts"][run["cohort"]]["datasets"]
    for key, source in source_runs(run).items():
        for before, datasets in _seen(config, source).items():
            refuse_seen_films(f"{where}.{key}: run {before!r}", datasets, f"run {name!r}", held_out)
    taken = (run["pseudo_labels"] or {}).get("datasets", [])
    refuse_seen_films(f"{where}.pseudo_labels.datasets", taken, f"run {name!r}", held_out)


def _seen(config: dict[str, Any], name: str) -> dict[str, set[str]]:
    """Run -> datasets it learns from by itself, of ``name`` and of all runs it builds on."""
    run = config["runs"][name]
    own = {*config["cohorts"][run["cohort"]]["datasets"], *(run["pseudo_labels"] or {}).get("datasets", [])}
    found = {name: own}
    for source in source_runs(run).values():
        found |= _seen(config, source)
    return found
