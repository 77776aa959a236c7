"""DECTRIS Stream V1 ("legacy"), of detectors and programs from before Stream V2: messages in parts, JSON and pixels.

A series is a `dheader` with the detector's configuration (in one message or in two), a `dimage` of four parts per frame and a
`dseries_end`. Frames count from 0; times are in ns. A bitshuffle/LZ4 frame has the framing that Stream V2 gives it.

Sources: DECTRIS, SIMPLON API reference, stream interface; what LiberTEM's and tickit's simulators send.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import zmq

from instrument import stream
from instrument.chunks import BLOCK_BYTES, FRAMING, check_chunk, compress, decode_lz4_block
from instrument.endpoints import check_endpoint, is_loopback
from instrument.errors import MalformedRequestError, StreamError

log = logging.getLogger(__name__)

LARGEST_HEADER = 1 << 20
BUFFERED_MESSAGES = 4096
_ENCODING = re.compile(r"(?:bs(8|16|32)-lz4|lz4)?<")
_DTYPES = ("uint8", "uint16", "uint32")


class LegacyDecoder:
    """Decodes one message after the other of a detector; a series begins in one message or in two."""

    def __init__(self) -> None:
        self._begun: int | None = None

    def decode(self, parts: Sequence[bytes]) -> stream.SeriesStart | stream.SeriesImage | stream.SeriesEnd | None:
        """What a message says; None where it is the first half of a beginning.

        Args:
            parts: of the message.

        Raises:
            StreamError: it is no message of Stream V1.
        """
        head = _json(parts[0] if parts else b"")
        kind, series = head.get("htype"), head.get("series")
        try:
            if self._begun is not None and kind is None:
                return self._start(self._begun, head)
            if type(series) is not int or series < 0:
                raise ValueError("without the number of its series")
            if kind == "dheader-1.0":
                self._begun = series
                return self._start(series, _json(parts[1])) if len(parts) > 1 else None
            if kind == "dimage-1.0":
                return _image(series, head, parts)
            if kind == "dseries_end-1.0":
                return stream.SeriesEnd(series, str(series))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            msg = f"a malformed {kind or 'configuration'} message of Stream V1: {error}"
            raise StreamError(msg) from error
        msg = f"a message of Stream V1 of unknown type {str(kind)[:40]!r}"
        raise StreamError(msg)

    def _start(self, series: int, told: dict[str, Any]) -> stream.SeriesStart:
        self._begun = None
        if "x_pixels_in_detector" not in told:
            raise ValueError("the detector does not say its size; set the stream's header_detail to basic")
        frames, triggers = _whole(told, "nimages", 0, 1 << 40), _whole(told, "ntrigger", 0, 1 << 40)
        return stream.SeriesStart(
            series_id=series,
            series_unique_id=str(series),
            image_dtype=f"uint{_whole(told, 'bit_depth_image', 8, 32)}",
            image_size_y=_whole(told, "y_pixels_in_detector", 1, 1 << 16),
            image_size_x=_whole(told, "x_pixels_in_detector", 1, 1 << 16),
            number_of_images=triggers if told.get("trigger_mode") in ("exte", "inte") else frames * triggers,
            count_time=_seconds(told, "count_time"),
            frame_time=_seconds(told, "frame_time"),
        )


def encode_start(start: stream.SeriesStart) -> list[bytes]:
    """The first message of a series.

    Args:
        start: of the series.
    """
    told = {
        "x_pixels_in_detector": start.image_size_x,
        "y_pixels_in_detector": start.image_size_y,
        "bit_depth_image": 8 * np.dtype(start.image_dtype).itemsize,
        "trigger_mode": "exts",
        "nimages": 1,
        "ntrigger": start.number_of_images,
        "count_time": start.count_time,
        "frame_time": start.frame_time,
    }
    head = {"htype": "dheader-1.0", "series": start.series_id, "header_detail": "basic"}
    return [json.dumps(head).encode(), json.dumps(told).encode()]


def encode_image(image: stream.SeriesImage) -> list[bytes]:
    """The message of one frame; times are not told.

    Args:
        image: of which the compressed pixels go on as they are.
    """
    head = {
        "htype": "dimage-1.0",
        "series": image.series_id,
        "frame": image.image_id,
        "hash": hashlib.md5(image.chunk, usedforsecurity=False).hexdigest(),
    }
    array = {
        "htype": "dimage_d-1.0",
        "shape": [image.shape[1], image.shape[0]],
        "type": image.dtype.name,
        "encoding": f"bs{8 * image.dtype.itemsize}-lz4<",
        "size": len(image.chunk),
    }
    times = {"htype": "dconfig-1.0", "start_time": 0, "stop_time": 0, "real_time": 0}
    return [json.dumps(head).encode(), json.dumps(array).encode(), image.chunk, json.dumps(times).encode()]


def encode_end(end: stream.SeriesEnd) -> list[bytes]:
    """The last message of a series.

    Args:
        end: of the series.
    """
    return [json.dumps({"htype": "dseries_end-1.0", "series": end.series_id}).encode()]


class LegacyCopy:
    """A copy of every series for programs that read Stream V1; nothing waits for them, and what they do not take in time is lost.

    Args:
        socket: PUSH, bound; closed by `close`.
    """

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self._taken = self._lost = 0

    @classmethod
    def bound(cls, context: zmq.Context[Any], endpoint: str) -> Self:
        """One that programs of this machine can connect to.

        Args:
            context: of the socket.
            endpoint: to bind to.

        Raises:
            MalformedRequestError: it could be reached from other machines: Stream V1 has no keys.
        """
        check_endpoint(endpoint)
        if not is_loopback(endpoint):
            msg = (
                f"{endpoint} can be reached from other machines, and Stream V1 has no keys; legal: tcp://127.0.0.1:PORT"
            )
            raise MalformedRequestError(msg, endpoint=endpoint)
        socket = context.socket(zmq.PUSH)
        socket.sndhwm = BUFFERED_MESSAGES
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            socket.close(linger=0)
            msg = f"{endpoint} cannot be bound here: {error.strerror}"
            raise MalformedRequestError(msg, endpoint=endpoint) from error
        return cls(socket)

    def close(self) -> None:
        """Close at once."""
        self._socket.close(linger=200)

    def send(self, message: bytes) -> None:
        """Pass on a message.

        Args:
            message: of Stream V2, as it went to the receiver.
        """
        told = stream.decode(message)
        if isinstance(told, stream.SeriesImage):
            parts = encode_image(told)
        else:
            parts = encode_start(told) if isinstance(told, stream.SeriesStart) else encode_end(told)
        try:
            self._socket.send_multipart(parts, zmq.NOBLOCK)
            self._taken += 1
        except zmq.Again:
            self._lost += 1
        if isinstance(told, stream.SeriesEnd):
            if self._taken and self._lost:
                log.warning("%d messages of the legacy stream of %s were lost", self._lost, told.series_unique_id)
            self._taken = self._lost = 0


def _image(series: int, head: dict[str, Any], parts: Sequence[bytes]) -> stream.SeriesImage:
    array, blob = _json(parts[1]), parts[2]
    if not isinstance(array["shape"], list) or len(array["shape"]) != 2:
        raise ValueError(f"an image of the shape {array['shape']!r}")
    columns, rows = (_whole({"shape": each}, "shape", 1, 1 << 16) for each in array["shape"])
    encoding = _ENCODING.fullmatch(array["encoding"])
    if array["type"] not in _DTYPES or encoding is None:
        msg = f"{array['type']!r} as {array['encoding']!r}; legal: {', '.join(_DTYPES)} as bsN-lz4<, lz4< or <"
        raise ValueError(msg)
    dtype = np.dtype(array["type"])
    if encoding[1] is not None:
        if int(encoding[1]) != 8 * dtype.itemsize:
            raise ValueError(f"{dtype} as {array['encoding']!r}")
        if blob[: FRAMING.size] == bytes(FRAMING.size):  # as simulators leave it
            blob = FRAMING.pack(rows * columns * dtype.itemsize, BLOCK_BYTES) + blob[FRAMING.size :]
        check_chunk(blob, (rows, columns), dtype)
    else:
        raw = decode_lz4_block(blob, rows * columns * dtype.itemsize) if "lz4" in array["encoding"] else blob
        if len(raw) != math.prod((rows, columns, dtype.itemsize)):
            raise ValueError(f"{len(raw)} bytes of {rows} × {columns} pixels of {dtype}")
        blob = compress(np.frombuffer(raw, dtype).reshape(rows, columns))
    return stream.SeriesImage(series, str(series), _whole(head, "frame", 0, 1 << 40), blob, (rows, columns), dtype)


def _json(part: bytes) -> dict[str, Any]:
    try:
        found = json.loads(part) if len(part) <= LARGEST_HEADER else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        msg = f"a message of Stream V1 without a JSON header: {part[:40]!r}"
        raise StreamError(msg)
    return found


def _whole(told: dict[str, Any], key: str, low: int, high: int) -> int:
    value = told[key]
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{key} is not a whole number of {low} … {high}")
    return value


def _seconds(told: dict[str, Any], key: str) -> float:
    value = told.get(key, 0.0)
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise ValueError(f"{key} is not a time in s")
    return float(value)
