"""A DECTRIS detector's REST interface and stream, as far as a camera adapter uses them."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import numpy as np
import zmq
from local_http import Handler, LocalHttp

from instrument import legacy_stream, stream

SHAPE = (16, 24)


def image_of(number: int) -> np.ndarray:
    """Image `number` of a series."""
    return np.random.default_rng(number).poisson(5, SHAPE).astype(np.uint16)


class FakeSimplon(LocalHttp):
    """A context manager.

    Attributes:
        asked: every request, in order.
        refuses: what is answered with 400.
        stray: messages that are sent before a series, as if left over.
        honest: whether `arm` answers with the id of the series, as detectors do and tickit's does not.
        legacy: whether frames go out as Stream V1.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.refuses: set[str] = set()
        self.stray: list[bytes] = []
        self.honest = True
        self.legacy = False
        self.config: dict[str, Any] = {
            "bit_depth_image": 16,
            "y_pixels_in_detector": SHAPE[0],
            "x_pixels_in_detector": SHAPE[1],
            "frame_time": 1e-4,
        }
        self.series = 6
        self._context: zmq.Context[Any] = zmq.Context()
        self._push = self._context.socket(zmq.PUSH)
        self.frames = f"tcp://127.0.0.1:{self._push.bind_to_random_port('tcp://127.0.0.1')}"
        fake = self

        class Rest(Handler):
            def do_GET(self) -> None:
                self.answer(None)

            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.answer(json.loads(body)["value"] if body else None)

            def answer(self, value: Any) -> None:
                what = re.split(r"/api/[0-9.]+/", self.path)[1]
                fake.asked.append(what if value is None else f"{what}={value}")
                content = json.dumps(fake.act(what, value)).encode()
                self.reply(400 if what in fake.refuses else 200, content)

        super().__init__(Rest)
        self.rest = self.address

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._context.destroy(linger=0)

    def act(self, what: str, value: Any) -> dict[str, Any]:
        kind, _, name = what.partition("/")
        if kind == "config" and value is not None:
            self.config[name] = value
        elif kind == "config":
            return {"value": self.config[name], "min": self.config[name]}
        elif name == "arm":
            self.series += 1
            for message in self.stray:
                self._send(message)
            count = self.config["nimages"] * self.config["ntrigger"]
            start = stream.SeriesStart(self.series, "u", "uint16", *SHAPE, number_of_images=count)
            self._send(stream.encode_start(start))
            return {"sequence id": self.series if self.honest else 2}
        elif name == "disarm":
            with contextlib.suppress(zmq.Again):  # nobody listens, as with the real one
                self._send(stream.encode_end(self.series, "u"), zmq.NOBLOCK)
        return {}

    def send_image(self, number: int, series: int | None = None, pattern: np.ndarray | None = None) -> None:
        """An image, of this series unless told otherwise."""
        counts = image_of(number) if pattern is None else pattern
        self._send(stream.encode_image(series or self.series, "u", number, counts, 0.0, 1e-3))

    def _send(self, message: bytes, flags: int = 0) -> None:
        if not self.legacy:
            self._push.send(message, flags)
            return
        told = stream.decode(message)
        if isinstance(told, stream.SeriesImage):
            self._push.send_multipart(legacy_stream.encode_image(told), flags)
        elif isinstance(told, stream.SeriesStart):
            for part in legacy_stream.encode_start(told):  # in two messages
                self._push.send(part, flags)
        else:
            self._push.send_multipart(legacy_stream.encode_end(told), flags)
