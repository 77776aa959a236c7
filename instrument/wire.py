"""The control envelope: what travels between DEALER and ROUTER, and how it is refused when it is not well-formed.

A message is, after the routing id that only the ROUTER sees,

    [empty delimiter] [magic + major version] [JSON header] [raw buffer 0] …

The empty delimiter lets a bare REQ socket take part. Both sides ignore header fields they do not know (minor versions
only add), but refuse another major version, a malformed header and anything beyond the size caps.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from instrument.errors import MalformedRequestError, UnsupportedVersionError
from instrument.text import refuse_unprintable

MAGIC = b"PPIC"
MAJOR = 1
MINOR = 1
MAX_HEADER_BYTES = 4 << 20
"""Room for the explicit positions of the largest scans."""
MAX_REPLY_BYTES = 2 * MAX_HEADER_BYTES
"""A line of the ledger holds the largest plan, and what became of it."""
MAX_BUFFERS = 16
MAX_BUFFER_BYTES = 64 << 20
MAX_JSON_DEPTH = 32


class Header(BaseModel):
    """Base of both headers: frozen, fields of later minor versions are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


HeaderType = TypeVar("HeaderType", bound=Header)


class LeaseToken(Header):
    """Who commands, and under which fence number."""

    holder: Annotated[str, Field(min_length=1, max_length=128), AfterValidator(refuse_unprintable)]
    fence: int = Field(ge=1)


class Request(Header):
    """A command.

    Attributes:
        id: chosen by the client; the reply carries the same.
        op: the verb.
        args: its arguments.
        lease: needed by the verbs that reserve or expose.
        deadline: time on the server's clock (`hello` tells it), s, after which the command must not be carried out.
    """

    id: str = Field(min_length=1, max_length=64)
    op: str = Field(min_length=1, max_length=64)
    args: dict[str, Any] = {}
    lease: LeaseToken | None = None
    deadline: float | None = None


class Reply(Header):
    """The answer to a request: a result or an error, and always the state of the instrument.

    Attributes:
        id: of the request.
        ok: whether it was carried out.
        result: of the verb, where it was.
        error: code, message, retryable and detail, where it was not.
        state: an `InstrumentStatus`.
    """

    id: str
    ok: bool
    result: Any = None
    error: dict[str, Any] | None = None
    state: dict[str, Any] = {}


def encode(header: Request | Reply, buffers: Sequence[bytes] = ()) -> list[bytes]:
    """Encode a message.

    Args:
        header: request or reply.
        buffers: raw parts after it.

    Returns:
        The frames, delimiter first, without routing id.
    """
    body = json.dumps(header.model_dump(exclude_none=True), separators=(",", ":"), allow_nan=False)
    return [b"", MAGIC + bytes([MAJOR]), body.encode(), *buffers]


def decode_request(frames: Sequence[bytes]) -> tuple[Request, list[bytes]]:
    """Decode a request.

    Args:
        frames: without the routing id.

    Returns:
        Header and buffers.

    Raises:
        MalformedRequestError: it is not one.
        UnsupportedVersionError: it is of another major version.
    """
    raw, buffers = _open_envelope(frames)
    return _validated(Request, raw), buffers


def decode_reply(frames: Sequence[bytes]) -> tuple[Reply, list[bytes]]:
    """Decode a reply.

    Args:
        frames: without the routing id.

    Returns:
        Header and buffers.

    Raises:
        MalformedRequestError: it is not one.
        UnsupportedVersionError: it is of another major version.
    """
    raw, buffers = _open_envelope(frames, MAX_REPLY_BYTES)
    return _validated(Reply, raw), buffers


def request_id(frames: Sequence[bytes]) -> str:
    """The id of a request that may be malformed in every other respect.

    Args:
        frames: without the routing id.

    Returns:
        The id; "" where there is none to be found.
    """
    try:
        raw, _ = _open_envelope(frames)
    except (MalformedRequestError, UnsupportedVersionError):
        return ""
    found = raw.get("id")
    return found[:64] if isinstance(found, str) else ""


def _open_envelope(frames: Sequence[bytes], limit: int = MAX_HEADER_BYTES) -> tuple[dict[str, Any], list[bytes]]:
    if len(frames) < 3 or frames[0] != b"":
        msg = f"{len(frames)} message parts; expected an empty delimiter, the version, a JSON header and buffers"
        raise MalformedRequestError(msg)
    version, body, buffers = frames[1], frames[2], list(frames[3:])
    if len(version) != len(MAGIC) + 1 or not version.startswith(MAGIC):
        msg = (
            f"the second message part is {version[:16]!r}, not the mark of this protocol, {MAGIC!r} and a version byte"
        )
        raise MalformedRequestError(msg)
    if version[-1] != MAJOR:
        msg = f"the message has major version {version[-1]}, this side speaks {MAJOR}; update the older side"
        raise UnsupportedVersionError(msg, theirs=version[-1], ours=MAJOR)
    if len(body) > limit:
        msg = f"the header has {len(body)} bytes; at most {limit} are accepted"
        raise MalformedRequestError(msg)
    if len(buffers) > MAX_BUFFERS or sum(map(len, buffers)) > MAX_BUFFER_BYTES:
        msg = f"{len(buffers)} buffers; at most {MAX_BUFFERS} with {MAX_BUFFER_BYTES} bytes together are accepted"
        raise MalformedRequestError(msg)
    return _parse_json(body), buffers


def _parse_json(body: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        msg = f"the header is not JSON ({type(error).__name__})"
        raise MalformedRequestError(msg) from error
    if not isinstance(raw, dict):
        msg = f"the header is a JSON {type(raw).__name__}, not an object"
        raise MalformedRequestError(msg)
    if _deeper_than(raw, MAX_JSON_DEPTH):
        msg = f"the header is nested more than {MAX_JSON_DEPTH} levels deep"
        raise MalformedRequestError(msg)
    return raw


def _refuse_constant(name: str) -> float:
    msg = f"{name} is not JSON"
    raise ValueError(msg)


def _deeper_than(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return False
    return levels == 0 or any(_deeper_than(item, levels - 1) for item in value if isinstance(item, dict | list))


def _validated(kind: type[HeaderType], raw: dict[str, Any]) -> HeaderType:
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        msg = f"header field {where or '(all)'}: {first['msg']}"
        raise MalformedRequestError(msg) from error
