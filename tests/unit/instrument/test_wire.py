"""The control envelope: what is well-formed survives the trip, everything else is refused by name."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instrument import wire
from instrument.errors import MalformedRequestError, UnsupportedVersionError

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def envelope(header: bytes, version: bytes = b"PPIC\x01") -> list[bytes]:
    return [b"", version, header]


def test_a_request_on_the_wire_is_what_release_1_wrote():
    request = wire.Request(
        id="q1", op="start", args={"id": "a1"}, lease=wire.LeaseToken(holder="agent", fence=7), deadline=12.5
    )
    assert wire.encode(request) == [
        b"",
        b"PPIC\x01",
        b'{"id":"q1","op":"start","args":{"id":"a1"},"lease":{"holder":"agent","fence":7},"deadline":12.5}',
    ]


@given(st.dictionaries(st.text(max_size=8), json_values, max_size=4), st.lists(st.binary(max_size=32), max_size=3))
def test_requests_and_buffers_survive_the_trip(args: dict[str, object], buffers: list[bytes]):
    request = wire.Request(id="q1", op="prepare", args=args, deadline=3.25)
    assert wire.decode_request(wire.encode(request, buffers)) == (request, buffers)


def test_fields_of_a_later_minor_version_are_ignored():
    request, _ = wire.decode_request(envelope(b'{"id":"q1","op":"hello","sent_at":"now","trace":{"a":1}}'))
    assert request == wire.Request(id="q1", op="hello")


def test_another_major_version_is_refused_with_both_numbers():
    with pytest.raises(UnsupportedVersionError, match="major version 2, this side speaks 1"):
        wire.decode_request(envelope(b'{"id":"q1","op":"hello"}', b"PPIC\x02"))


@pytest.mark.parametrize(
    ("frames", "complaint"),
    [
        ([], "0 message parts"),
        ([b"", b"PPIC\x01"], "2 message parts"),
        ([b"x", b"PPIC\x01", b"{}"], "empty delimiter"),
        (envelope(b"{}", b"HTTP\x01"), "not the mark"),
        (envelope(b"\xff\xfe"), "not JSON"),
        (envelope(b"[]"), "not an object"),
        (envelope(b'{"id":"q"}'), "op: Field required"),
        (envelope(b'{"id":"","op":"x"}'), "id: "),
        (envelope(b'{"id":"q","op":"x","deadline":NaN}'), "not JSON"),
        (envelope(b'{"id":"q","op":"x","deadline":1e999}'), "deadline: "),
        (envelope(b'{"id":"q","op":"x","lease":{"holder":"a","fence":0}}'), "lease.fence"),
        (envelope(b'{"id":"q","op":"x","args":' + b"[" * 40 + b"]" * 40 + b"}"), "nested"),
        (envelope(b'{"id":"q","op":"x","args":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "JSON|nested"),
        (envelope(b" " * (wire.MAX_HEADER_BYTES + 1)), "at most"),
        ([*envelope(b'{"id":"q","op":"x"}'), *[b""] * (wire.MAX_BUFFERS + 1)], "at most 16"),
    ],
)
def test_what_is_not_a_request_is_refused(frames: list[bytes], complaint: str):
    with pytest.raises(MalformedRequestError, match=complaint):
        wire.decode_request(frames)


@given(st.lists(st.binary(max_size=64), max_size=5))
def test_no_bytes_whatever_raise_anything_else(frames: list[bytes]):
    with pytest.raises((MalformedRequestError, UnsupportedVersionError)):
        wire.decode_request(frames)


@given(json_values)
def test_no_json_whatever_raises_anything_else(header: object):
    frames = envelope(json.dumps(header).encode())
    try:
        wire.decode_request(frames)
    except MalformedRequestError:
        assert isinstance(wire.request_id(frames), str)
