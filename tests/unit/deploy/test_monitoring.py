"""Alerts go off when they have to, and Grafana asks for what there is."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.status.metrics import Metrics
from instrument.metrics import ServerCollector
from instrument.status import Figures, InstrumentStatus

client = pytest.importorskip("prometheus_client")
DEPLOY = Path(__file__).parents[3] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
NAME = re.compile(r"\bptychopilot_\w+")
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")


def exported() -> set[str]:
    """Names of all series that an agent and a server can have."""
    agent, server = client.CollectorRegistry(), client.CollectorRegistry()
    Metrics().register(agent)
    client.Gauge("ptychopilot_event_loop_lag_seconds", "by both", registry=agent)
    status = InstrumentStatus(phase="idle", blanked=True)
    nothing: dict[str, Any] = {"frames": 0, "frames_lost": 0, "leases_lapsed": 0, "disk_free": 1.0}
    server.register(ServerCollector(lambda: Figures(name="bench", status=status, exposures={"done": 1}, **nothing)))
    text = b"".join(client.generate_latest(each) for each in (agent, server)).decode()
    names = set()
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, flags=re.MULTILINE):
        names |= {f"{name}_{end}" for end in ("sum", "count", "bucket")} if kind == "histogram" else {name}
    return names


def test_the_dashboard_is_what_its_code_makes_and_asks_for_what_is_exported() -> None:
    pytest.importorskip("grafana_foundation_sdk")
    made = runpy.run_path(str(DEPLOY / "grafana" / "make_dashboard.py"))
    assert made["FILE"].read_text(encoding="utf-8") == made["text"](), "run `make grafana`"
    asked = {name for expression in made["expressions"]() for name in NAME.findall(expression)}
    assert asked <= exported()
    assert not any(name.endswith("_created") for name in asked)
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text(encoding="utf-8"))
    assert {each["uid"] for each in source["datasources"]} == {made["SOURCE"].uid}


def test_every_figure_that_is_exported_is_on_the_dashboard() -> None:
    shown = set(NAME.findall((DEPLOY / "grafana" / "ptychopilot.json").read_text(encoding="utf-8")))
    left_out = {"ptychopilot_instrument_info", "ptychopilot_phase_seconds_bucket"}
    hidden = {name for name in exported() - shown - left_out if not name.endswith("_created")}
    assert not hidden


def test_alerts_ask_for_what_is_exported_and_say_what_to_do() -> None:
    rules = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    assert {name for rule in rules for name in NAME.findall(rule["expr"])} <= exported()
    assert all(rule["annotations"]["summary"] and rule["annotations"]["action"] for rule in rules)
    tested = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text(encoding="utf-8"))["tests"]
    gone_off = {each["alertname"] for test in tested for each in test["alert_rule_test"] if each["exp_alerts"]}
    assert gone_off == {rule["alert"] for rule in rules}


@needs_promtool
@pytest.mark.parametrize(
    "arguments", [("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yml")], ids=lambda a: a[0]
)
def test_prometheus_understands_its_files(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
