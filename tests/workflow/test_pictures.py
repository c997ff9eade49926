"""The graphs in the documentation are those of the workflow."""

import re
import subprocess
import sys

import pytest

from workflow.harness import REPOSITORY

pytestmark = pytest.mark.workflow

PAGE = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
PICTURES = re.findall(
    r"\(`snakemake ([^`|]*mermaid-js[^`|]*) \| grep -v style`\):\n\n```mermaid\n(.*?)```", PAGE, re.DOTALL
)


def edges(mermaid: str) -> set[tuple[str, str]]:
    """(from, to) by the nodes' titles: their numbers and order are not stable."""
    titles = dict(re.findall(r"(id\d+)\[([^\]]*)\]", mermaid))
    return {(titles[start], titles[end]) for start, end in re.findall(r"(id\d+) --> (id\d+)", mermaid)}


def test_both_graphs_are_there() -> None:
    assert len(PICTURES) == 2


@pytest.mark.parametrize(("arguments", "mermaid"), PICTURES, ids=["rules", "jobs"])
def test_a_graph_is_what_its_command_draws(arguments: str, mermaid: str) -> None:
    command = [sys.executable, "-m", "snakemake", *arguments.split()]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert len(edges(mermaid)) >= 5
    assert edges(done.stdout) == edges(mermaid)
