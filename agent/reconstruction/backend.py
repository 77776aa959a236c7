"""Where the arithmetic happens: fused kernels on the CPU, CuPy on a GPU. Nothing here touches CUDA before it is asked to."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from agent.errors import BadInputError
from agent.reconstruction.forward import Sums, accumulate


class Backend(Protocol):
    """An array module and the sums of one batch."""

    name: str
    xp: Any

    def load(self, patterns: NDArray[Any], roll: tuple[int, int]) -> Any:
        """Patterns in the engine's layout: zero beam at pixel (0, 0), integers kept."""
        ...

    def to_host(self, array: Any) -> NDArray[Any]:
        """A NumPy array."""
        ...

    def accumulate(
        self,
        obj: Any,
        probe_k: Any,
        corners: Any,
        fractions: Any,
        counts: Any,
        index: NDArray[np.int64],
        background: Any,
        mask: Any,
        guard: float,
        want_probe: bool,
        want_deviance: bool,
    ) -> Sums:
        """`forward.accumulate` over the patterns `index`."""
        ...


class CpuBackend:
    """The fused kernels of `kernels_cpu`."""

    name = "cpu"
    xp: Any = np

    def __init__(self) -> None:
        from agent.reconstruction.kernels_cpu import FusedCpu

        self._kernels = FusedCpu()
        self.accumulate = self._kernels.accumulate

    def load(self, patterns: NDArray[Any], roll: tuple[int, int]) -> NDArray[Any]:
        """See `Backend.load`."""
        from agent.reconstruction.kernels_cpu import relayout

        if patterns.dtype.kind == "i":
            patterns = patterns.astype(f"u{patterns.dtype.itemsize}")
        elif patterns.dtype.kind == "f":
            patterns = patterns.astype(np.float32)
        return relayout(np.ascontiguousarray(patterns), roll)

    def to_host(self, array: Any) -> NDArray[Any]:
        """The array itself."""
        return np.asarray(array)


class ArrayBackend:
    """The plain form of `forward` over an array module: the reference with NumPy, the GPU with CuPy."""

    chunk = 64

    def __init__(self, xp: Any, name: str) -> None:
        self.xp, self.name = xp, name

    def load(self, patterns: NDArray[Any], roll: tuple[int, int]) -> Any:
        """See `Backend.load`."""
        return self.xp.roll(self.xp.asarray(patterns), roll, axis=(1, 2))

    def to_host(self, array: Any) -> NDArray[Any]:
        """Copied from the device where there is one."""
        return array.get() if hasattr(array, "get") else np.asarray(array)

    def accumulate(
        self,
        obj: Any,
        probe_k: Any,
        corners: Any,
        fractions: Any,
        counts: Any,
        index: NDArray[np.int64],
        background: Any,
        mask: Any,
        guard: float,
        want_probe: bool,
        want_deviance: bool,
    ) -> Sums:
        """In chunks, so that memory stays bounded whatever the batch."""
        total: Sums | None = None
        for start in range(0, len(index), self.chunk):
            part = self.xp.asarray(index[start : start + self.chunk])
            sums = accumulate(
                obj, probe_k, corners[part], fractions[part], counts[part], background, mask, guard, want_probe, self.xp
            )
            if total is None:
                total = sums
                continue
            total.object_numerator += sums.object_numerator
            total.illumination += sums.illumination
            total.ratio += sums.ratio
            total.deviance += sums.deviance
            if want_probe:
                total.probe_numerator += sums.probe_numerator
        if total is None:
            msg = "an empty batch has no sums"
            raise ValueError(msg)
        return total


def gpu_reason() -> str | None:
    """None where a CUDA device and CuPy are at hand, otherwise why not. Imports CuPy only where it is installed."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed (pip install 'ptychopilot[gpu]')"
    import cupy

    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"CUDA does not answer: {error}"
    return None if count else "no CUDA device"


@lru_cache(maxsize=1)
def _cpu() -> CpuBackend:
    return CpuBackend()


def choose(device: Literal["auto", "cpu", "gpu"]) -> Backend:
    """The backend for a device; `auto` takes a GPU where there is one. Raises BadInputError for an absent GPU."""
    if device == "cpu":
        return _cpu()
    reason = gpu_reason()
    if reason is None:
        import cupy

        return ArrayBackend(cupy, "gpu")
    if device == "gpu":
        msg = f"device gpu was asked for, but {reason}; use device: auto or cpu"
        raise BadInputError(msg)
    return _cpu()
