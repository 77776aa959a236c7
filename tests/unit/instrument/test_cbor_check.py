"""Messages that are short and dear: refused by their heads, before anything is decoded."""

from __future__ import annotations

import time

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instrument import stream
from instrument.cbor_check import check_cbor
from instrument.errors import StreamError


def start_message(**changes: object) -> bytes:
    """A start message with some of its values replaced by encoded CBOR or by plain values."""
    values: dict[str, object] = {
        "type": "start",
        "series_id": 1,
        "series_unique_id": "a1",
        "image_dtype": "uint16",
        "image_size_y": 2,
        "image_size_x": 4,
        "number_of_images": 6,
        **changes,
    }
    encoded = b"".join(
        cbor2.dumps(key) + (value if isinstance(value, bytes) else cbor2.dumps(value)) for key, value in values.items()
    )
    return bytes([0xA0 + len(values)]) + encoded


DECIMAL = bytes.fromhex("c4821a3b9aca0001")  # 1e1000000000
BIGNUM = b"\xc2" + cbor2.dumps(b"\xff" * 4096)
SHARED = bytes.fromhex("d81c") + b"\x82" * 20 + b"\xd8\x1d\x00" * 21  # what refers to itself


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("number_of_images", DECIMAL),
        ("number_of_images", BIGNUM),
        ("number_of_images", True),
        ("number_of_images", 6.0),
        ("number_of_images", "6"),
        ("number_of_images", -1),
        ("image_size_y", DECIMAL),
        ("image_size_x", 1 << 40),
        ("saturation_value", DECIMAL),
        ("series_id", True),
        ("count_time", DECIMAL),
        ("count_time", float("inf")),
        ("incident_energy", "80000"),
        ("image_dtype", "O"),
        ("image_dtype", "(1000000000,)u1"),
        ("image_dtype", ["uint16"]),
        ("channels", 7),
        ("user_data", SHARED),
        ("user_data", b"\xd8\x23\x61a"),  # a regular expression
        ("user_data", b"\x81" * 200 + b"\x00"),
        ("user_data", [0] * 70_000),
    ],
)
def test_a_start_message_with_a_trap_in_it_is_refused_in_a_moment(key: str, value: object):
    message, began = start_message(**{key: value}), time.process_time()
    with pytest.raises(StreamError):
        stream.decode(message)
    assert time.process_time() - began < 0.5


def test_a_start_message_without_traps_is_taken():
    assert isinstance(stream.decode(start_message(user_data={"a": [1, 2.5, None]})), stream.SeriesStart)


@pytest.mark.parametrize("trap", [DECIMAL, BIGNUM, True, 1.0, -1])
def test_an_image_whose_number_is_none_is_refused(trap: object):
    image = cbor2.loads(stream.encode_image(1, "a1", 5, np.zeros((2, 4), "u2"), 0.0, 0.1))
    message = bytes([0xA0 + len(image)])
    for key, value in image.items():
        replaced = trap if key == "image_id" else value
        message += cbor2.dumps(key) + (replaced if isinstance(replaced, bytes) else cbor2.dumps(replaced))
    with pytest.raises(StreamError):
        stream.decode(message)


@given(st.binary(max_size=300))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_either_whole_cbor_or_refused(message: bytes):
    try:
        check_cbor(message, frozenset({0, 1, 40}))
    except StreamError:
        return
    assert message


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(1 << 63), 1 << 63) | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
        max_leaves=8,
    )
)
@settings(max_examples=20, deadline=None)
def test_whatever_a_detector_may_say_in_plain_values_passes(value: object):
    check_cbor(cbor2.dumps(value), frozenset())
    with pytest.raises(StreamError):
        check_cbor(cbor2.dumps(value) + b"\x00", frozenset())
    with pytest.raises(StreamError):
        check_cbor(cbor2.dumps(value)[:-1], frozenset())
