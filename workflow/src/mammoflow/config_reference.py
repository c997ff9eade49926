"""The table of configuration keys in ``config/README.md``, made from the schema so that the two cannot drift apart."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mammoflow import settings
from mammoflow.files import write_text

BEGIN, END = "<!-- keys: begin (make config-reference) -->", "<!-- keys: end -->"


def keys(rules: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key below ``rules`` as (path, rule), depth first; ``<name>`` stands for a name the user chooses."""
    definitions = settings.schema()["$defs"]
    children = dict(rules.get("properties", {}))
    if isinstance(rules.get("additionalProperties"), dict):
        children["<name>"] = rules["additionalProperties"]
    if prefix == "datasets.":  # all archives share one definition: one row stands for all
        children = {"<archive>": {"$ref": "#/$defs/dataset"}}
    for name, rule in children.items():
        rule = definitions[rule["$ref"].rsplit("/", 1)[1]] if "$ref" in rule else rule
        yield prefix + name, rule
        yield from keys(rule, f"{prefix}{name}.")


def allowed(rule: dict[str, Any]) -> str:
    """What a key accepts, in words."""
    if "enum" in rule:
        return " or ".join(f"`{value}`" for value in rule["enum"])
    kinds = [rule["type"]] if isinstance(rule["type"], str) else rule["type"]
    words = {"null": "`null`", "boolean": "true or false", "array": "list", "string": "text"}
    text = " or ".join(words.get(kind, kind) for kind in kinds)
    low, high = rule.get("minimum", rule.get("exclusiveMinimum")), rule.get("maximum", rule.get("exclusiveMaximum"))
    if low is not None and high is not None:
        return f"{text}, {low} to {high}"
    if low is not None:
        return f"{text}, {'above' if 'exclusiveMinimum' in rule else 'from'} {low}"
    return text


def table() -> str:
    """A Markdown table of every key: path, what is allowed, default, description."""
    lines = ["| key | allowed | default | what it does |", "|---|---|---|---|"]
    for path, rule in keys(settings.schema()):
        is_section = rule.get("type") == "object" and ("properties" in rule or "additionalProperties" in rule)
        default = "" if is_section or "default" not in rule else f"`{json.dumps(rule['default'])}`"
        kind = "section" if is_section else allowed(rule)
        lines.append(f"| `{path}` | {kind} | {default} | {rule['description']} |")
    return "\n".join(lines)


def refresh(readme: str) -> str:
    """``readme`` with the table between its two markers replaced. Raises ValueError where a marker is missing."""
    head, tail = readme.index(BEGIN) + len(BEGIN), readme.index(END)
    return f"{readme[:head]}\n{table()}\n{readme[tail:]}"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("readme", type=Path, help="config/README.md")


def run(args: argparse.Namespace) -> None:
    write_text(args.readme, refresh(args.readme.read_text(encoding="utf-8")))
