"""mqtt.js, a foreign client, against our agent on Mosquitto with the access rules of deploy/. `make test-mqttjs` installs it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest
from access_broker import ROOT, Broker, agent

from agent.events import PhaseChanged, PicturesDrawn

HERE = Path(__file__).parent / "mqttjs"
INSTALLED = Path(os.environ.get("MQTTJS", ".interop/mqttjs")).absolute()

if shutil.which("node") is None or not (INSTALLED / "node_modules" / "mqtt").is_dir():
    pytest.skip("needs node and mqtt.js (make test-mqttjs)", allow_module_level=True)


async def test_a_browsers_client_sees_all_and_does_what_the_rules_let_it(tmp_path: Path) -> None:
    broker, verbs = Broker(tmp_path, websockets=True), []
    with broker.running():
        async with agent(broker, "one", verbs) as publisher:
            publisher.on_event(PhaseChanged(phase="acquiring", trial=2, role="exploration"))
            png = b"\x89PNG" + bytes(1000)
            common = {"extent": (9.0, 9.0), "levels": (0.0, 1.0), "k_edge": 1.0, "resolution": None}
            publisher.on_event(PicturesDrawn(trial=1, role="exploration", phase=png, spectrum=png, **common))
            async with asyncio.timeout(20):
                while not publisher.connected:
                    await asyncio.sleep(0.01)
            node = await asyncio.create_subprocess_exec(
                "node",
                str(HERE / "watch.js"),
                f"ws://127.0.0.1:{broker.websocket_port}",
                ROOT,
                env={**os.environ, "MQTTJS": str(INSTALLED)},
                stdout=asyncio.subprocess.PIPE,
            )
            out, _ = await node.communicate()
    assert node.returncode == 0
    told = json.loads(out)
    assert (told["availability"], told["phase"], told["dose"], told["picture"]) == ("online", "acquiring", 1e6, True)
    assert told["replies"] == {
        "pause": "OK",
        "edit": "MALFORMED",
        "approve": "EXPIRED",
        "unblank": "NOT_ALLOWED",
    }
    assert not told["answered_viewer"]
    assert "Not authorized" in told["stranger"]
    assert verbs == ["pause"]
