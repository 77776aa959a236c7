"""Milliseconds per pass on a GPU, and its agreement with the CPU. `pytest tests/benchmarks -s -k gpu`.

A pass is all patterns through the model and back, exact sub-pixel shifts, object and probe updated. Counts are random: the
time does not depend on them. Bytes are what the design moves (see `backends.gpu`); divided by the time they say
how far from the memory's speed it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import physical_limit
import pytest

from agent.reconstruction import ReconstructionSettings, reconstruct
from agent.reconstruction.backends import choice
from agent.reconstruction.backends.cpu import CpuBackend
from agent.reconstruction.backends.gpu import WAVES, GpuBackend
from agent.reconstruction.backends.gpu_buffers import IN_SHARED
from agent.reconstruction.backends.protocol import Backend
from agent.reconstruction.kernels.cuda import CupyDevice
from agent.reconstruction.model import forward

pytestmark = pytest.mark.gpu
N = 128
STEP = 2.8
"""Object pixels from position to position: 0.85 Å."""


@pytest.fixture(autouse=True)
def _needs_a_gpu() -> None:
    if (reason := choice.gpu_reason()) is not None:
        pytest.skip(reason)


def case(engine: Backend, side: int, modes: int, slices: int, size: int = N) -> Any:
    """side² patterns of size² round a disc of 20 pixels, as a problem and unknowns of the backend."""
    rng = np.random.default_rng(0)
    k = np.fft.fftfreq(size, 1 / size)
    k2 = k[:, None] ** 2 + k[None, :] ** 2
    orders = (1 + np.arange(modes))[:, None, None]
    wave = np.exp(1j * 0.01 * orders * k2) * (k2 < (20 * size / N) ** 2) / orders
    wave *= np.sqrt(3e3 / (np.abs(wave) ** 2).sum())
    n = side**2
    places = STEP * np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), axis=-1).reshape(-1, 2)
    places += rng.uniform(0, 1, places.shape)
    field = (slices, *(int(places[:, axis].max()) + size + 2 for axis in (0, 1)))
    block = rng.poisson(3e3 * (k2 < (22 * size / N) ** 2) / (np.pi * (22 * size / N) ** 2) + 0.01, (256, size, size))

    def counts() -> Iterator[np.ndarray]:
        for first in range(0, n, 256):
            yield block[: n - first].astype(np.uint8)

    problem = forward.Problem(
        engine.load(counts(), n, (0, 0), (size, size)),
        np.ones((size, size), np.float32),
        modes,
        np.exp(-0.002j * k2 * np.ones((slices - 1, 1, 1))).astype(np.complex64),
        k2 < (20 * size / N) ** 2,
    )
    unknowns = forward.Unknowns(
        np.exp(1j * rng.uniform(-0.1, 0.1, field)).astype(np.complex64),
        wave.astype(np.complex64),
        np.floor(places).astype(np.int32),
        (places % 1 - 0.5).astype(np.float32),
        np.ones((n, modes), np.float32),
        np.full((size, size), 0.05, np.float32),
        0.05,
    )
    for record, names in ((problem, ("mask", "propagators")), (unknowns, tuple(vars(unknowns))[:-1])):
        for name in names:
            setattr(record, name, engine.xp.asarray(getattr(record, name)))
    return problem, unknowns


def one_pass(engine: Backend, problem: Any, unknowns: Any, batches: int, rng: np.random.Generator) -> Any:
    """All patterns once, in random batches; the deviance, left where it is."""
    wanted = forward.Wanted()
    support = engine.xp.asarray(problem.support)
    deviance = 0.0
    for batch in np.array_split(rng.permutation(len(unknowns.corners)), batches):
        sums = engine.accumulate(problem, unknowns, batch, wanted)
        floor = 0.05 * sums.illumination.max()
        unknowns.object += 0.3 * sums.object_numerator / (sums.illumination + floor)
        unknowns.apertures += 0.1 / len(batch) * sums.aperture_numerator * support
        deviance = deviance + sums.deviance
    return deviance


def milliseconds(
    engine: GpuBackend, problem: Any, unknowns: Any, batches: int, rounds: int = 10
) -> tuple[float, float]:
    """Medians of a pass, and of the time after which Python was free again."""
    rng, wait = np.random.default_rng(1), engine.xp.cuda.get_current_stream().synchronize
    whole, launched = [], []
    for number in range(rounds + 3):
        wait()
        started = time.perf_counter()
        one_pass(engine, problem, unknowns, batches, rng)
        back = time.perf_counter()
        wait()
        if number >= 3:  # compiled, planned and recorded
            whole.append(time.perf_counter() - started)
            launched.append(back - started)
    return 1e3 * float(np.median(whole)), 1e3 * float(np.median(launched))


@pytest.mark.parametrize(
    ("side", "modes", "slices", "limit"), [(64, 1, 1, 4.0), (128, 12, 1, 200.0), (128, 6, 6, 600.0)]
)
def test_milliseconds_per_pass(
    side: int, modes: int, slices: int, limit: float, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = GpuBackend()
    problem, unknowns = case(engine, side, modes, slices)
    whole, launched = milliseconds(engine, problem, unknowns, 1)
    moved = side**2 * N**2 * (modes * (32 * slices + 32) + 3)
    name = engine.xp.cuda.runtime.getDeviceProperties(0)["name"].decode()
    with capsys.disabled():
        print(
            f"\n{name}: {side**2} patterns of {N}², {modes} modes, {slices} slices: {whole:.2f} ms a pass (limit {limit:.0f}), "
            f"{moved / whole / 1e9:.2f} TB/s by design; Python free after {launched:.2f} ms"
        )
    assert whole < limit
    assert launched < whole / 2  # nothing in a pass waits for the device


def test_batches_and_chunks(capsys: pytest.CaptureFixture[str]) -> None:
    """What mini-batches cost, and whether chunks that fit the second-level cache gain anything."""
    with capsys.disabled():
        for waves in (64, 256, WAVES // 2, WAVES, 2 * WAVES):
            engine = GpuBackend(waves=waves)
            problem, unknowns = case(engine, 64, 1, 1)
            figures = [f"{milliseconds(engine, problem, unknowns, batches)[0]:.2f}" for batches in (1, 12, 64)]
            print(
                f"\n4096 patterns, at most {waves} waves at once: {', '.join(figures)} ms in 1, 12, 64 batches", end=""
            )
        print()


def test_transforms_in_shared_memory_and_by_cufft(capsys: pytest.CaptureFixture[str]) -> None:
    """1600 patterns of each size, by cuFFT also where a wave fits into shared memory."""
    with capsys.disabled():
        for size in (64, 96, 128, 192, 256):
            figures = []
            for shared in (None, 0) if size in IN_SHARED else (0,):
                engine = GpuBackend(CupyDevice(shared))
                whole, _ = milliseconds(engine, *case(engine, 40, 1, 1, size), 1)
                figures.append(f"{whole:.2f} ms" + (" by cuFFT" if shared == 0 else ""))
            print(f"\n1600 patterns of {size}²: {', '.join(figures)}", end="")
        print()


@pytest.mark.parametrize("slices", [1, 2])
def test_seconds_of_a_reconstruction(slices: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The thin object of `make limit` at 1e3 e/Å², 441 positions, with all that the defaults do."""
    data, _, expected = physical_limit.thin_object()
    data = replace(data, patterns=np.random.default_rng(0).poisson(1e3 * expected).astype(np.uint16))
    figures = {}
    for device in ("gpu", "cpu"):
        settings = ReconstructionSettings(slices=slices, device=device)
        assert reconstruct(data, settings).device == device  # kernels compiled
        figures[device] = min(reconstruct(data, settings).seconds for _ in range(3))
    with capsys.disabled():
        print(f"\n441 positions, {slices} slices: {figures['gpu']:.2f} s on the GPU, {figures['cpu']:.2f} s on the CPU")
    assert figures["gpu"] < figures["cpu"]


@pytest.mark.parametrize(("modes", "slices"), [(1, 1), (3, 3)])
def test_object_agrees_with_the_cpu_after_20_passes(modes: int, slices: int) -> None:
    agree_after_20_passes(GpuBackend(), modes, slices)


def agree_after_20_passes(engine: GpuBackend, modes: int, slices: int, size: int = N) -> None:
    """Relative L2 distance below 1e-4 from the CPU, object and probe updated in four batches a pass."""
    objects, deviances = [], []
    for one in (CpuBackend(), engine):
        problem, unknowns = case(one, 8, modes, slices, size)
        rng = np.random.default_rng(2)
        for _ in range(20):
            deviance = one_pass(one, problem, unknowns, 4, rng)
        objects.append(one.to_host(unknowns.object))
        deviances.append(float(deviance))
    assert np.linalg.norm(objects[1] - objects[0]) < 1e-4 * np.linalg.norm(objects[0])
    assert deviances[1] == pytest.approx(deviances[0], rel=1e-4)
