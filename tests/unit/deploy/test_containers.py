"""Containerfile and compose file are legal, and name options and files that exist."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from agent.cli.app import app
from agent.config import load_config
from sim_instrument.__main__ import build_parser

DEPLOY = Path(__file__).parents[3] / "deploy"
FOLDER = DEPLOY / "container"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
    return found


def test_the_compose_file_is_what_the_specification_allows(compose: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    pytest.importorskip("check_jsonschema")
    schema = files("check_jsonschema").joinpath("builtin_schemas", "vendor", "compose-spec.json")
    jsonschema.validate(compose, json.loads(schema.read_text(encoding="utf-8")))


def test_the_services_are_started_with_options_that_they_know(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert build_parser().parse_args(services["instrument"]["command"]).metrics == "0.0.0.0:9465"
    group: Any = typer.main.get_command(app)
    for name in ("agent", "dashboard"):
        verb, *options = services[name]["command"]
        known = {option for each in group.commands[verb].params for option in each.opts}
        assert {each.partition("=")[0] for each in options if each.startswith("--")} <= known
    assert services["agent"]["restart"] == "no", "to go on releases SAFE, which only a person may"


def test_what_is_mounted_from_the_repository_is_there(compose: dict[str, Any]) -> None:
    mounted = {volume.split(":")[0] for service in compose["services"].values() for volume in service["volumes"]}
    ours = {path for path in mounted if path.startswith((".", "/")) and not path.startswith(("./keys", "./data"))}
    assert ours
    assert all((FOLDER / path).exists() for path in ours)
    assert load_config(FOLDER / "campaign.yaml").mqtt is not None


@pytest.mark.skipif(
    not (Path(sys.executable).with_name("hadolint").exists() or shutil.which("hadolint")), reason="needs hadolint"
)
def test_the_containerfile_passes_hadolint() -> None:
    beside = Path(sys.executable).with_name("hadolint")
    program = str(beside) if beside.exists() else "hadolint"
    said = subprocess.run([program, FOLDER / "Containerfile"], capture_output=True, text=True, timeout=60)
    assert (said.returncode, said.stdout + said.stderr) == (0, "")
