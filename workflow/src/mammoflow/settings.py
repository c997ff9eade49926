"""The configuration: JSON-schema validation with defaults, and the recipe that names a stage's settings.

The schema ``workflow/schemas/config.schema.yaml`` is the single source of keys, defaults and descriptions. This module
stays free of numpy and pandas: every Snakemake job parses the Snakefile and with it imports this file.
"""

import copy
import difflib
import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from mammoflow.chains import refuse_cycle, refuse_films_seen_before, source_runs
from mammoflow.datasets import archive
from mammoflow.datasets.catalog import ROUTES
from mammoflow.datasets.same_films import refuse_same_films
from mammoflow.errors import UserError
from mammoflow.imaging.flags import FLAGS

DEFAULT = Path("config/config.yaml")
SCHEMA_PATH = Path(__file__).resolve().parents[2] / "schemas" / "config.schema.yaml"

# Raise a number when the same settings give different results: it enters the recipe, so that everything made by the
# older code is made anew.
STAGE_VERSIONS = {
    "inventory": 2,
    "shard": 1,
    "convert": 3,
    "crop": 4,
    "manifest": 4,
    "cohort": 3,
    "pack": 1,
    "pseudo": 2,
    "train": 3,
    "predict": 4,
    "fuse": 2,
    "evaluate": 5,
    "export": 2,
    "model_card": 2,
    "report": 2,
}


@cache
def schema() -> dict[str, Any]:
    """The configuration schema as a dictionary."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader saves each job 0.2 s, where PyYAML has it
    return yaml.load(SCHEMA_PATH.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 - both loaders are safe


def resolve(config: dict[str, Any], where: str = "config") -> dict[str, Any]:
    """Validate a whole configuration and return a copy with every default filled in.

    Directories lose what does not change their meaning (``./``, a last ``/``): names of files on Snakemake's command
    line lose it too, and would not be those of the rules.
    Raises UserError with the key's path, what is wrong and what is allowed.
    """
    filled = _resolve(config, schema(), where)
    for name in ("data", "results", "store"):
        place = filled[name]
        if place.startswith("~") or "$" in place:
            raise UserError(
                f"{where}.{name}: no shell reads {place!r}, so a directory would have that name: write the whole path"
            )
        filled[name] = os.path.normpath(place)
    return filled


def resolve_section(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Validate one section, named as in the schema's ``$defs``: ``convert``, ``crop``, ``labels``, ``run`` ..."""
    return _resolve(values, {**schema()["$defs"][name], "$defs": schema()["$defs"]}, name)


def parse_section(name: str, text: str) -> dict[str, Any]:
    """Parse a command line's ``--settings`` JSON as section ``name``."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"--settings is not valid JSON ({error}): give an object such as '{{}}' for the defaults"
        ) from None
    return resolve_section(name, values)


def recipe(stage: str, settings: dict[str, Any]) -> str:
    """Eight hex digits that name a stage's version and settings: a rule's parameter, and a directory of the store."""
    text = json.dumps([stage, STAGE_VERSIONS[stage], settings], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def convert_recipe(dataset: str, section: dict[str, Any]) -> str:
    """Recipe of the working images: the ``convert`` section and the archive's grey-scale rule."""
    return recipe("convert", {**section, "rule": archive(dataset).intensity_settings()})


def crop_recipe(dataset: str, section: dict[str, Any]) -> str:
    """Recipe of the lesion crops: the ``crop`` section and the archive's grey-scale rule."""
    return recipe("crop", {**section, "rule": archive(dataset).intensity_settings()})


def training_settings(run: dict[str, Any]) -> dict[str, Any]:
    """A run's settings without those of the later stages and of the other task, which must not train anew."""
    left_out = {"fuse", "evaluate"} | (set() if run["task"] == "segment" else {"segment"})
    return {key: value for key, value in run.items() if key not in left_out}


def check_references(config: dict[str, Any], where: str = "config") -> dict[str, Any]:
    """What a schema cannot say: names refer to things that exist, shares add up. Returns ``config`` unchanged.

    Raises UserError with the key's path.
    """
    for name, dataset in config["datasets"].items():
        archive(name)
        source = (dataset["collect"] or {}).get("source", "auto")
        if source not in ("auto", *ROUTES.get(name, ())):
            known = ", ".join(ROUTES.get(name, ())) or "no public route"
            raise UserError(
                f"{where}.datasets.{name}.collect.source: {name} cannot be collected from {source!r}; known: {known}"
            )
    for flag in config["manifest"]["exclude_flags"]:
        if flag not in FLAGS:
            near = difflib.get_close_matches(flag, FLAGS, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UserError(f"{where}.manifest.exclude_flags: unknown flag {flag!r}{hint}; known: {', '.join(FLAGS)}")
    for name, cohort in config["cohorts"].items():
        for dataset in cohort["datasets"]:
            if dataset not in config["datasets"]:
                known = ", ".join(config["datasets"]) or "none"
                raise UserError(f"{where}.cohorts.{name}.datasets: {dataset!r} is not in datasets ({known})")
            if archive(dataset).not_supervised:
                raise UserError(f"{where}.cohorts.{name}.datasets: {dataset!r}: {archive(dataset).not_supervised}")
        try:
            refuse_same_films(cohort["datasets"])
        except UserError as error:
            raise UserError(f"{where}.cohorts.{name}.datasets: {error}") from None
        total = sum(cohort["splits"].values())
        if abs(total - 1) > 1e-6:
            raise UserError(f"{where}.cohorts.{name}.splits: the shares add up to {total:g}, not 1")
    for name, run in config["runs"].items():
        if run["cohort"] not in config["cohorts"]:
            known = ", ".join(config["cohorts"]) or "none"
            raise UserError(f"{where}.runs.{name}.cohort: {run['cohort']!r} is not in cohorts ({known})")
        if run["batch_size"] % run["processes"]:
            raise UserError(
                f"{where}.runs.{name}.batch_size: {run['batch_size']} samples cannot be shared by "
                f"{run['processes']} processes; take a multiple of {run['processes']}"
            )
        if run["batch_size"] // run["processes"] < run["accumulate"]:
            raise UserError(
                f"{where}.runs.{name}.accumulate: a process gets {run['batch_size'] // run['processes']} samples of a "
                f"batch, which cannot be cut into {run['accumulate']} parts"
            )
        _check_run(config, name, f"{where}.runs.{name}")
    for name in config["runs"]:  # once all of them are sound: this follows chains to their beginning
        refuse_films_seen_before(config, name, f"{where}.runs.{name}")
    return config


def read_config(path: Path) -> dict[str, Any]:
    """The resolved configuration of a YAML file. Raises UserError where it cannot be read or is wrong."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name your configuration with --config") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a configuration: it must hold keys such as `datasets:`")
    return check_references(resolve(config, str(path)), str(path))


def _check_run(config: dict[str, Any], name: str, where: str) -> None:
    """References of one run to others, and what its task cannot do."""
    runs, run = config["runs"], config["runs"][name]
    sources = source_runs(run)
    for key, source in sources.items():
        if source not in runs:
            raise UserError(f"{where}.{key}: {source!r} is not in runs ({', '.join(runs)})")
        if run["shuffle_labels"] or runs[source]["shuffle_labels"]:
            raise UserError(
                f"{where}.{key}: a negative control with shuffle_labels can neither start from a run nor teach"
            )
    refuse_cycle(runs, name, where)
    if run["from_run"] and runs[run["from_run"]]["encoder"] != run["encoder"]:
        raise UserError(
            f"{where}.from_run: {run['from_run']!r} has encoder {runs[run['from_run']]['encoder']}, this run "
            f"{run['encoder']}: no weight would fit"
        )
    if run["pseudo_labels"]:
        if "segment" in (run["task"], runs[run["pseudo_labels"]["run"]]["task"]):
            raise UserError(f"{where}.pseudo_labels: only classify runs give and take pseudo-labels")
        for dataset in run["pseudo_labels"]["datasets"]:
            if dataset not in config["datasets"]:
                known = ", ".join(config["datasets"]) or "none"
                raise UserError(f"{where}.pseudo_labels.datasets: {dataset!r} is not in datasets ({known})")
    if run["task"] == "segment":
        if run["auxiliary"]:
            raise UserError(f"{where}.auxiliary: only classify runs have auxiliary heads")
        if run["shuffle_labels"]:
            raise UserError(f"{where}.shuffle_labels: segment learns from marked lesions, not from labels")
        window = run["segment"]["window"]
        if run["segment"]["sampling"] != "image" and any(map(int.__gt__, window, run["image_size"])):
            raise UserError(f"{where}.segment.window: {window} is larger than image_size {run['image_size']}")


def _resolve(values: Any, rules: dict[str, Any], where: str) -> dict[str, Any]:
    filled = _with_defaults(copy.deepcopy(values), rules)
    errors = sorted(Draft202012Validator(rules).iter_errors(filled), key=lambda error: list(map(str, error.path)))
    if errors:
        raise UserError("; ".join(_explain(error, where) for error in errors[:5]))
    return filled


def _follow(rules: dict[str, Any]) -> dict[str, Any]:
    """The definition behind a ``$ref``, or ``rules`` itself."""
    return schema()["$defs"][rules["$ref"].rsplit("/", 1)[1]] if "$ref" in rules else rules


def _with_defaults(values: Any, rules: dict[str, Any]) -> Any:
    if not isinstance(values, dict):
        return values
    for key, rule in rules.get("properties", {}).items():
        rule = _follow(rule)
        # Only sections have an object as default; a dataset is configured by naming it, so it is never filled in.
        if key not in values and "default" in rule and rules is not schema()["properties"]["datasets"]:
            values[key] = copy.deepcopy(rule["default"])
        if key in values:
            if values[key] is None and rule.get("type") == "object":
                values[key] = {}  # `mias:` with nothing behind it means: all defaults
            values[key] = _with_defaults(values[key], rule)
    extra = rules.get("additionalProperties")
    if isinstance(extra, dict):
        for key in values:
            values[key] = _with_defaults(values[key], _follow(extra))
    return values


def _explain(error: ValidationError, where: str) -> str:
    path = ".".join([where, *map(str, error.absolute_path)])
    if error.validator == "additionalProperties":
        allowed = sorted(error.schema.get("properties", {}))
        unknown = sorted(set(error.instance) - set(allowed))
        near = difflib.get_close_matches(unknown[0], allowed, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return f"{path}: unknown key {unknown[0]!r}{hint}; allowed: {', '.join(allowed)}"
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        return f"{path}: {missing[0]!r} is missing"
    if error.validator == "type":
        allowed = (
            error.validator_value if isinstance(error.validator_value, str) else " or ".join(error.validator_value)
        )
        return f"{path}: {error.instance!r} is not of type {allowed}"
    if error.validator == "enum":
        return f"{path}: {error.instance!r} is not allowed; allowed: {', '.join(map(str, error.validator_value))}"
    return f"{path}: {error.message}"
