"""Runs that build on runs, as far as their configuration tells."""

import pytest

from mammoflow import settings
from mammoflow.errors import UserError


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ({"a": {"from_run": "b"}}, r"runs\.a\.from_run: 'b' is not in runs \(a\)"),
        ({"a": {"from_run": "a"}}, r"runs\.a\.from_run: a -> a is a cycle"),
        (
            {
                "a": {"from_run": "c"},
                "b": {"from_run": "a"},
                "c": {"pseudo_labels": {"run": "b", "datasets": ["mias"]}},
            },
            r"runs\.a\.from_run: a -> c -> b -> a is a cycle",
        ),
        ({"a": {}, "b": {"from_run": "a", "encoder": "resnet18"}}, "no weight would fit"),
        ({"a": {}, "b": {"from_run": "a", "shuffle_labels": True}}, "negative control"),
        ({"a": {}, "b": {"pseudo_labels": {"run": "a", "datasets": ["rsna"]}}}, "'rsna' is not in datasets"),
        (
            {"a": {"task": "segment"}, "b": {"pseudo_labels": {"run": "a", "datasets": ["mias"]}}},
            "only classify runs give and take",
        ),
        (
            {"a": {"task": "segment", "segment": {"sampling": "window", "window": [2048, 64]}}},
            "larger than image_size",
        ),
        ({"a": {"task": "segment", "shuffle_labels": True}}, "learns from marked lesions"),
    ],
)
def test_references_between_runs_are_checked_at_once(runs, message):
    config = {"datasets": {"mias": {}}, "cohorts": {"m": {"datasets": ["mias"]}}}
    config["runs"] = {name: {"cohort": "m", **values} for name, values in runs.items()}
    with pytest.raises(UserError, match=message):
        settings.check_references(settings.resolve(config))


def test_a_chain_without_a_cycle_is_fine():
    runs = {
        "a": {},
        "b": {"from_run": "a"},
        "c": {"from_run": "b", "pseudo_labels": {"run": "a", "datasets": ["mias"]}},
    }
    config = {"datasets": {"mias": {}}, "cohorts": {"m": {"datasets": ["mias"]}}}
    config["runs"] = {name: {"cohort": "m", **values} for name, values in runs.items()}
    settings.check_references(settings.resolve(config))


FILMS = {"ddsm": "d", "cbis_ddsm": "c", "mias": "m"}


def resolved(runs):
    """A checked configuration of ``runs`` over one cohort per archive of FILMS, named by its letter."""
    config = {"datasets": {name: {} for name in FILMS}, "runs": runs}
    config["cohorts"] = {letter: {"datasets": [name]} for name, letter in FILMS.items()}
    config["cohorts"]["dm"] = {"datasets": ["ddsm", "mias"]}
    return settings.check_references(settings.resolve(config))


def labelling(run, *datasets):
    return {"run": run, "datasets": list(datasets)}


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ({"pre": {"cohort": "d"}, "final": {"cohort": "c", "from_run": "pre"}}, "final.from_run: run 'pre'"),
        ({"final": {"cohort": "d", "from_run": "pre"}, "pre": {"cohort": "c"}}, "final.from_run: run 'pre'"),
        (
            {
                "pre": {"cohort": "dm"},
                "mid": {"cohort": "m", "from_run": "pre"},
                "final": {"cohort": "c", "from_run": "mid"},
            },
            "final.from_run: run 'pre'",
        ),
        (
            {"pre": {"cohort": "d"}, "final": {"cohort": "c", "pseudo_labels": labelling("pre", "mias")}},
            "final.pseudo_labels.run: run 'pre'",
        ),
        (
            {"pre": {"cohort": "m"}, "final": {"cohort": "c", "pseudo_labels": labelling("pre", "mias", "ddsm")}},
            "final.pseudo_labels.datasets",
        ),
        (
            {
                "first": {"cohort": "m"},
                "pre": {"cohort": "m", "pseudo_labels": labelling("first", "ddsm")},
                "final": {"cohort": "c", "from_run": "pre"},
            },
            "final.from_run: run 'pre'",
        ),
        (
            {
                "first": {"cohort": "d"},
                "pre": {"cohort": "m", "pseudo_labels": labelling("first", "mias")},
                "final": {"cohort": "c", "pseudo_labels": labelling("pre", "mias")},
            },
            "final.pseudo_labels.run: run 'first'",
        ),
    ],
)
def test_films_under_other_ids_are_refused_when_the_configuration_is_read(runs, message):
    twins = r"brings in (ddsm|cbis_ddsm), which shows the same patients as (ddsm|cbis_ddsm) of run 'final'"
    with pytest.raises(UserError, match=rf"config\.runs\.{message}.* {twins} .*: leave "):
        resolved(runs)


def test_films_of_one_archive_may_be_chained():
    resolved({
        "pre": {"cohort": "d"},
        "mid": {"cohort": "dm", "from_run": "pre", "pseudo_labels": labelling("pre", "mias", "ddsm")},
        "final": {"cohort": "m", "from_run": "mid"},
        "beside": {"cohort": "c"},
    })  # fmt: skip


def test_a_cohort_of_the_same_films_is_refused_when_the_configuration_is_read():
    config = {"datasets": {"ddsm": {}, "cbis_ddsm": {}}, "cohorts": {"a": {"datasets": ["ddsm", "cbis_ddsm"]}}}
    with pytest.raises(UserError, match=r"config\.cohorts\.a\.datasets: cbis_ddsm and ddsm show the same patients"):
        settings.check_references(settings.resolve(config))
