"""A commented campaign file, written from the campaign's own types so that the two cannot drift apart."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import wrap
from typing import Any

from agent.config import CampaignConfig
from agent.errors import BadInputError

HEADER = """\
# A campaign of ptychopilot. Lengths in Å, defocus positive for underfocus, doses in e/Å² (counts/Å² where the counts per
# electron of a detector are not known). Check it without exposing anything:
#
#   ptychopilot run THIS_FILE --instrument tcp://HOST:PORT --dry-run
#
# Keys that are left out take the value written here; where it is marked as an example there is no default.
"""
WIDTH = 118
COMMENT_COLUMN = 32


def campaign_template() -> str:
    """The text of a campaign file with every key, its meaning, its legal values and its default (or an example)."""
    schema = CampaignConfig.model_json_schema()
    lines = [HEADER]
    for key, field in schema["properties"].items():
        added = _key(key, field, schema, key in schema["required"])
        lines += added[1:] if not lines[-1] and not added[0] else added
    return "\n".join(lines).rstrip() + "\n"


def _key(key: str, field: dict[str, Any], schema: dict[str, Any], required: bool) -> list[str]:
    section = _section(field, schema)
    if section is None:
        return _line(key, field, required, "")
    # a section that is absent by default is shown commented out, ready to be filled in
    absent = field.get("default", ...) is None
    lines = ["", *_comment(section.get("description", ""), ""), f"{key}:{' null' if absent else ''}"]
    for name, sub in section["properties"].items():
        # what is chosen unless it is written is shown commented out as well
        indent = "#   " if absent or sub.get("chosen") else "  "
        lines += _line(name, sub, name in section.get("required", ()), indent)
    return [*lines, ""]


def _line(key: str, field: dict[str, Any], required: bool, indent: str) -> list[str]:
    """Key and value with the comment behind them, or above them where it is long."""
    value = field["examples"][0] if required else field.get("shown", field["default"])
    text = f"{indent}{key}: {json.dumps(value, ensure_ascii=False)}"
    meaning = _describe(field, required)
    behind = f"{text:<{COMMENT_COLUMN}}  # {meaning}"
    return [behind] if len(behind) <= WIDTH else [*_comment(meaning, indent), text]


def _section(field: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any] | None:
    for candidate in (field, *field.get("anyOf", ()), *field.get("allOf", ())):
        if "$ref" in candidate:
            definition: dict[str, Any] = schema["$defs"][candidate["$ref"].rsplit("/", 1)[1]]
            return definition
    return None


def _describe(field: dict[str, Any], required: bool) -> str:
    parts = [
        field.get("description", "").rstrip("."),
        _legal(field),
        "an example" if required or "shown" in field else "",
    ]
    return "; ".join(part for part in parts if part).replace("None", "null")


def _legal(field: dict[str, Any]) -> str:
    """The legal values in words."""
    variants = [v for v in field.get("anyOf", [field]) if v.get("type") != "null"]
    field = variants[0]
    if "enum" in field:
        return "one of " + ", ".join(map(str, field["enum"]))
    if field.get("type") == "boolean":
        return "true or false"
    if field.get("type") == "array":
        return "two numbers, [a, b]" if "prefixItems" in field else "a list, [a, b, …]"
    if field.get("type") == "string":
        return f"must match {field['pattern']}" if "pattern" in field else ""
    limits = [
        f"{sign} {field[name]:g}"
        for name, sign in (("exclusiveMinimum", ">"), ("minimum", "≥"), ("exclusiveMaximum", "<"), ("maximum", "≤"))
        if name in field
    ]
    return " and ".join(limits)


def _comment(text: str, indent: str) -> list[str]:
    return [f"{indent}# {line}" for line in wrap(text.replace("None", "null"), WIDTH - len(indent) - 2)]


def write_template(path: Path) -> None:
    """Write the template to a new file.

    Raises:
        BadInputError: `path` exists or cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(campaign_template())
    except FileExistsError as error:
        msg = f"{path} exists and is left as it is; give another name"
        raise BadInputError(msg) from error
    except OSError as error:
        msg = f"{path}: cannot be written ({error.strerror}); name a file in a folder that exists"
        raise BadInputError(msg) from error
