"""Text on its way out: what a terminal, a log or a file cannot show is written another way, and never stops a program.

Two things cannot be written everywhere: the signs of the field (Å, ±, µ) on an ASCII terminal or a Windows code page, and
file names that are no text (bytes that are not UTF-8, which Python carries as lone surrogates).
"""

from __future__ import annotations

import codecs
import contextlib
import io
import logging
import re
import sys
from typing import Any

REPLACE = "ptychopilot-replace"
"""Name of the error handler for text encodings that this module registers."""

_PLAIN = {
    "Å": "A",
    "±": "+/-",
    "µ": "u",
    "μ": "u",
    "α": "alpha",
    "φ": "phi",
    "π": "pi",
    "Δ": "Delta",
    "∫": "int",
    "−": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "·": "-",
    "×": "x",
    "→": "->",
    "≤": "<=",
    "≥": ">=",
    "½": "1/2",
    "°": "deg",
    "₂": "2",
    "\u202f": " ",
    "\u00a0": " ",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
}
_SUPERSCRIPTS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_SUPERSCRIPT = re.compile("[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_SURROGATE = re.compile("[\udc80-\udcff]")


def printable(text: str) -> str:
    r"""Text without lone surrogates: a byte of a file name that is no text becomes \xNN.

    Args:
        text: a file name, or words that hold one.

    >>> printable("m\udce4rz.h5")
    'm\\xe4rz.h5'
    """
    return _SURROGATE.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)


def encodable(text: str, encoding: str) -> str:
    """Text in the characters of an encoding; what it lacks is spelled out.

    Args:
        text: what is to be shown.
        encoding: of whatever shows it.

    >>> encodable("2.6 ± 0.1 bit/Å², 3 × 10⁶ electrons …", "ascii")
    '2.6 +/- 0.1 bit/A^2, 3 x 10^6 electrons ...'
    """
    if _fits(text, encoding):
        return text
    powers = _SUPERSCRIPT.sub(lambda found: found[0] if _fits(found[0], encoding) else _power(found[0]), text)
    return powers.encode(encoding, REPLACE).decode(encoding)


def visible(text: str) -> str:
    r"""Text that is one line and stays where it is put: what moves the cursor, ends a line or turns the direction is shown.

    Args:
        text: that somebody else has written.

    >>> visible("Ada\n2026-11-30 WARNING all is well\x1b[2J")
    'Ada\\n2026-11-30 WARNING all is well\\x1b[2J'
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def visible_all(value: Any) -> Any:
    """JSON values whose texts are `visible`, all of them.

    Args:
        value: as `json.loads` makes it.
    """
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible(key): visible_all(item) for key, item in value.items()}
    return [visible_all(item) for item in value] if isinstance(value, list) else value


def refuse_unprintable(text: str) -> str:
    """The text. Raises ValueError where it holds what `visible` would change."""
    if _UNPRINTABLE.search(text):
        msg = f"{visible(text)!r} holds characters that cannot be shown in a line; leave them out"
        raise ValueError(msg)
    return text


def write_anything() -> None:
    """Let standard output and standard error of this process take every text, whatever their encoding."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError, ValueError):  # closed by whoever started us
                stream.reconfigure(errors=REPLACE)


def _fits(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _power(superscripts: str) -> str:
    return f"^{superscripts.translate(_SUPERSCRIPTS)}"


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = _SUPERSCRIPT.match(error.object, error.start)
    if found is not None:
        return _power(found[0]), found.end()
    character = error.object[error.start]
    plain = _PLAIN.get(character)
    if plain is None:
        plain = printable(character)
    return plain.encode("ascii", "backslashreplace").decode(), error.start + 1


codecs.register_error(REPLACE, _replace)


class OneLine(logging.Formatter):
    """Log lines whose words come from elsewhere: a name cannot begin a line of its own, or move the cursor."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - as in the base class
        """See logging.Formatter."""
        record.message = visible(record.message)
        return super().formatMessage(record)
