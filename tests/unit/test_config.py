"""Schema, config.yaml and config/README.md say the same; wrong configurations are explained."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mammoflow import config_reference, settings
from mammoflow.errors import UserError


def read_config(repository: Path, name: str) -> dict:
    return yaml.safe_load((repository / "config" / name).read_text(encoding="utf-8"))


def test_readme_table_is_that_of_the_schema(repository: Path) -> None:
    readme = (repository / "config/README.md").read_text(encoding="utf-8")
    assert config_reference.refresh(readme) == readme, "run `make config-reference`"


def test_every_key_of_the_schema_has_a_description() -> None:
    for path, rule in config_reference.keys(settings.schema()):
        assert rule.get("description"), path


def test_config_yaml_shows_every_key_with_its_default(repository: Path) -> None:
    config = read_config(repository, "config.yaml")
    definitions = settings.schema()["$defs"]
    for section in ("convert", "crop", "labels", "manifest"):
        defaults = {key: rule["default"] for key, rule in definitions[section]["properties"].items()}
        assert config[section] == defaults
    shown = {"cohort": config["cohorts"]["main"], "run": config["runs"]["baseline"]}
    for name, values in shown.items():
        assert set(values) == set(definitions[name]["properties"])
        resolved = settings.resolve_section(
            name, {"cohort": "main"} if name == "run" else {"datasets": values["datasets"]}
        )
        assert values == resolved
    top = {key for key, rule in settings.schema()["properties"].items()}
    assert set(config) == top


@pytest.mark.parametrize(
    "name",
    ["config.yaml", "demo.yaml", "examples/mias.yaml", "examples/cbis_ddsm.yaml", "examples/curriculum.yaml"],
)
def test_every_shipped_configuration_is_valid(repository: Path, name: str) -> None:
    settings.check_references(settings.resolve(read_config(repository, name)))


def test_resolving_twice_changes_nothing(repository: Path) -> None:
    once = settings.resolve(read_config(repository, "demo.yaml"))
    assert settings.resolve(once) == once


def test_an_empty_dataset_section_means_defaults() -> None:
    assert settings.resolve({"datasets": {"mias": None}})["datasets"]["mias"]["shards"] == 8


def test_shares_that_do_not_add_up() -> None:
    config = {
        "datasets": {"mias": {}},
        "cohorts": {"a": {"datasets": ["mias"], "splits": {"train": 0.5, "val": 0.1, "test": 0.1}}},
    }
    with pytest.raises(UserError, match=r"config\.cohorts\.a\.splits: the shares add up to 0\.7, not 1"):
        settings.check_references(settings.resolve(config))


def test_an_archive_without_a_benign_class_is_refused_with_the_reason() -> None:
    config = {"datasets": {"tcga_brca": {}}, "cohorts": {"a": {"datasets": ["tcga_brca"]}}}
    with pytest.raises(
        UserError, match=r"cohorts\.a\.datasets: 'tcga_brca': every woman .* no benign class .* unlabelled"
    ):
        settings.check_references(settings.resolve(config))


def test_a_flag_that_does_not_exist_is_refused() -> None:
    config = {"datasets": {"mias": {}}, "manifest": {"exclude_flags": ["noisy_only"]}}
    with pytest.raises(UserError, match=r"exclude_flags: unknown flag 'noisy_only' \(did you mean 'noise_only'"):
        settings.check_references(settings.resolve(config))


def test_settings_that_are_not_json() -> None:
    with pytest.raises(UserError, match="not valid JSON"):
        settings.parse_section("convert", "{long_side: 3")


@given(st.integers(32, 4000), st.booleans())
def test_recipe_depends_on_values_not_on_order(side: int, crop: bool) -> None:
    one = settings.recipe("convert", {"long_side": side, "crop": crop})
    assert one == settings.recipe("convert", {"crop": crop, "long_side": side})
    assert one != settings.recipe("convert", {"crop": not crop, "long_side": side})
    assert one != settings.recipe("crop", {"long_side": side, "crop": crop})


@pytest.mark.parametrize("place", ["~/store", "$SCRATCH/store", "/scratch/${USER}"])
def test_a_place_that_only_a_shell_would_understand_is_refused(place: str) -> None:
    with pytest.raises(UserError, match=r"config.store: no shell reads .* write the whole path"):
        settings.resolve({"store": place})


def test_a_slash_at_the_end_names_the_same_place() -> None:
    assert settings.resolve({"results": "out/"})["results"] == "out"
    assert settings.resolve({"data": "/"})["data"] == "/"
