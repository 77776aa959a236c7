"""The broker's access rules let an agent publish every topic of the contract, and a viewer command nothing."""

from __future__ import annotations

import re
from pathlib import Path

from agent.status.leaves import LEAVES

RULES = Path(__file__).parents[3] / "deploy" / "mosquitto" / "acl"


def rules() -> dict[str, list[tuple[str, str]]]:
    """Access and topic below an agent's root, for each user."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in RULES.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if line.startswith("user "):
            found[user := words[1]] = []
        elif line.startswith("topic "):
            found[user].append((words[1], words[2].removeprefix("emagent/1/").removeprefix("+/+/+/")))
    return found


def test_an_agent_may_publish_whatever_the_contract_has() -> None:
    allowed = dict((topic, access) for access, topic in rules()["agent"])
    for leaf in LEAVES:
        topic = re.sub(r"\{\w+\}", "+", leaf.address)
        if topic.startswith("command/"):
            assert allowed[topic] == "read", "an agent must not command itself"
        else:
            assert "write" in allowed[topic], topic


def test_only_an_operator_may_command() -> None:
    assert rules()["viewer"] == [("read", "#")]
    assert set(rules()["operator"]) == {("read", "#"), ("write", "command/+")}
