"""temscript's server with a column of our own, as far as a column adapter uses it."""

from __future__ import annotations

import json
import threading
from typing import Any

from local_http import Handler, LocalHttp


class FakeTemscript(LocalHttp):
    """A context manager.

    Attributes:
        values: what is read.
        accepted: content types that were asked for.
        refuses: what is answered with a failure where it is written.
        deaf: set while nothing is answered but with a failure.
        stuck: factor between a defocus that is written and the one that is read.
    """

    def __init__(self) -> None:
        self.values: dict[str, Any] = {
            "version": "2.1.0",
            "voltage": 300.0,
            "convergence_angle": 0.0214,
            "beam_blanked": False,
            "probe_defocus": 0.0,
            "column_valves_open": True,
            "vacuum": {"status": "READY", "column_valves_open": True, "pvp_running": False, "gauges(Pa)": {}},
            "screen_position": "UP",
        }
        self.accepted: set[str] = set()
        self.refuses: set[str] = set()
        self.deaf = threading.Event()
        self.stuck = 1.0
        fake = self

        class Column(Handler):
            def do_GET(self) -> None:
                fake.accepted.add(self.headers["Accept"])
                what = self.path.removeprefix("/v1/")
                if fake.deaf.is_set() or what not in fake.values:
                    self.reply(500 if fake.deaf.is_set() else 404, b"")
                else:
                    self.reply(200, json.dumps(fake.values[what]).encode())

            def do_PUT(self) -> None:
                what = self.path.removeprefix("/v1/")
                value = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if fake.deaf.is_set() or what in fake.refuses:
                    self.reply(500, b"")
                    return
                fake.values[what] = value * fake.stuck if what == "probe_defocus" else value
                self.reply(204, b"")

        super().__init__(Column)
