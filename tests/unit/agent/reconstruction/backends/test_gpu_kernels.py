"""The GPU's kernels without a GPU: they compile, and the same source as plain C++ agrees with the reference."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Hashable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.reconstruction.backends import choice
from agent.reconstruction.backends.arrays import ArrayBackend
from agent.reconstruction.backends.cpu import CpuBackend
from agent.reconstruction.backends.gpu import GpuBackend
from agent.reconstruction.backends.gpu_buffers import Buffers, Dimensions
from agent.reconstruction.counts.layout import framed
from agent.reconstruction.kernels import cuda
from agent.reconstruction.kernels.cuda import GpuFailedError
from agent.reconstruction.model import forward


class HostDevice:
    """`cuda.Device` on the CPU: the kernels' source as C++, in which a loop stands for the grid, and NumPy's FFT.

    Args:
        folder: for the compiled kernels.
        memory: bytes it pretends to have.
        backward: run the threads of each kernel last to first.
        shared: bytes of shared memory of a thread block; 0: all transforms are the device's.
    """

    xp: Any = np

    def __init__(self, folder: Path, memory: float = 1e10, backward: bool = False, shared: int = 232448) -> None:
        self.folder, self.memory, self.backward, self.shared = folder, memory, backward, shared
        self.launched: list[str] = []

    def free_memory(self) -> int:
        return int(self.memory)

    def shared_memory(self) -> int:
        return self.shared

    def kernels(self, sizes: cuda.Sizes) -> cuda.Launch:
        macros = [f"-D{name}={value}" for name, value in sizes] + ["-DBACKWARD"] * self.backward
        path = self.folder / ("_".join(m[2:].replace("=", "") for m in macros) + ".so")
        if not path.exists():
            options = ["-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-maybe-uninitialized"]
            command = ["g++", *options, "-shared", "-fPIC", *macros, "-x", "c++", "-", "-o", str(path)]
            subprocess.run(command, check=True, input=cuda.source(), text=True)
        library = ctypes.CDLL(str(path))

        def launch(name: str, number: int, *, block: tuple[int, int] | None = None, **arguments: Any) -> None:
            assert block is None or block[1] <= self.shared
            self.launched.append(name)
            getattr(library, name)(ctypes.c_uint(number), *(_passed(a) for a in cuda.ordered(name, arguments)))

        return launch

    def transform(self, source: Any, target: Any, inverse: bool) -> None:
        assert source.dtype == np.complex64
        assert source.flags.c_contiguous
        assert target.flags.c_contiguous
        target[...] = np.fft.ifft2(source, norm="forward") if inverse else np.fft.fft2(source)

    def replay(self, key: Hashable, arrays: Sequence[Any], sequence: Callable[[], None]) -> None:
        sequence()

    def forget(self) -> None:
        pass


def _passed(value: Any) -> Any:
    """What `cuda.ordered` gives, for ctypes."""
    if isinstance(value, np.ndarray):
        assert value.flags.c_contiguous
        return ctypes.c_void_p(value.ctypes.data)
    return ctypes.c_float(value) if isinstance(value, np.float32) else ctypes.c_int(value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("g++") is None:
        pytest.skip("no g++: the kernels cannot be compiled for the CPU")
    return tmp_path_factory.mktemp("kernels")


def example(
    modes: int = 1,
    slices: int = 1,
    variations: int = 0,
    n: int = 21,
    shape: tuple[int, int] = (20, 23),
    kind: str = "uint16",
    **changes: Any,
) -> tuple[forward.Problem, forward.Unknowns]:
    """Patterns of a random object at random places, and unknowns near the truth."""
    rng = np.random.default_rng(modes + 10 * slices + 100 * variations)
    n_y, n_x = shape
    area = (slices, n_y + 17, n_x + 38)

    def noise(*size: int) -> Any:
        return rng.standard_normal(size) + 1j * rng.standard_normal(size)

    ky, kx = np.fft.fftfreq(n_y)[:, None], np.fft.fftfreq(n_x)[None, :]
    disc = np.exp(-30 * (ky**2 + kx**2))
    unknowns = forward.Unknowns(
        object=np.exp(1j * rng.uniform(-0.5, 0.5, area)).astype(np.complex64),
        apertures=(disc * (noise(modes + variations, 1, 1) + 0.3 * noise(modes + variations, *shape))).astype(
            np.complex64
        ),
        corners=rng.integers(0, (18, 39), (n, 2)).astype(np.int32),
        subpixel_shifts=rng.uniform(-0.7, 0.7, (n, 2)).astype(np.float32),
        weights=rng.uniform(0.5, 1.5, (n, modes + variations)).astype(np.float32),
        background=rng.uniform(0.1, 0.3, shape).astype(np.float32),
        count_offset=0.05,
    )
    problem = forward.Problem(
        counts=np.zeros((n, *shape), np.uint16),
        mask=(rng.uniform(size=shape) > 0.1).astype(np.float32),
        n_modes=modes,
        propagators=np.exp(-40j * (ky**2 + kx**2) * np.ones((slices - 1, 1, 1))).astype(np.complex64),
        transfer=None,
    )
    model, _ = forward.intensities(problem, unknowns, np.arange(n), np)
    problem.counts = rng.poisson(model * 1.3).astype(kind)
    if changes.pop("supported", False):
        problem.support = (ky**2 + kx**2) < 0.1
        unknowns.apertures *= problem.support
    if changes.pop("blurred", False):
        problem.transfer = np.exp(-8 * (ky**2 + kx**2)).astype(np.float32)
    for name, value in changes.items():
        setattr(problem, name, value)
    return problem, unknowns


def distance(a: Any, b: Any) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def compare(sums: forward.Sums, expected: forward.Sums, support: Any = 1, limit: float = 1e-5) -> None:
    """Relative L2 distances of all sums, those of the apertures within their support."""
    expected.aperture_numerator = expected.aperture_numerator * (1 if support is None else support)
    for name in ("object_numerator", "illumination", "aperture_numerator", "ratio", "slopes", "modelled"):
        value, wanted = getattr(sums, name), getattr(expected, name)
        if wanted is not None:
            assert distance(value, wanted) < limit, name
    assert float(sums.deviance) == pytest.approx(expected.deviance, rel=limit)


EVERYTHING = forward.Wanted()
CASES: list[dict[str, Any]] = [
    {"modes": modes, "slices": slices, "variations": variations}
    for modes in (1, 3)
    for slices in (1, 3)
    for variations in (0, 2)
]
CASES += [
    {"loss": "amplitude"},
    {"loss": "gaussian", "variance": 2.5},
    {"blurred": True, "modes": 3, "slices": 3},
    {"blurred": True, "loss": "amplitude", "variations": 2},
    {"supported": True},
    {"supported": True, "modes": 3, "slices": 3, "variations": 2},
    {"kind": "uint8"},
    {"kind": "float32"},
    {"shape": (32, 16), "n": 3},
    {"shape": (32, 64), "modes": 3, "slices": 3, "variations": 2, "supported": True},
    {"shape": (96, 32), "slices": 2, "blurred": True},
    {"shape": (64, 128), "n": 11, "modes": 2},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_the_reference(case: dict[str, Any], folder: Path) -> None:
    problem, unknowns = example(**case)
    index = np.random.default_rng(0).permutation(len(problem.counts))[:-1]
    expected = forward.accumulate(problem, unknowns, index, EVERYTHING, np)
    # one chunk, padded at its end; and several
    compare(GpuBackend(HostDevice(folder)).accumulate(problem, unknowns, index, EVERYTHING), expected, problem.support)
    waves = 8 * problem.n_modes * problem.mask.size / 128**2
    device = HostDevice(folder)
    compare(GpuBackend(device, waves).accumulate(problem, unknowns, index, EVERYTHING), expected, problem.support)
    assert device.launched.count("prepare") == -(-len(index) // 8)


def test_waves_stay_in_shared_memory_where_they_fit(folder: Path) -> None:
    problem, unknowns = example(2, 2, shape=(64, 32), n=9, supported=True)
    index = np.arange(len(problem.counts))
    sums = []
    for shared in (0, Dimensions.of(problem, unknowns, 0).block[1] - 1, 232448):
        device = HostDevice(folder, shared=shared)
        sums.append(GpuBackend(device).accumulate(problem, unknowns, index, EVERYTHING))
        assert ("to_detector" in device.launched) == ("from_detector" in device.launched) == (shared == 232448)
        assert ("illuminate" in device.launched) == (shared != 232448)
    compare(sums[2], sums[0], problem.support)


@pytest.mark.parametrize("shape", [(20, 23), (32, 64)])
def test_threads_do_not_depend_on_their_order(shape: tuple[int, int], folder: Path) -> None:
    problem, unknowns = example(3, 3, 2, shape=shape, blurred=True)
    index = np.arange(len(problem.counts))
    forwards, backwards = (
        GpuBackend(HostDevice(folder, backward=backward)).accumulate(problem, unknowns, index, EVERYTHING)
        for backward in (False, True)
    )
    compare(backwards, forwards, limit=1e-6)
    assert np.array_equal(backwards.object_numerator, forwards.object_numerator)


def test_only_what_is_wanted(folder: Path) -> None:
    problem, unknowns = example()
    index = np.arange(9)
    device = HostDevice(folder)
    gpu = GpuBackend(device)
    sums = gpu.accumulate(problem, unknowns, index, forward.Wanted(False, False, False, True))
    expected = forward.accumulate(problem, unknowns, index, EVERYTHING, np)
    assert sums.deviance == pytest.approx(expected.deviance, rel=1e-5)
    assert "transmit_back" not in device.launched
    sums = gpu.accumulate(problem, unknowns, index, forward.Wanted(True, False, False, False))
    assert sums.aperture_numerator is sums.slopes is sums.ratio is None
    assert sums.deviance == 0
    assert distance(sums.object_numerator, expected.object_numerator) < 1e-5


def test_sums_outlive_the_next_batch(folder: Path) -> None:
    problem, unknowns = example()
    gpu = GpuBackend(HostDevice(folder))
    first = gpu.accumulate(problem, unknowns, np.arange(8), EVERYTHING)
    kept = first.object_numerator.copy(), first.slopes.copy()
    gpu.accumulate(problem, unknowns, np.arange(8, 16), EVERYTHING)
    assert np.array_equal(first.object_numerator, kept[0])
    assert np.array_equal(first.slopes, kept[1])


def test_all_backends_agree_after_twenty_passes(folder: Path) -> None:
    """A plain preconditioned gradient in mini-batches, object and apertures, 20 times through the data."""
    results = []
    for engine in (ArrayBackend(np, "reference"), CpuBackend(), GpuBackend(HostDevice(folder))):
        problem, unknowns = example(2, 2, shape=(16, 32), supported=True)
        problem.counts = engine.load(iter([problem.counts]), len(problem.counts), (0, 0), (16, 32))
        unknowns.object[...] = 1
        rng = np.random.default_rng(5)
        for _ in range(20):
            for batch in np.array_split(rng.permutation(len(unknowns.corners)), 2):
                sums = engine.accumulate(problem, unknowns, batch, EVERYTHING)
                floor = 0.05 * sums.illumination.max()
                unknowns.object += (0.2 * sums.object_numerator / (sums.illumination + floor)).astype(np.complex64)
                step = 0.1 / len(batch) * sums.aperture_numerator * problem.support
                unknowns.apertures += step.astype(np.complex64)
        results.append((unknowns.object, unknowns.apertures))
    for obj, apertures in results[1:]:
        assert distance(obj, results[0][0]) < 1e-4
        assert distance(apertures, results[0][1]) < 1e-4
    assert distance(results[0][0], np.ones_like(results[0][0])) > 0.05


@pytest.mark.parametrize(("given", "kept"), [("uint8", "uint8"), ("uint16", "uint8"), ("int64", "uint8"), ("f8", "f4")])
def test_load_frames_and_keeps_integers(given: str, kept: str, folder: Path) -> None:
    rng = np.random.default_rng(1)
    patterns = rng.integers(0, 200, (7, 9, 11)).astype(given)
    gpu = GpuBackend(HostDevice(folder))
    loaded = gpu.load(iter([patterns[:4], patterns[4:]]), 7, (-4, 3), (12, 16))
    assert loaded.dtype == kept
    expected = framed(patterns, (-4, 3), (12, 16))
    assert np.array_equal(loaded, expected)
    assert np.array_equal(gpu.bin_counts(loaded, (12, 16)), expected.reshape(7, 6, 2, 8, 2).sum(axis=(2, 4)))
    totals, mean = gpu.sum_counts(loaded, (12, 16))
    assert np.array_equal(totals, expected.sum(axis=(1, 2)))
    assert np.array_equal(mean, expected.sum(axis=0))
    wide = gpu.load(iter([patterns[:4].astype(np.uint8), patterns[4:].astype(np.uint16) + 300]), 7, (0, 0), (9, 11))
    assert wide.dtype == np.uint16
    assert wide[6].max() > 300


def test_thinned_counts_are_binomial(folder: Path) -> None:
    gpu = GpuBackend(HostDevice(folder))
    counts = np.random.default_rng(0).poisson(3.0, (300, 16, 16)).astype(np.uint8)
    drawn = gpu.thin_counts(counts, 0.1, 7)
    assert drawn.dtype == np.uint8
    assert np.all(drawn <= counts)
    assert drawn.sum() == pytest.approx(0.1 * counts.sum(), abs=5 * np.sqrt(0.09 * counts.sum()))
    assert np.corrcoef(drawn.ravel(), (counts - drawn).ravel())[0, 1] == pytest.approx(0, abs=5 / np.sqrt(counts.size))
    assert np.array_equal(drawn, gpu.thin_counts(counts, 0.1, 7))


def test_counts_are_drawn_as_expected(folder: Path) -> None:
    gpu = GpuBackend(HostDevice(folder))
    model = np.full((300, 16, 16), 3.0, np.float32)
    model[0] = -1e-6  # rounding of an intensity that is 0
    counts = gpu.draw_counts(model, (4, 1))
    assert counts.dtype == np.uint16
    assert not counts[0].any()
    assert counts[1:].mean() == pytest.approx(3, abs=5 * np.sqrt(3 / counts[1:].size))
    assert counts[1:].var() == pytest.approx(3, rel=0.05)
    assert np.array_equal(counts, gpu.draw_counts(model, (4, 1)))
    assert not np.array_equal(counts, gpu.draw_counts(model, (4, 0)))
    assert gpu.draw_counts(np.full((1, 2, 2), 1e6, np.float32), (4, 1)).dtype == np.float32


def test_the_kernels_of_a_gpu_are_warmed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = HostDevice(folder)
    monkeypatch.setattr(choice, "gpu_reason", lambda: None)
    monkeypatch.setattr(choice, "choose", lambda name: {"gpu": GpuBackend(device)}[name])
    import_module("agent.reconstruction.__main__").main(pixels=64)
    assert {"to_detector", "from_detector", "detect", "collect"} <= set(device.launched)


def test_chunks_fit_the_memory_there_is(folder: Path) -> None:
    problem, unknowns = example(3, 3)
    index = np.arange(len(problem.counts))
    dims = Dimensions.of(problem, unknowns, 0)
    device = HostDevice(folder, memory=dims.bytes_for(5) / 0.8 + 1)
    expected = forward.accumulate(problem, unknowns, index, EVERYTHING, np)
    compare(GpuBackend(device).accumulate(problem, unknowns, index, EVERYTHING), expected)
    assert device.launched.count("prepare") == 5
    device.memory = dims.bytes_for(1)
    with pytest.raises(GpuFailedError, match=r"one pattern at a time need .* GB, .* GB are free"):
        GpuBackend(device).accumulate(problem, unknowns, index, EVERYTHING)
    with pytest.raises(GpuFailedError, match="9 patterns of 1000 × 1000 need"):
        GpuBackend(device).load(iter([np.zeros((1, 1000, 1000), np.uint16)]), 9, (0, 0), (1000, 1000))


def test_refused_memory_makes_smaller_chunks_and_then_one_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.reconstruction.backends import gpu as module

    class Refusing(Buffers):
        largest = 4

        def __init__(self, dims: Any, chunk: int, total: int, xp: Any) -> None:
            if chunk > self.largest:
                raise MemoryError
            super().__init__(dims, chunk, total, xp)

    monkeypatch.setattr(module, "Buffers", Refusing)
    problem, unknowns = example()
    expected = forward.accumulate(problem, unknowns, np.arange(10), EVERYTHING, np)
    compare(GpuBackend(HostDevice(folder)).accumulate(problem, unknowns, np.arange(10), EVERYTHING), expected)
    Refusing.largest = 0
    with pytest.raises(GpuFailedError, match="one pattern at a time"):
        GpuBackend(HostDevice(folder)).accumulate(problem, unknowns, np.arange(10), EVERYTHING)


@pytest.mark.parametrize(
    ("architecture", "modes", "apertures"),
    [("sm_80", 1, 1), ("sm_90", 1, 1), ("sm_90", 12, 12), ("sm_90", 1, 5)],
)
def test_kernels_compile_and_keep_to_their_registers(
    architecture: str, modes: int, apertures: int, tmp_path: Path
) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc: the kernels cannot be compiled for a GPU")
    dims = Dimensions(128, 128, modes, apertures, 1, 500, 500, False, 1300, True)
    macros = [f"-D{name}={value}" for name, value in dims.sizes]
    options = ["-cubin", f"-arch={architecture}", "-Werror", "all-warnings", "-Xptxas", "-v"]
    command = ["nvcc", *options, *macros, str(tmp_path / "kernels.cu"), "-o", str(tmp_path / "kernels.cubin")]
    (tmp_path / "kernels.cu").write_text(cuda.source())
    report = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    spills = {line.strip() for line in report.splitlines() if "spill" in line}
    assert spills == {"0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"}


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_on_a_gpu(case: dict[str, Any]) -> None:
    if (reason := choice.gpu_reason()) is not None:
        pytest.skip(reason)
    problem, unknowns = example(**case)
    index = np.arange(len(problem.counts))
    expected = forward.accumulate(problem, unknowns, index, EVERYTHING, np)
    gpu = GpuBackend()
    for record in (problem, unknowns):
        for name, value in vars(record).items():
            if isinstance(value, np.ndarray) and name != "support":
                setattr(record, name, gpu.xp.asarray(value))
    for _ in range(3):  # as it is, recorded, replayed
        sums = gpu.accumulate(problem, unknowns, index, EVERYTHING)
        for name, value in vars(sums).items():
            setattr(sums, name, gpu.to_host(value))
        compare(sums, expected, problem.support)
