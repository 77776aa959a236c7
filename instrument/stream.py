"""DECTRIS Stream V2: one CBOR map per message, frames as RFC 8746 typed arrays, compressed with bitshuffle/LZ4.

A series is one `start`, an `image` per frame and one `end`. Here `image_id` is the index of the scan position, so that
frames are joined to positions by index and never by the order in which they arrive. `chunks` has the compressed payload.

Sources: DECTRIS documentation, Stream V2; RFC 8746 (typed arrays); RFC 8949 (tag 55799, self-described CBOR).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import cbor2
import numpy as np
from numpy.typing import NDArray

from instrument.cbor_check import check_cbor
from instrument.chunks import check_chunk, compress, decode_chunk, decode_lz4
from instrument.errors import StreamError

CHANNELS = ("threshold_1", "threshold_2", "difference")
"""Of a DECTRIS detector: what exceeds each threshold, and what lies between the two."""
CHANNEL = CHANNELS[0]
MAX_MESSAGE_BYTES = 256 << 20
RATIONAL_DENOMINATOR = 50_000_000
MAX_NESTING = 16

_TAG_MULTIDIMENSIONAL = 40
_TAG_COMPRESSED = 56500
_TAG_SELF_DESCRIBED = 55799
_TYPED_ARRAYS = {
    64: "u1",
    65: ">u2",
    66: ">u4",
    67: ">u8",
    68: "u1",
    69: "<u2",
    70: "<u4",
    71: "<u8",
    72: "i1",
    73: ">i2",
    74: ">i4",
    77: "<i2",
    78: "<i4",
    81: ">f4",
    82: ">f8",
    85: "<f4",
    86: "<f8",
}
_TAGS_TAKEN = frozenset({0, 1, _TAG_MULTIDIMENSIONAL, *_TYPED_ARRAYS, _TAG_COMPRESSED, _TAG_SELF_DESCRIBED})
"""With those of a date, 0 and 1."""
_PIXEL_TYPES = frozenset({"uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "float32", "float64"})
_TAG_OF_TYPE = {"uint8": 64, "uint16": 69, "uint32": 70, "uint64": 71, "float32": 85, "float64": 86}


@dataclass(frozen=True)
class SeriesStart:
    """The `start` message: everything that holds for a whole series.

    Attributes:
        series_id: number of the series on this detector.
        series_unique_id: its name; here the acquisition's id.
        image_dtype: numpy name of the pixel type; "" where it is not said (detectors of 2023), and the images tell.
        image_size_y, image_size_x: pixels.
        number_of_images: frames to expect.
        count_time, frame_time: dwell time and frame period, s.
        incident_energy: eV.
        saturation_value: largest count of a pixel.
        arm_date: ISO 8601; "" where it is not known.
        channels: names of the detector's thresholds.
        pixel_mask: (image_size_y, image_size_x) uint32, 0 where the pixel counts, 2 (bit 1) where it is dead; None: all count.
        user_data: anything that CBOR and JSON can both hold.
    """

    series_id: int
    series_unique_id: str
    image_dtype: str
    image_size_y: int
    image_size_x: int
    number_of_images: int
    count_time: float = 0.0
    frame_time: float = 0.0
    incident_energy: float = 0.0
    saturation_value: int = 0
    arm_date: str = ""
    channels: tuple[str, ...] = (CHANNEL,)
    pixel_mask: NDArray[np.uint32] | None = None
    user_data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """(image_size_y, image_size_x)."""
        return self.image_size_y, self.image_size_x


@dataclass(frozen=True, slots=True)
class SeriesImage:
    """An `image` message. `chunk` is the pattern of `shape` and `dtype` in the HDF5 bitshuffle/LZ4 framing."""

    series_id: int
    series_unique_id: str
    image_id: int
    chunk: bytes
    shape: tuple[int, int]
    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True)
class SeriesEnd:
    """The `end` message."""

    series_id: int
    series_unique_id: str


def encode_start(start: SeriesStart) -> bytes:
    """The `start` message."""
    message: dict[str, Any] = {
        "type": "start",
        "series_id": start.series_id,
        "series_unique_id": start.series_unique_id,
        "arm_date": cbor2.CBORTag(0, start.arm_date),
        "channels": list(start.channels),
        "count_time": start.count_time,
        "frame_time": start.frame_time,
        "image_dtype": start.image_dtype,
        "image_size_x": start.image_size_x,
        "image_size_y": start.image_size_y,
        "incident_energy": start.incident_energy,
        "number_of_images": start.number_of_images,
        "saturation_value": start.saturation_value,
        "user_data": dict(start.user_data),
    }
    if not start.arm_date:
        del message["arm_date"]
    if start.pixel_mask is not None:
        message["pixel_mask"] = {channel: _typed_array(start.pixel_mask) for channel in start.channels}
    return _self_described(message)


def encode_image(
    series_id: int, series_unique_id: str, image_id: int, pattern: NDArray[Any], start_time: float, stop_time: float
) -> bytes:
    """The `image` message of one pattern.

    Args:
        series_id, series_unique_id: number of the series and the acquisition's id.
        image_id: position in scan order.
        pattern: (detector_y, detector_x) counts.
        start_time, stop_time: of the exposure, s since the start of the series.
    """
    tag = _TAG_OF_TYPE[pattern.dtype.name]
    compressed = cbor2.CBORTag(_TAG_COMPRESSED, ["bslz4", pattern.itemsize, compress(pattern)])
    data = cbor2.CBORTag(_TAG_MULTIDIMENSIONAL, [list(pattern.shape), cbor2.CBORTag(tag, compressed)])
    return _self_described(
        {
            "type": "image",
            "series_id": series_id,
            "series_unique_id": series_unique_id,
            "image_id": image_id,
            "real_time": _rational(stop_time - start_time),
            "start_time": _rational(start_time),
            "stop_time": _rational(stop_time),
            "data": {CHANNEL: data},
        }
    )


def encode_end(series_id: int, series_unique_id: str) -> bytes:
    """The `end` message."""
    return _self_described({"type": "end", "series_id": series_id, "series_unique_id": series_unique_id})


def decode(message: bytes, channel: str | None = None) -> SeriesStart | SeriesImage | SeriesEnd:
    """Decode any message of a series.

    Tags are walked after decoding, without a hook, which works with cbor2 5 and 6 alike. Frames that arrive without
    compression, or in another one, are compressed here, so that a reader meets one form only.

    Args:
        message: as it was received.
        channel: whose image and pixel mask are wanted, out of CHANNELS; None: of the first threshold, or of the only channel.

    Raises:
        StreamError: it is no message of a series, or has no such channel.
    """
    root = _decode_map(message)
    kind, series_id, unique_id = root.get("type"), root.get("series_id"), root.get("series_unique_id")
    if type(series_id) is not int or not isinstance(unique_id, str):
        msg = f"a stream message of type {kind!r} without series_id and series_unique_id"
        raise StreamError(msg)
    try:
        if kind == "image":
            return _decode_image(root, series_id, unique_id, channel)
        if kind == "start":
            return _decode_start(root, series_id, unique_id, channel)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        msg = f"a malformed {kind} message of series {unique_id!r}: {error!r}"
        raise StreamError(msg) from error
    if kind == "end":
        return SeriesEnd(series_id, unique_id)
    msg = f"a stream message of unknown type {kind!r}"
    raise StreamError(msg)


def _self_described(message: dict[str, Any]) -> bytes:
    encoded: bytes = cbor2.dumps(cbor2.CBORTag(_TAG_SELF_DESCRIBED, message))
    return encoded


def _rational(seconds: float) -> list[int]:
    return [round(seconds * RATIONAL_DENOMINATOR), RATIONAL_DENOMINATOR]


def _typed_array(array: NDArray[Any]) -> Any:
    tag = _TAG_OF_TYPE[array.dtype.name]
    raw = np.ascontiguousarray(array).tobytes()
    return cbor2.CBORTag(_TAG_MULTIDIMENSIONAL, [list(array.shape), cbor2.CBORTag(tag, raw)])


def _decode_map(message: bytes) -> Mapping[str, Any]:
    if len(message) > MAX_MESSAGE_BYTES:
        msg = f"a stream message of {len(message)} bytes; at most {MAX_MESSAGE_BYTES} are accepted"
        raise StreamError(msg)
    check_cbor(message, _TAGS_TAKEN)
    try:
        root = cbor2.loads(message)
    except Exception as error:  # the decoder's exception classes differ between cbor2 5 and 6
        msg = f"a stream message of {len(message)} bytes is not CBOR: {error}"
        raise StreamError(msg) from error
    if isinstance(root, cbor2.CBORTag) and root.tag == _TAG_SELF_DESCRIBED:
        root = root.value
    if not isinstance(root, Mapping) or next(iter(root), None) != "type":
        msg = "a stream message is not a CBOR map whose first key is `type`"
        raise StreamError(msg)
    return root


def _decode_start(root: Mapping[str, Any], series_id: int, unique_id: str, channel: str | None) -> SeriesStart:
    mask = root.get("pixel_mask")
    if isinstance(mask, Mapping):
        mask = mask.get(channel or CHANNEL, next(iter(mask.values()), None) if channel is None else None)
    user_data = _plain(root.get("user_data"), MAX_NESTING)
    arm_date = _untagged(root.get("arm_date", ""))
    image_dtype = root.get("image_dtype", "")
    if image_dtype and image_dtype not in _PIXEL_TYPES:
        msg = f"image_dtype {str(image_dtype)[:40]!r}; known are {', '.join(sorted(_PIXEL_TYPES))}"
        raise ValueError(msg)
    channels = root.get("channels") or (CHANNEL,)
    if not isinstance(channels, Sequence) or not all(isinstance(channel, str) for channel in channels):
        msg = "channels is not a list of names"
        raise ValueError(msg)
    return SeriesStart(
        series_id=series_id,
        series_unique_id=unique_id,
        image_dtype=image_dtype,
        image_size_y=_whole(root, "image_size_y", 1, 1 << 16),
        image_size_x=_whole(root, "image_size_x", 1, 1 << 16),
        number_of_images=_whole(root, "number_of_images", 0, 1 << 40),
        count_time=_number(root, "count_time"),
        frame_time=_number(root, "frame_time"),
        incident_energy=_number(root, "incident_energy"),
        saturation_value=0 if root.get("saturation_value") is None else _whole(root, "saturation_value", 0, 1 << 64),
        arm_date=arm_date.isoformat() if isinstance(arm_date, datetime) else str(arm_date),
        channels=tuple(channels),
        pixel_mask=None if mask is None else _dense(mask).astype(np.uint32),
        user_data=user_data if isinstance(user_data, dict) else {},
    )


def _decode_image(root: Mapping[str, Any], series_id: int, unique_id: str, channel: str | None) -> SeriesImage:
    dims, dtype, content = _open_array(_of_channel(root["data"], channel))
    if len(dims) != 2:
        msg = f"an image of {len(dims)} dimensions"
        raise ValueError(msg)
    shape, native = (dims[0], dims[1]), dtype.newbyteorder("=")
    image_id = _whole(root, "image_id", 0, 1 << 40)
    if isinstance(content, cbor2.CBORTag) and native == dtype:
        algorithm, blob = _open_compressed(content, dtype)
        if algorithm == "bslz4":
            check_chunk(blob, shape, dtype)
            return SeriesImage(series_id, unique_id, image_id, blob, shape, native)
    blob = compress(_pattern(shape, dtype, content).astype(native))
    return SeriesImage(series_id, unique_id, image_id, blob, shape, native)


def _whole(root: Mapping[str, Any], key: str, low: int, high: int) -> int:
    """A whole number that is one: nothing is converted, because a conversion may cost anything."""
    value = root[key]
    if type(value) is not int or not low <= value <= high:
        msg = f"{key} is not a whole number of {low} … {high}"
        raise ValueError(msg)
    return value


def _number(root: Mapping[str, Any], key: str) -> float:
    value = root.get(key)
    if value is None:
        return 0.0
    if type(value) not in (int, float) or not math.isfinite(value):
        msg = f"{key} is not a number"
        raise ValueError(msg)
    return float(value)


def _of_channel(images: Any, channel: str | None) -> Any:
    """The image of a threshold; without a name that of the first one, or the only one there is."""
    if not isinstance(images, Mapping) or not images:
        msg = "an image message must hold the data of at least one channel"
        raise ValueError(msg)
    if channel is None and len(images) == 1:
        return next(iter(images.values()))
    wanted = channel or CHANNEL
    if wanted not in images:
        msg = f"the image has the channels {', '.join(map(str, images))}, not {wanted}; name one of them"
        raise ValueError(msg)
    return images[wanted]


def _open_array(value: Any) -> tuple[tuple[int, ...], np.dtype[Any], Any]:
    """Dimensions, type and content (bytes or compression tag) of tag 40 around a typed array."""
    if not isinstance(value, cbor2.CBORTag) or value.tag != _TAG_MULTIDIMENSIONAL:
        msg = "data are not a row-major multi-dimensional array (tag 40)"
        raise ValueError(msg)
    dims, typed = value.value
    if not isinstance(typed, cbor2.CBORTag) or typed.tag not in _TYPED_ARRAYS:
        msg = "not a typed array of a known tag"
        raise ValueError(msg)
    if not isinstance(dims, Sequence) or not all(type(n) is int and 0 < n <= 1 << 16 for n in dims):
        msg = f"dimensions {dims!r}"
        raise ValueError(msg)
    dtype = np.dtype(_TYPED_ARRAYS[typed.tag])
    if math.prod(dims) * dtype.itemsize > MAX_MESSAGE_BYTES:
        msg = f"an array of {dims!r} is larger than {MAX_MESSAGE_BYTES} bytes"
        raise ValueError(msg)
    return tuple(dims), dtype, typed.value


def _open_compressed(tag: cbor2.CBORTag, dtype: np.dtype[Any]) -> tuple[str, bytes]:
    if tag.tag != _TAG_COMPRESSED:
        msg = f"tag {tag.tag} where bytes or compressed bytes (tag 56500) belong"
        raise ValueError(msg)
    algorithm, element_size, blob = tag.value
    stated = (dtype.itemsize,) if algorithm == "bslz4" else (dtype.itemsize, 0)  # lz4 has no use for it
    if element_size not in stated or not isinstance(blob, bytes):
        msg = f"compressed elements of {element_size!r} bytes in an array of {dtype}"
        raise ValueError(msg)
    return str(algorithm), blob


def _dense(value: Any) -> NDArray[Any]:
    """A tag 40 array, compressed or not, as numpy."""
    return _pattern(*_open_array(value))


def _pattern(dims: tuple[int, ...], dtype: np.dtype[Any], content: Any) -> NDArray[Any]:
    """An array from bytes, or from a compression tag around them."""
    if not isinstance(content, cbor2.CBORTag):
        return np.frombuffer(content, dtype=dtype).reshape(dims)
    algorithm, blob = _open_compressed(content, dtype)
    if algorithm not in ("bslz4", "lz4") or len(dims) != 2:
        msg = f"compression {algorithm!r} is not supported here; set the detector to bslz4, lz4 or none"
        raise ValueError(msg)
    shape = dims[0], dims[1]
    return decode_chunk(blob, shape, dtype) if algorithm == "bslz4" else decode_lz4(blob, shape, dtype)


def _untagged(value: Any) -> Any:
    return value.value if isinstance(value, cbor2.CBORTag) else value


def _plain(value: Any, levels: int) -> Any:
    """Mappings and sequences of any decoder version as dict and list."""
    if levels == 0:
        msg = "user_data is nested too deeply"
        raise ValueError(msg)
    value = _untagged(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, levels - 1) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(item, levels - 1) for item in value]
    return value
