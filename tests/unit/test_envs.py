"""Each stage's environment file holds every package that the stage's code imports."""

import ast
import re
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from mammoflow.cli import COMMANDS

SOURCE = Path(__file__).resolve().parents[2] / "workflow" / "src"
RULES = SOURCE.parents[1] / "workflow" / "rules"
ENVS = SOURCE.parents[1] / "envs"

# Names of the imports whose conda package is called otherwise.
CONDA_NAMES = {
    "cv2": "py-opencv",
    "isal": "python-isal",
    "PIL": "pillow",
    "segmentation_models_pytorch": "segmentation-models-pytorch",
    "sklearn": "scikit-learn",
    "torch": "pytorch",
    "yaml": "pyyaml",
}
# Who imports this function may load any adapter, by name, while it runs.
BY_NAME = "mammoflow.datasets.adapter"
ADAPTERS = [f"mammoflow.datasets.{path.stem}" for path in (SOURCE / "mammoflow" / "datasets").glob("*.py")]
# Hard dependencies of a package that is named.
COMES_WITH = {
    "markupsafe": "jinja2",
    "threadpoolctl": "scikit-learn",
    "yte": "snakemake-minimal",
    "humanfriendly": "snakemake-minimal",
}
# Reached through pandas, which does not import them by itself.
THROUGH_PANDAS = {"read_parquet": "pyarrow", "to_parquet": "pyarrow", "read_excel": "openpyxl"}


def file_of(module: str) -> Path | None:
    """The source of a module of this package; None for a name that is not a module."""
    path = SOURCE.joinpath(*module.split("."))
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


@cache
def imports_of(module: str) -> set[str]:
    """Every name that a module imports, at its top or inside its functions; type-checking imports left out."""
    tree = ast.parse(file_of(module).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and node.attr in THROUGH_PANDAS:
            found.add(THROUGH_PANDAS[node.attr])
    return found


def third_party(start: str) -> dict[str, str]:
    """Package outside of the standard library -> a module of ours that imports it, for all that ``start`` reaches."""
    queue, seen, found = [start, "mammoflow.cli"], set(), {}
    while queue:
        module = queue.pop()
        if module in seen or file_of(module) is None:
            continue
        seen.add(module)
        queue += [".".join(module.split(".")[:depth]) for depth in range(1, module.count(".") + 1)]
        for name in imports_of(module):
            top = name.split(".")[0]
            if top == "mammoflow":
                queue += ADAPTERS if name == BY_NAME else [name]
            elif top not in sys.stdlib_module_names:
                found.setdefault(top, module)
    return found


def stages() -> list[tuple[str, str]]:
    """(module, environment) of every rule."""
    found = set()
    for path in RULES.glob("*.smk"):
        for block in re.split(r"\n(?=\S|    rule:)", path.read_text(encoding="utf-8")):
            environment = re.search(r'"../../envs/(\w+)\.yaml"', block)
            command = re.search(r"python -m mammoflow(?:\.([\w.]+))?(?: ([\w-]+))?", block)
            if environment and command:
                module = f"mammoflow.{command[1]}" if command[1] else COMMANDS[command[2]][0]
                found.add((module, environment[1]))
                # A launcher starts a command of its own.
                inner = re.search(r"-- \\\n\s+(\w+) ", block)
                if inner:
                    found.add((COMMANDS[inner[1]][0], environment[1]))
    return sorted(found)


def test_the_rules_are_found():
    assert len(stages()) >= 11
    assert ("mammoflow.train.command", "train") in stages()
    assert ("mammoflow.shard", "convert") in stages()


@pytest.mark.parametrize(("module", "environment"), stages())
def test_the_environment_of_a_stage_has_what_it_imports(module, environment):
    lines = yaml.safe_load((ENVS / f"{environment}.yaml").read_text(encoding="utf-8"))["dependencies"]
    packages = {re.split(r"[ =]", line)[0] for line in lines}
    script = ENVS / f"{environment}.post-deploy.sh"
    if script.is_file():
        packages |= {"gdcm"} if "python-gdcm==" in script.read_text(encoding="utf-8") else set()
    needed = third_party(module)
    assert "numpy" in needed or "pandas" in needed or module == "mammoflow.train.launch"
    missing = {
        f"{CONDA_NAMES.get(name, name)} (imported by {by})"
        for name, by in needed.items()
        if CONDA_NAMES.get(name, name) not in packages and COMES_WITH.get(name) not in packages
    }
    assert not missing, f"envs/{environment}.yaml lacks {', '.join(sorted(missing))}"


@pytest.mark.parametrize(
    "module", ["mammoflow.settings", "mammoflow.files", "mammoflow.datasets", "mammoflow.preflight"]
)
def test_what_the_snakefile_and_the_check_need_is_where_snakemake_runs(module):
    """The environment of Snakemake has no numpy and no pandas of ours: every job reads the Snakefile anew."""
    lines = yaml.safe_load((ENVS / "snakemake.yaml").read_text(encoding="utf-8"))["dependencies"]
    packages = {re.split(r"[ =]", line)[0] for line in lines}
    missing = {name for name in third_party(module) if CONDA_NAMES.get(name, name) not in packages}
    assert {name for name in missing if COMES_WITH.get(name) not in packages} == set()


def test_the_decoders_that_pydicom_finds_by_name_are_in_the_conversion_environment():
    lines = yaml.safe_load((ENVS / "convert.yaml").read_text(encoding="utf-8"))["dependencies"]
    packages = {line.split(" ")[0] for line in lines}
    assert {"pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle"} <= packages


def test_what_pip_installs_by_hash_is_what_the_tests_ran_with():
    script = (ENVS / "convert.post-deploy.sh").read_text(encoding="utf-8")
    pins = (ENVS.parent / "requirements" / "convert.txt").read_text(encoding="utf-8")
    (version,) = re.findall(r"python-gdcm==(\S+)", pins)
    assert f"python-gdcm=={version} --hash=sha256:" in script


def test_the_environments_agree_so_that_one_container_can_hold_them_all():
    versions = {}
    stages = ("collect", "convert", "tabular", "train")
    for stage in stages:
        for line in yaml.safe_load((ENVS / f"{stage}.yaml").read_text(encoding="utf-8"))["dependencies"]:
            name, _, version = line.partition(" ")
            assert versions.setdefault(name, version) == version, f"{name} in envs/{stage}.yaml"
    recipe = (ENVS.parent / "containers" / "mammoflow.def").read_text(encoding="utf-8")
    assert all(f"/opt/envs/{stage}.yaml" in recipe for stage in stages)
