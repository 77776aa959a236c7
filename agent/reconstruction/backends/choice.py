"""Which backend computes: the CPU's fused kernels, or a GPU where there is one. Nothing touches CUDA unasked."""

from __future__ import annotations

import importlib.util
import threading
from typing import Literal

from agent.reconstruction.backends.protocol import Backend
from instrument.errors import BadInputError


def gpu_reason() -> str | None:
    """Why there is no GPU to compute on; None where there is one. Imports CuPy only where it is installed."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed (pip install 'ptychopilot[gpu]')"
    import cupy

    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"CUDA does not answer: {error}"
    return None if count else "no CUDA device"


_kept = threading.local()
"""The CPU backend of each thread: its scratch memory serves one reconstruction after another, and fresh memory is slow."""


def _cpu() -> Backend:
    from agent.reconstruction.backends.cpu import CpuBackend

    if not hasattr(_kept, "backend"):
        _kept.backend = CpuBackend()
    backend: Backend = _kept.backend
    return backend


def choose(device: Literal["auto", "cpu", "gpu"]) -> Backend:
    """The backend for a device.

    Args:
        device: `auto` takes a GPU where there is one.

    Raises:
        BadInputError: a GPU was asked for and there is none.
    """
    reason = None if device == "cpu" else gpu_reason()
    if device == "cpu" or (device == "auto" and reason is not None):
        return _cpu()
    if reason is not None:
        msg = f"device gpu was asked for, but {reason}; use device: auto or cpu"
        raise BadInputError(msg)
    from agent.reconstruction.backends.gpu import GpuBackend

    return GpuBackend()
