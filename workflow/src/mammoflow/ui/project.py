"""The directory the page works for: its configuration file, and where data and results lie."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mammoflow import settings
from mammoflow.errors import UserError
from mammoflow.files import read_json, write_json, write_text

HEADER = "# Written by `python -m mammoflow ui`. Every key: config/README.md.\n"
# Snakefile, profiles/: the workflow this package belongs to.
WORKFLOW = Path(settings.__file__).resolve().parents[3]


@dataclass(frozen=True)
class Project:
    """root: where Snakemake runs, and what relative paths are relative to.  config_path: absolute."""

    root: Path
    config_path: Path

    def written(self) -> dict[str, Any]:
        """The configuration as it stands in the file; empty before the first one. Raises UserError for broken YAML."""
        if not self.config_path.is_file():
            return {}
        try:
            values = yaml.safe_load(self.config_path.read_text(encoding="utf-8")) or {}
        except yaml.YAMLError as error:
            raise UserError(f"{self.config_path} is not valid YAML ({error}): mend or delete it") from None
        if not isinstance(values, dict):
            raise UserError(f"{self.config_path} holds no configuration: mend or delete it")
        return values

    def config(self) -> dict[str, Any]:
        """The configuration with all defaults. Raises UserError where it is not valid."""
        return check(self.written(), self.config_path.name)

    def save(self, values: dict[str, Any]) -> None:
        """Validate and write the configuration. Nothing is written where it is not valid."""
        check(values, self.config_path.name)
        write_text(self.config_path, HEADER + yaml.safe_dump(values, sort_keys=False, allow_unicode=True))

    @property
    def data(self) -> Path:
        return self.root / self.config()["data"]

    @property
    def results(self) -> Path:
        return self.root / self.config()["results"]

    @property
    def store(self) -> Path:
        return self.root / self.config()["store"]

    @property
    def state(self) -> Path:
        """Where the page keeps what it must remember: below the results, which git never sees."""
        return self.results / ".page"

    def requests(self) -> dict[str, dict[str, Any]]:
        """Archive -> the ``collect`` section (without defaults) it was last fetched with, for Resume."""
        return read_json(self.state / "collect.json")

    def remember_request(self, dataset: str, section: dict[str, Any]) -> None:
        write_json(self.state / "collect.json", self.requests() | {dataset: section})

    def archive_root(self, dataset: str) -> Path:
        """Directory of an archive: its ``root`` in the configuration, else its name below ``data``."""
        section = self.config()["datasets"].get(dataset) or {}
        return self.data / (section.get("root") or dataset)


def check(values: dict[str, Any], where: str) -> dict[str, Any]:
    """``values`` validated, with every default, as the workflow sees them. Raises UserError with the key's path."""
    return settings.check_references(settings.resolve(copy.deepcopy(values), where), where)
