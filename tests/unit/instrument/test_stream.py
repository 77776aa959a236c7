"""Stream V2: golden bytes, round trips, the HDF5 filter as an independent reader, and damaged messages."""

from __future__ import annotations

import contextlib
from pathlib import Path

import cbor2
import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from instrument import stream
from instrument.chunks import decode_lz4
from instrument.errors import StreamError
from instrument.stream import SeriesEnd, SeriesImage, SeriesStart

START = SeriesStart(
    series_id=3,
    series_unique_id="a1",
    image_dtype="uint16",
    image_size_y=2,
    image_size_x=4,
    number_of_images=6,
    count_time=1e-3,
    frame_time=2e-3,
    incident_energy=80e3,
    saturation_value=4095,
    arm_date="2026-01-02T03:04:05+00:00",
    pixel_mask=np.array([[0, 2, 0, 0], [0, 0, 0, 0]], np.uint32),
    user_data={"acquisition": "a1", "nested": {"list": [1, 2.5, "x"]}},
)

patterns = st_numpy.arrays(
    st.sampled_from([np.dtype(np.uint8), np.dtype(np.uint16)]),
    st_numpy.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=70),
    elements=st.integers(0, 255),
)


def image_message(data: object, **changes: object) -> bytes:
    """A hand-made image message, as any other detector may write it."""
    return cbor2.dumps(
        {
            "type": "image",
            "series_id": 3,
            "series_unique_id": "a1",
            "image_id": 5,
            "data": {"threshold_1": data},
            **changes,
        }
    )


def test_an_image_message_is_what_release_1_wrote():
    pattern = np.arange(8, dtype=np.uint16).reshape(2, 4)
    message = stream.encode_image(3, "a1", 5, pattern, 0.5, 0.501)
    assert message.hex() == (
        "d9d9f7a8"  # self-described CBOR, map of eight
        "6474797065"
        "65696d616765"  # type: image
        "697365726965735f6964"
        "03"  # series_id
        "707365726965735f756e697175655f6964"
        "626131"  # series_unique_id
        "68696d6167655f6964"
        "05"  # image_id
        "697265616c5f74696d65"
        "8219c3501a02faf080"  # real_time: 50000 / 50000000 s
        "6a73746172745f74696d65"
        "821a017d78401a02faf080"  # start_time
        "6973746f705f74696d65"
        "821a017e3b901a02faf080"  # stop_time
        "6464617461"
        "a1"
        "6b7468726573686f6c645f31"  # data: {threshold_1:
        "d828"
        "82"
        "820204"
        "d845"
        "d9dcb4"
        "83"  # 40([[2, 4], 69(56500([
        "6562736c7a34"
        "02"
        "581d"  # "bslz4", 2, 29 bytes
        "0000000000000010"
        "00002000"  # 16 bytes, blocks of 8192
        "0000000d"
        "43aaccf0000100500000000000"  # one block of 13 bytes of LZ4
    )
    assert np.array_equal(stream.decode_chunk(stream.decode(message).chunk, (2, 4), "uint16"), pattern)


def test_the_start_message_survives_the_trip():
    decoded = stream.decode(stream.encode_start(START))
    assert isinstance(decoded, SeriesStart)
    assert np.array_equal(decoded.pixel_mask, START.pixel_mask)
    for name in ("series_id", "series_unique_id", "shape", "number_of_images", "frame_time", "user_data", "arm_date"):
        assert getattr(decoded, name) == getattr(START, name), name


def test_type_is_the_first_key_of_every_message():
    image = stream.encode_image(3, "a1", 0, np.zeros((2, 4), np.uint16), 0, 0)
    for message, kind in ((stream.encode_start(START), "start"), (image, "image"), (stream.encode_end(3, "a1"), "end")):
        root = cbor2.loads(message)
        root = root.value if isinstance(root, cbor2.CBORTag) else root
        assert next(iter(root.items())) == ("type", kind)


@given(patterns, st.integers(0, 2**31))
def test_patterns_of_every_shape_survive_the_trip(pattern: np.ndarray, index: int):
    image = stream.decode(stream.encode_image(3, "a1", index, pattern, 0.0, 1e-3))
    assert isinstance(image, SeriesImage)
    assert (image.image_id, image.shape, image.dtype) == (index, pattern.shape, pattern.dtype)
    assert np.array_equal(stream.decode_chunk(image.chunk, image.shape, image.dtype), pattern)


@pytest.mark.parametrize("shape", [(128, 128), (96, 100), (65, 63)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_hdf5_reads_the_chunks_undecoded(tmp_path: Path, shape: tuple[int, int], dtype: str):
    rng = np.random.default_rng(1)
    frames = rng.poisson(3.0, (5, *shape)).astype(dtype)
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        data = file.create_dataset("data", frames.shape, dtype, chunks=(1, *shape), **hdf5plugin.Bitshuffle())
        for index, frame in enumerate(frames):
            image = stream.decode(stream.encode_image(1, "a", index, frame, 0, 0))
            data.id.write_direct_chunk((image.image_id, 0, 0), image.chunk)
    with h5py.File(tmp_path / "frames.h5") as file:
        assert np.array_equal(file["data"][()], frames)


def test_chunks_that_hdf5_wrote_are_decoded(tmp_path: Path):
    frame = np.random.default_rng(2).poisson(5.0, (96, 100)).astype(np.uint16)
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        data = file.create_dataset("data", data=frame[None], chunks=(1, 96, 100), **hdf5plugin.Bitshuffle())
        _, chunk = data.id.read_direct_chunk((0, 0, 0))
    assert np.array_equal(stream.decode_chunk(chunk, (96, 100), "uint16"), frame)


def test_frames_without_compression_and_in_big_endian_are_read():
    frame = np.arange(12, dtype=np.uint16).reshape(3, 4)
    for tag, dtype in ((69, "<u2"), (65, ">u2")):
        for described in (True, False):
            message = image_message(cbor2.CBORTag(40, [[3, 4], cbor2.CBORTag(tag, frame.astype(dtype).tobytes())]))
            if described:
                message = b"\xd9\xd9\xf7" + message
            image = stream.decode(message)
            assert image.dtype == np.uint16
            assert np.array_equal(stream.decode_chunk(image.chunk, (3, 4), image.dtype), frame)


def test_end_is_read_with_and_without_the_self_description():
    assert stream.decode(stream.encode_end(3, "a1")) == SeriesEnd(3, "a1")
    assert stream.decode(cbor2.dumps({"type": "end", "series_id": 3, "series_unique_id": "a1"})) == SeriesEnd(3, "a1")


def bslz4(blob: bytes, element: int = 2) -> cbor2.CBORTag:
    return cbor2.CBORTag(40, [[2, 4], cbor2.CBORTag(69, cbor2.CBORTag(56500, ["bslz4", element, blob]))])


GOOD = stream.compress(np.arange(8, dtype=np.uint16).reshape(2, 4))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff",
        cbor2.dumps([1, 2]),
        cbor2.dumps({"series_id": 3, "type": "end"}),
        cbor2.dumps({"type": "end"}),
        cbor2.dumps({"type": "dance", "series_id": 3, "series_unique_id": "a1"}),
        cbor2.dumps({"type": "start", "series_id": 3, "series_unique_id": "a1"}),
        image_message(b"raw"),
        image_message(cbor2.CBORTag(1040, [[2, 4], cbor2.CBORTag(69, bytes(16))])),
        image_message(cbor2.CBORTag(40, [[2, 4], cbor2.CBORTag(69, bytes(15))])),
        image_message(cbor2.CBORTag(40, [[2, 4], cbor2.CBORTag(99, bytes(16))])),
        image_message(cbor2.CBORTag(40, [[2, 2, 2], cbor2.CBORTag(69, bytes(16))])),
        image_message(cbor2.CBORTag(40, [[65536, 65536], cbor2.CBORTag(69, bytes(16))])),
        image_message(cbor2.CBORTag(40, [[0, 4], cbor2.CBORTag(69, b"")])),
        image_message(bslz4(GOOD[:10])),
        image_message(bslz4(GOOD[:-1])),
        image_message(bslz4(GOOD + b"\0")),
        image_message(bslz4(GOOD, element=4)),
        image_message(bslz4((2**63).to_bytes(8, "big") + GOOD[8:])),
        image_message(bslz4(GOOD[:8] + bytes(4) + GOOD[12:])),
        image_message(cbor2.CBORTag(40, [[2, 4], cbor2.CBORTag(69, cbor2.CBORTag(56500, ["zip", 2, GOOD]))])),
    ],
)
def test_what_is_not_a_message_is_refused(message: bytes):
    with pytest.raises(StreamError):
        stream.decode(message)


@settings(max_examples=300)
@given(st.binary(max_size=200), st.integers(0, 10**6), st.integers(0, 255))
def test_damaged_messages_raise_nothing_but_stream_errors(noise: bytes, position: int, value: int):
    rng = np.random.default_rng(3)
    good = bytearray(stream.encode_image(3, "a1", 5, rng.poisson(3.0, (16, 17)).astype(np.uint16), 0, 1))
    good[position % len(good)] = value
    for message in (noise, bytes(good), bytes(good[: position % len(good)])):
        try:
            image = stream.decode(message)
            if isinstance(image, SeriesImage):
                stream.decode_chunk(image.chunk, image.shape, image.dtype)
        except StreamError:
            pass


CHANNELS = {name: np.full((2, 4), value, np.uint16) for value, name in enumerate(stream.CHANNELS, start=1)}


def several_channels(names: tuple[str, ...]) -> bytes:
    images = {name: bslz4(stream.compress(CHANNELS[name])) for name in names}
    message = {"type": "image", "series_id": 3, "series_unique_id": "a1", "image_id": 5, "data": images}
    return cbor2.dumps(message)


@pytest.mark.parametrize("order", [stream.CHANNELS, stream.CHANNELS[::-1]])
def test_a_detector_with_two_thresholds_gives_the_channel_that_is_named(order: tuple[str, ...]):
    message = several_channels(order)
    for wanted in (None, *stream.CHANNELS):
        image = stream.decode(message, wanted)
        assert isinstance(image, SeriesImage)
        expected = CHANNELS[wanted or "threshold_1"]
        assert np.array_equal(stream.decode_chunk(image.chunk, image.shape, image.dtype), expected)


def test_a_channel_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(StreamError, match="has the channels threshold_2, difference, not threshold_1; name one"):
        stream.decode(several_channels(("threshold_2", "difference")))
    with pytest.raises(StreamError, match="has the channels threshold_2, not difference"):
        stream.decode(several_channels(("threshold_2",)), "difference")
    assert isinstance(stream.decode(several_channels(("threshold_2",))), SeriesImage), "the only one needs no name"


def test_the_pixel_mask_is_that_of_the_channel():
    masks = {name: np.array([[value]], np.uint32) for value, name in enumerate(stream.CHANNELS)}
    root = cbor2.loads(stream.encode_start(START))
    root = dict(root.value if isinstance(root, cbor2.CBORTag) else root)
    root["pixel_mask"] = {
        name: cbor2.CBORTag(40, [[1, 1], cbor2.CBORTag(70, mask.tobytes())]) for name, mask in masks.items()
    }
    for wanted in (None, *stream.CHANNELS):
        start = stream.decode(cbor2.dumps(root), wanted)
        assert isinstance(start, SeriesStart)
        assert np.array_equal(start.pixel_mask, masks[wanted or "threshold_1"])


def lz4_of_hdf5(folder: Path, frame: np.ndarray, block: int) -> bytes:
    """The bytes that HDF5's own LZ4 filter makes of a frame; DECTRIS sends the same."""
    with h5py.File(folder / "lz4.h5", "w") as file:
        data = file.create_dataset("data", data=frame[None], chunks=(1, *frame.shape), **hdf5plugin.LZ4(nbytes=block))
        return bytes(data.id.read_direct_chunk((0, 0, 0))[1])


@pytest.mark.parametrize("block", [0, 256])
@pytest.mark.parametrize("mean", [0.3, 3.0, 1e4])
@pytest.mark.parametrize(("dtype", "shape"), [("uint8", (65, 63)), ("uint16", (65, 63)), ("uint32", (64, 48))])
def test_lz4_images_of_a_detector_are_read(tmp_path: Path, dtype: str, shape: tuple[int, int], mean: float, block: int):
    rng = np.random.default_rng(4)
    frame = np.minimum(rng.poisson(mean, shape), np.iinfo(dtype).max).astype(dtype)
    if mean == 1e4:
        frame = rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype)  # nothing that could be made shorter
    blob = lz4_of_hdf5(tmp_path, frame, block)
    tag = {"uint8": 64, "uint16": 69, "uint32": 70}[dtype]
    for element in (0, frame.itemsize):
        compressed = cbor2.CBORTag(56500, ["lz4", element, blob])
        image = stream.decode(image_message(cbor2.CBORTag(40, [list(shape), cbor2.CBORTag(tag, compressed)])))
        assert isinstance(image, SeriesImage)
        assert np.array_equal(stream.decode_chunk(image.chunk, image.shape, image.dtype), frame)


@settings(max_examples=200)
@given(st.integers(0, 10**6), st.integers(0, 255), st.sampled_from([(13, 8), (13, 7)]))
def test_damaged_lz4_raises_nothing_but_stream_errors(position: int, value: int, shape: tuple[int, int]):
    length = shape[0] * shape[1]
    literals = bytes([0xF0, length - 15]) + bytes(range(length))  # one token, its length, the bytes themselves
    good = length.to_bytes(8, "big") + (1 << 20).to_bytes(4, "big") + len(literals).to_bytes(4, "big") + literals
    assert np.array_equal(decode_lz4(good, shape, "uint8").ravel(), np.arange(length))
    damaged = bytearray(good)
    damaged[position % len(good)] = value
    for blob in (bytes(damaged), good[: position % len(good)]):
        with contextlib.suppress(StreamError):
            decode_lz4(blob, shape, "uint8")
