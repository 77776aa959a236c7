"""The few operations of Direct Electron's DE-TEM-Channel that a column adapter uses."""

from __future__ import annotations

import re
import threading

from local_http import Handler, LocalHttp


class FakeTemChannel(LocalHttp):
    """A context manager.

    Attributes:
        values: what is read.
        refuses: operations that are not done.
        deaf: set while nothing is answered but with a failure.
        stuck: factor between a defocus that is written and the one that is read.
    """

    def __init__(self) -> None:
        self.values = {"AccelVoltage": 8e4, "BeamBlankState": 0.0, "DeFocusValue": 0.0, "ColumnValveStatus": 1.0}
        self.refuses: set[str] = set()
        self.deaf = threading.Event()
        self.stuck = 1.0
        fake = self

        class Channel(Handler):
            def do_POST(self) -> None:
                asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
                content = fake.answer(asked).encode()
                self.reply(500 if fake.deaf.is_set() else 200, content)

        super().__init__(Channel)
        self.url = f"{self.address}/"

    def answer(self, asked: str) -> str:
        """The answer to a request."""
        operation = re.search(r"<ns:(\w+)>", asked)[1]  # type: ignore[index]
        if operation.startswith("get"):
            return (
                f"<x><getfloatResponse><floatResult>{self.values[operation[3:]]}</floatResult></getfloatResponse></x>"
            )
        if self.deaf.is_set() or operation in self.refuses:
            return "<x><setResult><success>0</success></setResult></x>"
        value = float(re.search(r"<(?:defocus-m|blank)>([^<]+)<", asked)[1])  # type: ignore[index]
        name, value = ("DeFocusValue", value * self.stuck) if operation == "setDefocus" else ("BeamBlankState", value)
        self.values[name] = value
        return "<x><setResult><success>1</success></setResult></x>"
