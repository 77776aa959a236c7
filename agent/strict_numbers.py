"""Numbers that are read in one way only: where pydantic would make one of a word, a truth value or a date, nobody guesses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel

NO_NUMBER = "is not a number that is read in one way only; write it in decimal figures, such as 12, 0.5 or 1.2e7"
_NUMBER = re.compile(r"[-+]?((0|[1-9][0-9_]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")


def no_numbers(raw: dict[str, Any], model: type[BaseModel]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Where a number belongs and something else stands that pydantic would make one of: yes (1), 012 (12), 1:20 …"""
    for name, field in model.model_fields.items():
        if name not in raw:
            continue
        value, kinds = raw[name], set(_kinds(field.annotation))
        if isinstance(value, dict):
            for section in kinds:
                if isinstance(section, type) and issubclass(section, BaseModel):
                    yield from (((name, *place), found) for place, found in no_numbers(value, section))
        elif kinds & {int, float} and bool not in kinds:
            for place, number in enumerate(value) if isinstance(value, list) else ((None, value),):
                is_text = isinstance(number, str) and str not in kinds and not _NUMBER.fullmatch(number.strip())
                if isinstance(number, bool) or is_text:
                    yield ((name,) if place is None else (name, place)), number


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types that an annotation is made of."""
    if get_origin(annotation) is Literal:
        yield from (type(value) for value in get_args(annotation))
    elif get_origin(annotation) is Annotated:
        yield from _kinds(get_args(annotation)[0])
    elif parts := get_args(annotation):
        for part in parts:
            yield from _kinds(part)
    else:
        yield annotation
