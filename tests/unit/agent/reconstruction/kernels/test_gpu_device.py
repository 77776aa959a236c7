"""What the GPU backend asks of CuPy, without a GPU."""

from __future__ import annotations

import re
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agent.reconstruction.backends.gpu import GpuBackend
from agent.reconstruction.kernels import cuda
from agent.reconstruction.kernels.cuda import GpuFailedError


def test_every_failure_of_cuda_is_one_error() -> None:
    broken = type("CUDARuntimeError", (RuntimeError,), {"__module__": "cupy_backends.cuda.api.runtime"})
    with pytest.raises(GpuFailedError, match="CUDARuntimeError: cudaErrorIllegalAddress"), cuda.failures():
        raise broken("cudaErrorIllegalAddress")
    with pytest.raises(ZeroDivisionError), cuda.failures():
        raise ZeroDivisionError


class FakeCupy:
    """As much of CuPy as `CupyDevice` uses; writes down what is asked of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.refuse = False
        fake, log = self, self.log

        class Stream:
            def __init__(self, non_blocking: bool) -> None:
                assert non_blocking

            def __enter__(self) -> None:
                log.append("enter")

            def __exit__(self, *error: object) -> None:
                log.append("leave")

            def begin_capture(self) -> None:
                log.append("begin")

            def end_capture(self) -> Any:
                log.append("end")
                if fake.refuse:
                    raise type("CUDARuntimeError", (RuntimeError,), {"__module__": "cupy_backends.cuda.api.runtime"})
                return SimpleNamespace(launch=lambda: log.append("replay"))

        class PlanNd:
            def __init__(self, shape: Any, *rest: Any) -> None:
                log.append(f"plan {shape} × {rest[7]}")

            def fft(self, source: Any, target: Any, direction: int) -> None:
                log.append(f"fft {direction}")

        class RawModule:
            def __init__(self, code: str, options: tuple[str, ...]) -> None:
                assert "transmit_back" in code
                assert "to_detector" in code
                log.append(f"compile {options}")

            def get_function(self, name: str) -> Any:
                return Function(name)

        class Function:
            max_dynamic_shared_size_bytes = 48 * 1024

            def __init__(self, name: str) -> None:
                self.name = name

            def __call__(self, grid: Any, block: Any, arguments: Any, shared_mem: int) -> None:
                assert shared_mem <= self.max_dynamic_shared_size_bytes
                log.append(f"{self.name} {grid} {block} {arguments} {shared_mem}")

        cufft = SimpleNamespace(PlanNd=PlanNd, CUFFT_C2C=41, CUFFT_FORWARD=-1, CUFFT_INVERSE=1)
        runtime = SimpleNamespace(memGetInfo=lambda: (700, 1000))
        unit = SimpleNamespace(attributes={"MaxSharedMemoryPerBlockOptin": 100_000})
        self.cuda = SimpleNamespace(Stream=Stream, cufft=cufft, runtime=runtime, Device=lambda: unit)
        self.RawModule = RawModule
        self.get_default_memory_pool = lambda: SimpleNamespace(free_bytes=lambda: 50)
        monkeypatch.setitem(sys.modules, "cupy", self)  # type: ignore[arg-type]
        monkeypatch.setitem(sys.modules, "cupy.cuda", self.cuda)  # type: ignore[arg-type]


def fake_array(pointer: int, *shape: int) -> Any:
    return SimpleNamespace(data=SimpleNamespace(ptr=pointer), shape=shape, size=int(np.prod(shape)))


def test_what_the_device_asks_of_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCupy(monkeypatch)
    device = cuda.CupyDevice()
    assert device.free_memory() == 750
    launch = device.kernels((("NY", 4),))
    launch("sum_rows", 257, columns=3, add=True, rows=2, partial="a", out="b")  # in whatever order
    launch("sum_columns", 257, columns=3, partial="a", out="b", block=(128, 99_000))
    assert device.shared_memory() == 100_000
    assert device.kernels((("NY", 4),)) is launch
    wave = fake_array(1, 5, 2, 4, 6)
    device.transform(wave, wave, inverse=True)
    device.transform(wave, wave, inverse=False)
    arguments = (np.uint32(257), np.int32(2), np.int32(3), np.int32(1), "a", "b")
    assert fake.log == [
        "compile ('-DNY=4',)",
        f"sum_rows (2,) (256,) {arguments} 0",
        f"sum_columns (257,) (128,) {(np.uint32(257), np.int32(3), 'a', 'b')} 99000",
        "plan (4, 6) × 10",
        "fft 1",
        "fft -1",
    ]


def test_arguments_are_those_of_the_source() -> None:
    assert list(cuda.parameters()) == re.findall(r"^(?:WAVE_)?KERNEL (\w+)", cuda.source(), re.MULTILINE)
    assert cuda.parameters()["filter"] == {"transfer": "array", "planes": "array"}
    passed = cuda.ordered("propagate", {"backwards": True, "n_waves": 3, "waves": "w", "propagator": "p"})
    assert passed == [3, 1, "p", "w"]
    assert cuda.parameters()["detect"]["variance"] == "float"
    with pytest.raises(TypeError, match="the kernel filter takes transfer, planes, not planes, transfr"):
        cuda.ordered("filter", {"planes": "p", "transfr": "t"})


def test_a_sequence_that_comes_again_is_recorded_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCupy(monkeypatch)
    device = cuda.CupyDevice()
    recorded = ["enter", "begin", "launch", "end", "leave", "replay"]

    def twice(array: Any) -> None:
        fake.log.clear()
        for _ in range(2):
            device.replay("key", [array], lambda: fake.log.append("launch"))

    twice(fake_array(1, 4))
    assert fake.log == ["launch", *recorded]
    twice(fake_array(1, 4))
    assert fake.log == ["replay", "replay"]
    twice(fake_array(2, 4))  # the same in other memory is another sequence
    assert fake.log == ["launch", *recorded]
    device.forget()
    fake.refuse = True
    twice(fake_array(1, 4))  # what cannot be recorded is launched
    assert fake.log == ["launch", *recorded[:-1], "launch"]
    twice(fake_array(1, 4))
    assert fake.log == ["launch", "launch"]


def test_without_cupy_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(GpuFailedError, match="CuPy or a CUDA library it needs cannot be loaded"):
        GpuBackend()


def test_importing_it_touches_no_cuda() -> None:
    code = "import sys, agent.reconstruction.backends.gpu; sys.exit('cupy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
