"""A pass leaves the device alone: nothing is read back, and what CUDA graphs point to stays where it is."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from agent.reconstruction import ReconstructionSettings, Reconstructor
from agent.reconstruction.backends import choice
from agent.reconstruction.backends.arrays import ArrayBackend
from agent.reconstruction.backends.gpu import GpuBackend
from agent.reconstruction.model import forward
from agent.reconstruction.solver.passes import make_pass
from agent.reconstruction.solver.schedule import schedule
from agent.reconstruction.solver.state import deviances, settle

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[4] / "physics"))
import phantom
from test_gpu_kernels import HostDevice

WAITS = {"bincount", "nonzero", "flatnonzero", "unique", "array_equal", "allclose", "save", "savez"}
"""Functions of CuPy that wait for the device."""


class DeviceArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array that refuses what makes a CuPy array wait (`bool`, `float`, iteration) or CuPy refuse (host arrays)."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        assert not any(isinstance(a, np.ndarray) and a.ndim for a in inputs), f"{ufunc.__name__} of host and device"
        return wrapped(getattr(ufunc, method)(*unwrapped(inputs), **unwrapped(options)))

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.values, name)
        return on_device(attribute) if callable(attribute) else wrapped(attribute)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.values, name, unwrapped(value)) if name in ("real", "imag") else super().__setattr__(name, value)

    def __getitem__(self, index: Any) -> Any:
        return wrapped(self.values[unwrapped(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self.values[unwrapped(index)] = unwrapped(value)

    def __len__(self) -> int:
        return len(self.values)

    def _refused(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("this waits for the device")

    __bool__ = __float__ = __int__ = __index__ = __complex__ = __iter__ = __array__ = _refused
    item = tolist = get = _refused


class DeviceModule:
    """NumPy's functions on `DeviceArray`, as far as CuPy has them and they do not wait."""

    def __init__(self, module: ModuleType | np.ufunc = np) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        assert name not in WAITS, f"{name} waits for the device"
        found = getattr(self._module, name)
        if isinstance(found, ModuleType | np.ufunc):
            return DeviceModule(found)
        return on_device(found) if callable(found) and not isinstance(found, type) else found

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return on_device(self._module)(*arguments, **options)


def on_device(function: Any) -> Callable[..., Any]:
    """The same function of device arrays."""
    return lambda *arguments, **options: wrapped(function(*unwrapped(arguments), **unwrapped(options)))


def wrapped(value: Any) -> Any:
    """Arrays and their scalars as device arrays."""
    return DeviceArray(value) if isinstance(value, np.ndarray | np.generic) else value


def unwrapped(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(unwrapped(v) for v in value)
    if isinstance(value, dict):
        return {name: unwrapped(v) for name, v in value.items()}
    return value.values if isinstance(value, DeviceArray) else value


class StrictBackend(ArrayBackend):
    """The reference on arrays that cannot be read; its sums stand for the kernels, which read nothing."""

    def __init__(self) -> None:
        super().__init__(DeviceModule(), "strict")
        self.passing = False

    def to_host(self, array: Any) -> Any:
        assert not self.passing, "read from the device inside a pass"
        return unwrapped(array)

    def accumulate(
        self, problem: forward.Problem, unknowns: forward.Unknowns, index: Any, wanted: forward.Wanted
    ) -> forward.Sums:
        plain = ArrayBackend(np, "plain")
        problem, unknowns = (replace(r, **unwrapped(dict(vars(r)))) for r in (problem, unknowns))
        sums = plain.accumulate(problem, unknowns, index, wanted)
        return replace(sums, **{name: wrapped(value) for name, value in vars(sums).items()})


CASES = [
    {},
    {"object_type": "complex", "background": True, "positivity": True},
    {"slices": 2, "slice_spacing": 5.0, "probe_modes": 2, "regularise": True},
    {"slices": 3, "slice_spacing": (1.0, 2.0), "padding": 1.25},
    {"refine_intensity": True, "variable_modes": 2},
    {"object_type": "complex", "regularise": True},
]
BINNED = 100.0
"""Å of defocus at which the first passes see the phantom's detector in bins, the others its pixels."""


@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_is_read_from_the_device_inside_a_pass(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    data = phantom.experiment(step=4.0, defocus=BINNED, dose=1e5)  # so many counts tell what slices absorb
    settings = ReconstructionSettings(max_passes=9, stop_early=False, **case)
    strict = StrictBackend()
    objects, found_deviances = [], []
    for engine in (strict, ArrayBackend(np, "plain")):
        monkeypatch.setattr(choice, "choose", lambda device, engine=engine: engine)
        worker = Reconstructor(data, settings)
        steps = schedule(settings, len(data.positions))
        assert steps[-1].batch is None
        strict.passing = True
        for step in steps:
            make_pass(worker.experiment, worker.state, step, want_deviance=not step.binned)
        settle(worker.state)
        strict.passing = False
        objects.append(engine.to_host(worker.state.unknowns.object))
        found_deviances.append(deviances(worker.experiment, worker.state))
    assert np.abs(objects[0] - objects[1]).max() < 1e-5
    assert found_deviances[0] == pytest.approx(found_deviances[1], rel=1e-6)


class RecordingDevice(HostDevice):
    """Writes down what a CUDA graph would be recorded for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.recorded: list[tuple[Hashable, Hashable]] = []

    def replay(self, key: Hashable, arrays: Sequence[Any], sequence: Callable[[], None]) -> None:
        self.recorded.append((key, tuple((array.ctypes.data, array.shape) for array in arrays)))
        sequence()


@pytest.mark.parametrize("case", [*CASES, {"refine_positions": "free"}], ids=str)
def test_graphs_find_their_arrays_where_they_were(
    case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("g++") is None:
        pytest.skip("no g++: the kernels cannot be compiled for the CPU")
    device = RecordingDevice(tmp_path)
    monkeypatch.setattr(choice, "choose", lambda _: GpuBackend(device))
    data = phantom.experiment(step=4.0, defocus=BINNED, dose=1e5)  # so many counts tell what slices absorb
    settings = ReconstructionSettings(max_passes=12, stop_early=False, **case)
    worker = Reconstructor(data, settings)
    for step in schedule(settings, len(data.positions)):
        make_pass(worker.experiment, worker.state, step)
    settle(worker.state)
    make_pass(worker.experiment, worker.state, schedule(settings, len(data.positions))[-1])
    assert len(device.recorded) > 12
    # those of the bins, where the probe is small enough, and those of the pixels
    places = {pointers for _, pointers in device.recorded}
    assert len(places) == len({shape for pointers in places for _, shape in pointers[1:2]})
