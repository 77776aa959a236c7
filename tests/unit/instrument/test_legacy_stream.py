"""Stream V1: what old detectors send, what programs for them read, and messages that are neither."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import zmq
from examples import plan
from fake_parts import FakeCamera, FakeColumn, FakeScan
from hypothesis import given, settings
from hypothesis import strategies as st

from instrument import InstrumentClient, InstrumentServer, stream
from instrument.adapters.composed import ComposedMicroscope
from instrument.chunks import compress, decode_chunk
from instrument.errors import MalformedRequestError, StreamError
from instrument.legacy_stream import LegacyDecoder, encode_end, encode_image, encode_start

PATTERN = np.random.default_rng(1).poisson(3, (6, 8)).astype(np.uint16)
HEAD = {"htype": "dheader-1.0", "series": 4, "header_detail": "basic"}
CONFIGURATION = {
    "x_pixels_in_detector": 8,
    "y_pixels_in_detector": 6,
    "bit_depth_image": 16,
    "trigger_mode": "exts",
    "nimages": 2,
    "ntrigger": 5,
    "count_time": 1e-3,
}


def parts(*each: object) -> list[bytes]:
    return [part if isinstance(part, bytes) else json.dumps(part).encode() for part in each]


def image(encoding: str, blob: bytes, kind: str = "uint16", **array: object) -> list[bytes]:
    return parts(
        {"htype": "dimage-1.0", "series": 4, "frame": 7, "hash": ""},
        {"htype": "dimage_d-1.0", "shape": [8, 6], "type": kind, "encoding": encoding, "size": len(blob)} | array,
        blob,
        {"htype": "dconfig-1.0", "start_time": 0, "stop_time": 1, "real_time": 1},
    )


def test_a_series_begins_in_one_message_or_in_two():
    decoder = LegacyDecoder()
    together = decoder.decode(parts(HEAD, CONFIGURATION))
    assert decoder.decode(parts(HEAD)) is None
    assert decoder.decode(parts(CONFIGURATION)) == together
    assert isinstance(together, stream.SeriesStart)
    assert (together.series_id, together.shape, together.image_dtype) == (4, (6, 8), "uint16")
    assert (together.number_of_images, together.count_time) == (10, 1e-3)
    per_trigger = decoder.decode(parts(HEAD, CONFIGURATION | {"trigger_mode": "exte"}))
    assert isinstance(per_trigger, stream.SeriesStart)
    assert per_trigger.number_of_images == 5


@pytest.mark.parametrize(
    ("encoding", "blob"),
    [
        ("bs16-lz4<", compress(PATTERN)),
        ("bs16-lz4<", bytes(12) + compress(PATTERN)[12:]),
        ("<", PATTERN.tobytes()),
        ("lz4<", b"\xf0" + bytes([96 - 15]) + PATTERN.tobytes()),  # one run of literals
    ],
)
def test_frames_are_the_same_however_they_are_packed(encoding: str, blob: bytes):
    found = LegacyDecoder().decode(image(encoding, blob))
    assert isinstance(found, stream.SeriesImage)
    assert (found.series_id, found.image_id) == (4, 7)
    assert (decode_chunk(found.chunk, found.shape, found.dtype) == PATTERN).all()


def test_what_is_sent_can_be_read():
    decoder = LegacyDecoder()
    start = stream.SeriesStart(9, "a", "uint16", 6, 8, number_of_images=3, count_time=0.1, frame_time=0.2)
    told = decoder.decode(encode_start(start))
    assert isinstance(told, stream.SeriesStart)
    assert (told.shape, told.number_of_images, told.frame_time) == (start.shape, 3, 0.2)
    sent = stream.SeriesImage(9, "a", 2, compress(PATTERN), (6, 8), np.dtype("uint16"))
    found = decoder.decode(encode_image(sent))
    assert isinstance(found, stream.SeriesImage)
    assert (found.image_id, found.chunk) == (2, sent.chunk)
    assert decoder.decode(encode_end(stream.SeriesEnd(9, "a"))) == stream.SeriesEnd(9, "9")


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ([], "without a JSON header"),
        (parts(b"\xff\x00"), "without a JSON header"),
        (parts({"htype": "dheader-1.0"}), "without the number of its series"),
        (parts(HEAD, {"header_detail": "none"}), "set the stream's header_detail to basic"),
        (parts(HEAD, CONFIGURATION | {"nimages": 1e99}), "nimages is not a whole number"),
        (parts({"htype": "dnews-1.0", "series": 1}), "unknown type 'dnews-1.0'"),
        (image(">", PATTERN.tobytes()), "legal: uint8, uint16, uint32 as bsN-lz4<, lz4< or <"),
        (image("<", PATTERN.tobytes()[:-1]), "95 bytes of 6 × 8 pixels"),
        (image("<", b"", shape=[1 << 40, 6]), "shape is not a whole number"),
        (image("bs16-lz4<", struct.pack(">QI", 1 << 40, 8192)), "says it holds 1099511627776 bytes"),
        (image("bs32-lz4<", compress(PATTERN)), "uint16 as 'bs32-lz4<'"),
        (image("<", b"")[:2], "malformed dimage-1.0"),
    ],
)
def test_what_is_no_message_is_refused_with_a_reason(message: list[bytes], told: str):
    with pytest.raises(StreamError, match=told):
        LegacyDecoder().decode(message)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=200) | st.sampled_from(image("bs16-lz4<", compress(PATTERN))), max_size=5))
def test_whatever_arrives_is_decoded_or_refused(message: list[bytes]):
    with contextlib.suppress(StreamError):
        LegacyDecoder().decode(message)


async def test_programs_of_this_machine_get_a_copy_of_the_frames_and_hold_nothing_up(tmp_path: Path):
    camera = FakeCamera()
    microscope = ComposedMicroscope("composed", FakeColumn(), FakeScan(camera), camera)
    endpoint = f"ipc://{tmp_path}/copy"
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    viewer = context.socket(zmq.PULL)
    monitor = viewer.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    received: dict[int, bytes] = {}

    class Sink:
        def start(self, header: object) -> None: ...

        def frame(self, index: int, chunk: bytes, *rest: object) -> None:
            received[index] = chunk

    try:
        async with (
            InstrumentServer(microscope, state_dir=tmp_path, legacy=endpoint) as server,
            InstrumentClient(server.control, timeout=5.0) as client,
        ):
            await client.open_campaign("c", 1e8)
            async with client.lease():
                for name in ("nobody-looks", "somebody-looks"):
                    await client.prepare(plan(name, size=3.0, dose=2e4))
                    await client.acquire(name, Sink())
                    if name == "nobody-looks":
                        viewer.connect(endpoint)
                        assert monitor.poll(5000)
            decoder = LegacyDecoder()
            told = [decoder.decode(viewer.recv_multipart()) for _ in range(11) if viewer.poll(5000)]
        start, *images, end = told
        assert isinstance(start, stream.SeriesStart)
        assert isinstance(end, stream.SeriesEnd)
        assert {each.image_id: each.chunk for each in images if isinstance(each, stream.SeriesImage)} == received
    finally:
        viewer.disable_monitor()
        context.destroy(linger=0)


async def test_a_copy_off_this_machine_is_refused(tmp_path: Path):
    camera = FakeCamera()
    microscope = ComposedMicroscope("composed", FakeColumn(), FakeScan(camera), camera)
    with pytest.raises(MalformedRequestError, match="Stream V1 has no keys; legal: tcp://127"):
        async with InstrumentServer(microscope, state_dir=tmp_path, legacy="tcp://0.0.0.0:9999"):
            pass
