"""Text from outside: files in whichever encoding an editor chose, and file names that are no text."""

from __future__ import annotations

import codecs
import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, PlainSerializer, PlainValidator, WithJsonSchema

MAX_BYTES = 8 << 20
"""Of a text file. A device such as /dev/zero has no end."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ESCAPED = re.compile(r"\\udc([89a-f][0-9a-f])")


def decode(content: bytes) -> str:
    """The text of a file that a person has written.

    Args:
        content: UTF-8; UTF-16 or UTF-32 where a byte order mark says so (UTF-16 also without, where the first character is
            ASCII); anything else is taken for ANSI, that is Windows code page 1252.

    >>> decode("scan step, Å".encode("cp1252")) == decode("scan step, Å".encode("utf-16")) == "scan step, Å"
    True
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content.decode(encoding, "replace")
    if len(content) > 1 and 0 in content[:2]:
        return content.decode("utf-16-be" if content[0] == 0 else "utf-16-le", "replace")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def read_text(path: Path) -> str:
    """Read a text file that a person has written; see `decode`. Of a longer one only the first MAX_BYTES are read.

    Args:
        path: of the file.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return decode(file.read(MAX_BYTES)).replace("\r\n", "\n")


def os_path(text: str | Path) -> Path:
    """A path that a person wrote into a file, as this system's files are called; `~` is the home directory.

    Args:
        text: the path. Where file names are ASCII (LANG=C) its other characters become the bytes that they are on disk.

    Raises:
        ValueError: it is no text, or there is no home directory to put for `~`.
    """
    if not isinstance(text, str | Path) or "\0" in str(text):
        msg = "a path is expected here, as text; put it in quotes"
        raise ValueError(msg)
    path = Path(os.fsdecode(_from_text(str(text)).encode("utf-8", "surrogateescape")))
    try:
        return path.expanduser()
    except RuntimeError as error:
        msg = "there is no home directory to put for ~; write the whole path"
        raise ValueError(msg) from error


def _to_text(value: Any) -> str:
    return str(value).encode("utf-8", "backslashreplace").decode()


def _from_text(value: Any) -> str:
    return _ESCAPED.sub(lambda found: chr(0xDC00 + int(found[1], 16)), str(value))


OsText = Annotated[
    str, PlainValidator(_from_text), PlainSerializer(_to_text, return_type=str), WithJsonSchema({"type": "string"})
]
"""A field for text with file names in it: bytes that are no text survive the way through JSON."""

OsPath = Annotated[
    Path,
    PlainValidator(os_path),
    PlainSerializer(_to_text, return_type=str),
    WithJsonSchema({"type": "string", "format": "path"}),
]
"""A field for a path: `~` is expanded, and a name that is no text survives the way through JSON."""

WholePath = Annotated[OsPath, AfterValidator(Path.absolute)]
"""As OsPath, from the root: what is resumed from another folder finds the file."""
