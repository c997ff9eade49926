"""Put a benchmark's tables into its own section of docs/benchmarks.md, and leave the other sections alone."""

import re
from pathlib import Path

from mammoflow.files import write_text


def write_section(path: Path, heading: str, body: str) -> None:
    """Replace the section ``## heading`` of the Markdown file at ``path``, or add it at the end; atomic."""
    before = path.read_text(encoding="utf-8") if path.is_file() else "# Benchmarks\n"
    section = f"## {heading}\n\n{body.strip()}\n"
    pattern = re.compile(rf"^## {re.escape(heading)}$.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    if pattern.search(before):
        write_text(path, pattern.sub(lambda _: f"{section}\n", before).rstrip() + "\n")
    else:
        write_text(path, f"{before.rstrip()}\n\n{section}")
