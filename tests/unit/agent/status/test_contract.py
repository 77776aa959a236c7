"""The status contract: its documents are those of its models, and traffic that was recorded once is still understood."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from agent.dashboard.view import View
from agent.status.asyncapi import SCHEMAS, asyncapi, documents, schema
from agent.status.leaves import LEAVES, leaf_of, models

GOLDEN = Path(__file__).parent / "golden" / "status.jsonl"


def test_the_documents_are_up_to_date() -> None:
    on_disk = {path.name: path.read_text(encoding="utf-8") for path in SCHEMAS.glob("*.json")}
    assert on_disk == documents(), "run `make contract`, and think of readers that know only the old one"


def test_every_message_of_recorded_traffic_fits_its_schema_and_is_shown() -> None:
    view = View("golden")
    seen = set()
    schemas = {model: Draft202012Validator(schema(model)) for model in models()}
    for line in GOLDEN.read_text(encoding="utf-8").splitlines():
        told = json.loads(line)
        leaf = leaf_of(told["topic"])
        assert leaf is not None, told["topic"]
        if told["payload"] is not None:
            assert leaf.model is not None
            schemas[leaf.model].validate(told["payload"])
        view.take(told["topic"], json.dumps(told["payload"]).encode() if told["payload"] else b"", 0.0)
        seen.add(leaf.address)
    assert view.garbled == 0
    assert {"session", "state", "beam", "dose", "suggestion", "trial/{number}", "best", "event"} <= seen
    assert view.finished
    assert view.dose is not None
    assert view.dose.remaining == pytest.approx(view.dose.budget - view.dose.spent)


def test_a_message_with_keys_of_a_newer_agent_is_understood() -> None:
    view = View("newer")
    beam = {"ts": "", "seq": 1, "blanked": True, "current_pa": None, "ht_kv": 80.0, "colour": "green"}
    view.take("beam", json.dumps(beam).encode(), 0.0)
    view.take("weather", b'{"sun": true}', 0.0)
    assert view.beam is not None
    assert view.garbled == 0


def test_nothing_but_commands_is_received_and_no_command_is_retained() -> None:
    document = asyncapi()
    receives = {name for name, each in document["operations"].items() if each["action"] == "receive"}
    assert receives == {"receive_command"}
    assert not document["operations"]["receive_command"]["bindings"]["mqtt"]["retain"]
    assert len(document["channels"]) == len(LEAVES)
