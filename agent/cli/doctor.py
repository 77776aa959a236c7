"""What a campaign needs of this machine and whether it is there: packages, GPU, disk, instrument, broker."""

from __future__ import annotations

import asyncio
import importlib.metadata
import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PACKAGES = (
    "numpy",
    "scipy",
    "numba",
    "torch",
    "botorch",
    "h5py",
    "pyzmq",
    "cbor2",
    "pydantic",
    "aiomqtt",
    "matplotlib",
)
OPTIONAL = {
    "abtem": ("sim", "the simulated microscope"),
    "ase": ("sim", "the simulated microscope"),
    "nicegui": ("dashboard", "the dashboard"),
    "prometheus-client": ("metrics", "/metrics"),
    "mcp": ("mcp", "a language model"),
}
"""Distribution -> the extra that brings it, and what it is for."""
GPU_PACKAGES = ("cupy-cuda13x", "cupy-cuda12x")
LITTLE_DISK = 2e9
"""Free bytes below which the disk is called too small; a campaign of the demo's size needs some 0.5 GB."""

Subject = Literal["installation", "hardware", "instrument", "broker"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `good` is None for what is neither good nor bad, such as a GPU that is not there."""

    subject: Subject
    name: str
    good: bool | None
    text: str


def examine(
    instrument: str | None = None, broker: str | None = None, patience: float = 5.0, keys: Path | None = None
) -> list[Finding]:
    """Look at everything; at instrument and broker only where an address is given.

    Args:
        instrument: control endpoint, tcp://HOST:PORT.
        broker: HOST or HOST:PORT.
        patience: s to wait for an answer of either.
        keys: folder of CURVE keys; None: the default, where there is one.
    """
    findings = [_python(), *map(_package, PACKAGES), *map(_optional_package, OPTIONAL)]
    findings += [_gpu(), _disk(Path.cwd())]
    if instrument is not None:
        findings.append(asyncio.run(_reach_instrument(instrument, patience, keys)))
    if broker is not None:
        findings.append(asyncio.run(_reach_broker(broker, patience)))
    return findings


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution, None where it is not installed. Imports nothing."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _python() -> Finding:
    own = installed_version("ptychopilot") or "not installed"
    text = f"ptychopilot {own}, Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding("installation", "ptychopilot", True, text)


def _package(name: str) -> Finding:
    version = installed_version(name)
    return Finding("installation", name, version is not None, version or "missing; pip install 'ptychopilot[agent]'")


def _optional_package(name: str) -> Finding:
    version = installed_version(name)
    extra, purpose = OPTIONAL[name]
    missing = f"missing; only {purpose} needs it: pip install 'ptychopilot[{extra}]'"
    return Finding("installation", name, None if version is None else True, version or missing)


def _gpu() -> Finding:
    from agent.reconstruction import gpu_reason

    reason = gpu_reason()
    if reason is None:
        cupy = next((f"{name} {v}" for name in GPU_PACKAGES if (v := installed_version(name))), "CuPy")
        return Finding("hardware", "GPU", True, f"reconstructions run on the GPU ({cupy})")
    if Path("/proc/driver/nvidia/version").exists():
        return Finding("hardware", "GPU", False, f"there is an NVIDIA driver, but {reason}; the CPU is used")
    return Finding("hardware", "GPU", None, f"none is used ({reason}); the CPU does it")


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.1f} GB free in {folder}"
    if free < LITTLE_DISK:
        return Finding(
            "hardware", "disk", False, f"{text}; a campaign of the demo's size wants {LITTLE_DISK / 1e9:g} GB"
        )
    return Finding("hardware", "disk", True, text)


async def _reach_instrument(endpoint: str, patience: float, folder: Path | None) -> Finding:
    from agent.campaign.connection import load_keys
    from agent.errors import BadInputError
    from agent.formatting import beam
    from instrument.client import InstrumentClient
    from instrument.errors import InstrumentError

    try:
        keys = load_keys(folder, endpoint)
        async with InstrumentClient(endpoint, keys=keys, timeout=patience, request_timeout=patience) as client:
            description, status, health = await client.describe(), await client.status(), await client.health()
    except (InstrumentError, BadInputError) as error:
        return Finding("instrument", endpoint, False, str(error))
    kind = beam(description.voltage, description.wavelength)
    state = "blanked" if status.blanked else "ON"
    return Finding(
        "instrument",
        endpoint,
        health.ok,
        f"{description.name}, {kind}; {status.phase}, beam {state}{'' if health.ok else f'; not well: {health.message}'}",
    )


async def _reach_broker(address: str, patience: float) -> Finding:
    import aiomqtt

    match = re.fullmatch(r"(?:mqtt://)?(\[[0-9A-Fa-f:]+\]|[^:/\s]+)(?::(\d{1,5}))?", address)
    if match is None:
        return Finding("broker", address, False, "not an address; write HOST or HOST:PORT")
    host, port = match[1].strip("[]"), int(match[2] or 1883)
    name = f"{match[1]}:{port}"
    try:
        async with aiomqtt.Client(host, port, timeout=patience):
            return Finding("broker", name, True, "answers")
    except aiomqtt.MqttError as error:
        return Finding("broker", name, False, f"cannot be reached ({error}); campaigns run without it")
