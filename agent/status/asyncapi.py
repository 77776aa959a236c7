"""The contract as documents that other programs read: an AsyncAPI 3.1 description and a JSON Schema for each message.

`python -m agent.status.asyncapi` writes them into `agent/status/schemas`; a test holds them up to date.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from agent.status.contract import LARGEST_COMMAND, MAJOR_VERSION
from agent.status.leaves import LEAVES, Leaf, models

SCHEMAS = Path(__file__).parent / "schemas"
CONTRACT_VERSION = f"{MAJOR_VERSION}.2.0"
_PARAMETERS = {
    "site": "the facility",
    "instrument": "the instrument's own name",
    "agent": "name of the program",
    "number": "of the trial, or of the job in the queue, counting from 1",
    "code": "of the alarm",
    "name": "of the picture",
    "verb": "pause, resume, stop, approve, veto, autonomy or blank",
    "id": "of the command",
}


def documents() -> dict[str, str]:
    """File name -> text of every document of the contract."""
    found = {f"{model.__name__}.json": _text(schema(model)) for model in models()}
    return found | {"asyncapi.json": _text(asyncapi())}


def schema(model: type[BaseModel]) -> dict[str, Any]:
    """JSON Schema (2020-12) of a message.

    Args:
        model: of the contract.
    """
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI document: from the agent's side, so `send` is what it publishes."""
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    for leaf in LEAVES:
        name = leaf.address.split("/")[0]
        messages[name] = _message(leaf, name)
        channels[name] = _channel(leaf, name)
        receives = name == "command"
        operations[("receive_" if receives else "send_") + name] = {
            "action": "receive" if receives else "send",
            "channel": {"$ref": f"#/channels/{name}"},
            "bindings": {"mqtt": {"qos": leaf.qos, "retain": leaf.retain, "bindingVersion": "0.2.0"}},
        }
    operations["receive_command"]["reply"] = {"channel": {"$ref": "#/channels/reply"}}
    return {
        "asyncapi": "3.1.0",
        "info": {
            "title": "ptychopilot status",
            "version": CONTRACT_VERSION,
            "description": "Status of an autopilot for electron ptychography, and the commands that are safe to give over MQTT. "
            "MQTT is never the safety path: `blank` is best effort here.",
            "license": {"name": "BSD-3-Clause"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "broker": {
                "host": "{host}",
                "protocol": "mqtt",
                "protocolVersion": "3.1.1",
                "variables": {"host": {"description": "name or address of the broker", "default": "localhost"}},
            }
        },
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages},
    }


def _channel(leaf: Leaf, name: str) -> dict[str, Any]:
    address = f"emagent/{MAJOR_VERSION}/{{site}}/{{instrument}}/{{agent}}/{leaf.address}"
    parameters = [part[1:-1] for part in address.split("/") if part.startswith("{")]
    return {
        "address": address,
        "description": leaf.about + (f"; never retained, {LARGEST_COMMAND} bytes at most" if name == "command" else ""),
        "parameters": {each: {"description": _PARAMETERS[each]} for each in parameters},
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
    }


def _message(leaf: Leaf, name: str) -> dict[str, Any]:
    message: dict[str, Any] = {"name": name, "contentType": leaf.content_type}
    if leaf.model is not None:
        message["payload"] = {
            "schemaFormat": "application/schema+json;version=draft-07",
            "schema": leaf.model.model_json_schema(),
        }
    elif leaf.content_type == "text/plain":
        message["payload"] = {"type": "string", "enum": ["online", "offline"]}
    return message


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def main(folder: Path = SCHEMAS) -> None:
    """Write all documents.

    Args:
        folder: made if missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in documents().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
