"""What the GPU backend asks of a device: memory, kernels, transforms, and to repeat a sequence of launches.

CuPy is imported when a device is made, never before.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib import resources
from typing import Any, Protocol

import numpy as np

SOURCES = ("diffraction.cu", "waves.cu")
BLOCK = 256
"""Threads per block; the kernels are compiled for it."""
_PLANS, _GRAPHS = 6, 16

_log = logging.getLogger(__name__)


class Launch(Protocol):
    """Launches kernels."""

    def __call__(self, name: str, number: int, *, block: tuple[int, int] | None = None, **arguments: Any) -> None:
        """Launch one kernel.

        Args:
            name: of the kernel.
            number: of threads; of blocks where `block` is given.
            block: (threads, bytes) of a block and of its shared memory.
            arguments: by the names that the kernel's source has; arrays, int and float (passed as 32 bits).
        """
        ...


Sizes = tuple[tuple[str, int], ...]
"""Names and values of the sizes that the kernels are compiled for."""


class GpuFailedError(Exception):
    """The GPU has too little memory or failed; the CPU can do the same work."""


class Device(Protocol):
    """Where kernels run. Launches and transforms follow each other in the order they were asked for."""

    xp: Any

    def free_memory(self) -> int:
        """Bytes that can still be allocated."""
        ...

    def shared_memory(self) -> int:
        """Bytes that a thread block may have to itself."""
        ...

    def kernels(self, sizes: Sizes) -> Launch:
        """The kernels of `SOURCES` compiled for `sizes`."""
        ...

    def transform(self, source: Any, target: Any, inverse: bool) -> None:
        """FFT over the last two axes, not normalised.

        Args:
            source, target: complex64 of one shape; they may be the same array.
            inverse: whether to transform back.
        """
        ...

    def replay(self, key: Hashable, arrays: Sequence[Any], sequence: Callable[[], None]) -> None:
        """Do what `sequence` launches, or replay it from a recording.

        Args:
            key: of all numbers that the launches depend on.
            arrays: all that they read and that may move.
            sequence: launches.
        """
        ...

    def forget(self) -> None:
        """Drop all recordings: memory that they use is given back."""
        ...


def source() -> str:
    """The kernels' source, in one piece."""
    folder = resources.files(__package__)
    return "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in SOURCES)


@lru_cache(maxsize=1)
def parameters() -> dict[str, dict[str, str]]:
    """Kernel → name of each parameter after the first, in their order → `int`, `float` or `array`; read from the source."""
    found = {}
    for name, listed in re.findall(r"KERNEL (\w+)\(unsigned \w+,(.*?)\) {", source(), re.DOTALL):
        each = [" ".join(parameter.split()) for parameter in listed.split(",")]
        found[name] = {p.split()[-1]: "array" if "*" in p else p.split()[0] for p in each}
    return found


def ordered(name: str, arguments: dict[str, Any]) -> list[Any]:
    """The arguments of a launch as the kernel takes them.

    Args:
        name: of the kernel.
        arguments: by name.

    Returns:
        They in the order of the kernel's parameters, numbers as 32 bits.

    Raises:
        TypeError: an argument is missing, or is none of the kernel's.
    """
    expected = parameters()[name]
    if arguments.keys() != expected.keys():
        msg = f"the kernel {name} takes {', '.join(expected)}, not {', '.join(arguments)}"
        raise TypeError(msg)
    make: dict[str, Callable[[Any], Any]] = {"int": np.int32, "float": np.float32, "array": lambda array: array}
    return [make[kind](arguments[parameter]) for parameter, kind in expected.items()]


@contextmanager
def failures() -> Iterator[None]:
    """Any error of CUDA or CuPy inside becomes a GpuFailedError. Costs nothing, and needs no CuPy, where there is no GPU.

    A kernel's error shows itself at a later call, so what uses arrays of the device belongs inside as well.
    """
    try:
        yield
    except Exception as error:
        if not _of_cuda(error):
            raise
        msg = f"the GPU failed: {type(error).__name__}: {str(error).strip()}"
        raise GpuFailedError(msg) from error


class CupyDevice:
    """The current CUDA device, through CuPy.

    The second time that a sequence of launches comes it is recorded as a CUDA graph, from the third on it is one call: a
    mini-batch of few patterns would otherwise wait for Python.

    Args:
        shared_memory: bytes of shared memory for a thread block; None: as many as it may have.

    Raises:
        GpuFailedError: CuPy or its libraries are missing.
    """

    def __init__(self, shared_memory: int | None = None) -> None:
        try:
            import cupy
            from cupy.cuda import cufft
        except ImportError as error:
            msg = f"CuPy or a CUDA library it needs cannot be loaded: {error}"
            raise GpuFailedError(msg) from error
        self.xp: Any = cupy
        self._cufft = cufft
        self._launchers: dict[Sizes, Launch] = {}
        self._plans: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._graphs: OrderedDict[Hashable, Any] = OrderedDict()
        self._recording = True
        with failures():
            self._stream = cupy.cuda.Stream(non_blocking=True)
            legal = int(cupy.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"])
        self._shared_memory = legal if shared_memory is None else min(legal, shared_memory)

    def free_memory(self) -> int:
        """See `Device.free_memory`: free on the device, and held by CuPy's pool without use."""
        return int(self.xp.cuda.runtime.memGetInfo()[0] + self.xp.get_default_memory_pool().free_bytes())

    def shared_memory(self) -> int:
        """See `Device.shared_memory`."""
        return self._shared_memory

    def kernels(self, sizes: Sizes) -> Launch:
        """See `Device.kernels`. Compiled by NVRTC at first use; CuPy keeps the result on disk."""
        if sizes not in self._launchers:
            macros = tuple(f"-D{name}={value}" for name, value in sizes)
            module = self.xp.RawModule(code=source(), options=macros)
            functions: dict[str, Any] = {}

            def launch(name: str, number: int, *, block: tuple[int, int] | None = None, **arguments: Any) -> None:
                if name not in functions:
                    functions[name] = module.get_function(name)
                    if block is not None:
                        functions[name].max_dynamic_shared_size_bytes = block[1]
                threads, shared = block or (BLOCK, 0)
                blocks = -(-number // BLOCK) if block is None else number
                passed = (np.uint32(number), *ordered(name, arguments))
                functions[name]((blocks,), (threads,), passed, shared_mem=shared)

            self._launchers[sizes] = launch
        return self._launchers[sizes]

    def transform(self, source: Any, target: Any, inverse: bool) -> None:
        """See `Device.transform`."""
        n_y, n_x = source.shape[-2:]
        key = (n_y, n_x, source.size // (n_y * n_x))
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _PLANS:
                self.forget()  # recordings use the plans' work areas
                self._plans.popitem(last=False)
            shape, plane, cufft = (n_y, n_x), n_y * n_x, self._cufft
            plan = cufft.PlanNd(shape, shape, 1, plane, shape, 1, plane, cufft.CUFFT_C2C, key[2], "C", -1, None)
            self._plans[key] = plan
        self._plans.move_to_end(key)
        plan.fft(source, target, self._cufft.CUFFT_INVERSE if inverse else self._cufft.CUFFT_FORWARD)

    def replay(self, key: Hashable, arrays: Sequence[Any], sequence: Callable[[], None]) -> None:
        """See `Device.replay`."""
        full = (key, tuple((array.data.ptr, array.shape) for array in arrays))
        if not self._recording:
            sequence()
        elif full not in self._graphs:  # compiles, plans and allocates, which a recording must not
            sequence()
            self._graphs[full] = None
            while len(self._graphs) > _GRAPHS:
                self._graphs.popitem(last=False)
        else:
            self._graphs.move_to_end(full)
            graph = self._graphs[full] or self._record(sequence)
            if graph is None:
                sequence()
            else:
                self._graphs[full] = graph
                graph.launch()

    def _record(self, sequence: Callable[[], None]) -> Any:
        """The graph of a sequence; None where it cannot be recorded, which is slower and not wrong."""
        try:
            with self._stream:
                self._stream.begin_capture()
                try:
                    sequence()
                finally:
                    graph = self._stream.end_capture()
        except Exception as error:
            if not _of_cuda(error):
                raise
            self._recording = False
            _log.warning("CUDA graphs are off: %s", error)
            return None
        return graph

    def forget(self) -> None:
        """See `Device.forget`."""
        self._graphs.clear()


def _of_cuda(error: Exception) -> bool:
    """Whether an error comes from CuPy or CUDA; told by its module, so that asking does not import them."""
    return type(error).__module__.split(".")[0] in ("cupy", "cupy_backends", "cuda")
