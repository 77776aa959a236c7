"""A look at CBOR before it is decoded: no tag, depth or number of items that a decoder would pay dearly for.

A decoder makes of 100 bytes what they ask for: a decimal fraction with a million digits, an integer of any length, a shared
value that is repeated over and over. Here only the heads of the items are read, which costs nothing, and everything that a
message of a detector does not hold is refused.

Source: RFC 8949 (section 3: heads, major types, indefinite lengths).
"""

from __future__ import annotations

from instrument.errors import StreamError

MAX_DEPTH = 64
MAX_ITEMS = 1 << 16
"""Frames and masks are one item each; the rest are settings."""
_BYTES, _TEXT, _ARRAY, _MAP, _TAG = 2, 3, 4, 5, 6
_BREAK = 0xFF
_UNTIL_BREAK = -1
"""Instead of a number of items: their end is marked."""


def check_cbor(message: bytes, tags: frozenset[int]) -> None:
    """Refuse CBOR that is not well-formed, or would cost more to decode than its length.

    Args:
        message: one item with everything in it.
        tags: numbers of the tags that may occur.

    Raises:
        StreamError: with the reason and where.
    """
    opened: list[int] = []
    left, position, items, size = 1, 0, 0, len(message)  # left: items to come of what was opened last
    while True:
        while left == 0:
            if not opened:
                if position != size:
                    raise _refusal(
                        message,
                        position,
                        "is not CBOR: it is truncated" if position > size else "is not CBOR: it goes on after its end",
                    )
                return
            left = opened.pop()
        if position >= size:
            raise _refusal(message, position, "is not CBOR: it is truncated")
        head = message[position]
        position += 1
        if head == _BREAK and left < 0:
            left = 0
            continue
        left -= left > 0
        items += 1
        kind, value = head >> 5, head & 31
        if value >= 24:
            value, position = _long_argument(message, position, kind, value)
        if kind < _BYTES or kind > _TAG:
            continue
        if kind <= _TEXT and value >= 0:
            position += value
            continue
        if kind == _TAG and value not in tags:
            raise _refusal(message, position, f"has the tag {value}, which does not belong into a stream message")
        opened.append(left)
        left = 1 if kind == _TAG else 2 * value if kind == _MAP and value > 0 else value
        if len(opened) > MAX_DEPTH or items > MAX_ITEMS or left > MAX_ITEMS:
            raise _refusal(
                message, position, f"is nested more than {MAX_DEPTH} levels deep or has more than {MAX_ITEMS} items"
            )


def _long_argument(message: bytes, position: int, kind: int, short: int) -> tuple[int, int]:
    """The number behind the head of an item, or that its length is not said, and where the item goes on."""
    if short <= 27:
        end = position + (1 << (short - 24))
        if end > len(message):
            raise _refusal(message, position, "is not CBOR: it is truncated")
        return int.from_bytes(message[position:end], "big"), end
    if short != 31 or not _BYTES <= kind < _TAG:
        raise _refusal(message, position, "is not CBOR: an item is not well-formed")
    return _UNTIL_BREAK, position


def _refusal(message: bytes, position: int, what: str) -> StreamError:
    return StreamError(f"a stream message of {len(message)} bytes {what} (byte {min(position, len(message))})")
