"""A recording served as an instrument: what it offers, which counts it hands out, what it refuses."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import examples
import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from instrument import (
    AcquisitionPlan,
    BlankedError,
    ConflictError,
    ExhaustedError,
    Microscope,
    OutOfLimitsError,
    Rectangle,
)
from instrument.errors import BadInputError
from instrument.recordings import RecordingOptions
from sim_instrument.__main__ import build_parser, main
from sim_instrument.recording_options import add_recording_options
from sim_instrument.replay import ReplayMicroscope

STEP = 20.0
ATTRIBUTES = {
    "accelerating_voltage_V": 300e3,
    "semiangle_mrad": 1.0,
    "angular_pixel_mrad": 0.1,
    "scan_step_A": STEP,
    "nominal_defocus_A": 1e4,
    "counts_per_electron": "unknown",
}


@pytest.fixture(scope="module")
def counts() -> NDArray[np.uint8]:
    """(24, 16, 12, 10): Poisson counts whose mean differs from position to position."""
    rng = np.random.default_rng(0)
    brightness = 3 + rng.random((24, 16, 1, 1))
    return rng.poisson(brightness, (24, 16, 12, 10)).astype(np.uint8)


@pytest.fixture
def recording(tmp_path: Path, counts: NDArray[np.uint8]) -> Path:
    path = tmp_path / "recording.h5"
    write(path, counts)
    return path


def write(path: Path, counts: NDArray[Any], **changes: Any) -> None:
    with h5py.File(path, "w") as file:
        file["data"] = counts
        file.attrs.update({name: value for name, value in {**ATTRIBUTES, **changes}.items() if value is not None})


@pytest.fixture
def serve(tmp_path: Path, recording: Path) -> Callable[..., ReplayMicroscope]:
    def make(state: str = "state", **options: Any) -> ReplayMicroscope:
        return ReplayMicroscope(recording, tmp_path / state, **options)

    return make


def plan(name: str, fraction: float, mean: float, multiple: int = 1, field: Rectangle | None = None) -> AcquisitionPlan:
    """Takes `fraction` of the recorded counts at every `multiple`-th position."""
    step = multiple * STEP
    whole = Rectangle(y=0, x=0, height=24 * STEP, width=16 * STEP)
    return examples.plan(name, field=field or whole, step=step, defocus=1e4, dose=fraction * mean / step**2)


async def acquire(microscope: Microscope, wanted: AcquisitionPlan) -> NDArray[Any]:
    """(n_y, n_x, 12, 10)."""
    frames = [frame async for frame in microscope.acquire(wanted)]
    assert [frame.index for frame in frames] == list(range(wanted.n_positions))
    return np.stack([frame.pattern for frame in frames]).reshape(*wanted.shape, 12, 10)


async def test_description_tells_what_the_recording_allows_and_that_the_gain_is_unknown(
    serve: Callable[..., ReplayMicroscope], counts: NDArray[np.uint8]
) -> None:
    description = await serve().describe()
    assert isinstance(serve("other"), Microscope)
    assert description.detector.counts_per_electron is None
    assert description.dose_unit == "counts/Å²"
    assert description.step.values == (20.0, 40.0)
    assert description.defocus.values == (1e4,)
    assert description.repeatable
    assert (description.area.height, description.area.width) == (480, 320)
    assert description.scan_rotation is None
    assert description.electrons_per_pattern[1] == pytest.approx(counts.sum() / (24 * 16))


async def test_all_counts_of_the_recording_come_back_unchanged(
    serve: Callable[..., ReplayMicroscope], counts: NDArray[np.uint8]
) -> None:
    mean = counts.sum() / (24 * 16)
    assert (await acquire(serve(), plan("a", 1, mean)) == counts).all()


async def test_repeats_share_no_count_and_use_the_recording_up(
    serve: Callable[..., ReplayMicroscope], counts: NDArray[np.uint8]
) -> None:
    mean = counts.sum() / (24 * 16)
    microscope = serve()
    drawn = [
        await acquire(microscope, plan(name, fraction, mean)) for name, fraction in (("a", 0.3), ("b", 0.5), ("c", 0.2))
    ]
    assert (sum(d.astype(int) for d in drawn) == counts).all()
    with pytest.raises(ExhaustedError, match="legal: at most 0"):
        await microscope.check(plan("d", 0.01, mean))
    with pytest.raises(ExhaustedError):
        await acquire(microscope, plan("d", 0.01, mean))


async def test_draws_are_poissonian_and_independent_with_the_dose_asked_for(
    serve: Callable[..., ReplayMicroscope], counts: NDArray[np.uint8]
) -> None:
    mean = counts.sum() / (24 * 16)
    microscope = serve()
    a = (await acquire(microscope, plan("a", 0.25, mean))).astype(float)
    b = (await acquire(microscope, plan("b", 0.25, mean))).astype(float)
    n = a.size
    expected = 0.25 * counts.mean(axis=(2, 3), keepdims=True)
    for drawn in (a, b):
        assert drawn.sum() == pytest.approx(0.25 * counts.sum(), abs=4 * np.sqrt(drawn.sum()))
        # Variance of a Poisson distribution around each position's own brightness; its sd is about sqrt(2/n) relative.
        assert ((drawn - expected) ** 2).sum() / expected.sum() / (n / expected.size) == pytest.approx(
            1, abs=5 * np.sqrt(3 / n)
        )
    correlation = ((a - expected) * (b - expected)).mean() / expected.mean()
    assert abs(correlation) < 4 / np.sqrt(n)


async def test_coarser_step_takes_every_second_position_and_leaves_the_others_untouched(
    serve: Callable[..., ReplayMicroscope], counts: NDArray[np.uint8]
) -> None:
    mean = counts.sum() / (24 * 16)
    microscope = serve()
    coarse = await acquire(microscope, plan("a", 1, mean, multiple=2))
    assert (coarse == counts[::2, ::2]).all()
    others = Rectangle(y=STEP, x=0, height=STEP, width=16 * STEP)
    assert (await acquire(microscope, plan("b", 1, mean, field=others)) == counts[1:2]).all()
    with pytest.raises(ExhaustedError):
        await microscope.check(plan("c", 0.5, mean))


async def test_field_is_served_from_the_recorded_positions_inside_it(
    serve: Callable[..., ReplayMicroscope], counts: NDArray[np.uint8]
) -> None:
    mean = counts.sum() / (24 * 16)
    field = Rectangle(y=4.3 * STEP, x=15 * STEP - 240, height=200, width=240)
    assert (await acquire(serve(), plan("a", 1, mean, field=field)) == counts[4:14, 3:15]).all()


async def test_explicit_positions_are_the_recorded_ones(
    serve: Callable[..., ReplayMicroscope], counts: NDArray[np.uint8]
) -> None:
    mean = counts.sum() / (24 * 16)
    microscope = serve()
    wanted = plan("a", 1, mean).model_copy(update={"positions": ((5.5 * STEP, 0.5 * STEP), (0.5 * STEP, 7.5 * STEP))})
    assert (await acquire(microscope, wanted) == counts[[5, 0], [0, 7]][None]).all()
    between = wanted.model_copy(update={"id": "b", "positions": ((5.0 * STEP, 0.5 * STEP),)})
    with pytest.raises(OutOfLimitsError, match="recorded ones"):
        await microscope.check(between)


async def test_same_id_gets_the_same_counts_even_from_another_process_and_uses_up_nothing(
    serve: Callable[..., ReplayMicroscope], counts: NDArray[np.uint8]
) -> None:
    mean = counts.sum() / (24 * 16)
    first = serve()
    a = await acquire(first, plan("a", 0.4, mean))
    # No close: the process may have been killed.
    second = serve()
    assert (await second.describe()).electrons_per_pattern[1] == pytest.approx(0.6 * mean)
    rest = await acquire(second, plan("b", 0.6, mean))
    assert (await acquire(second, plan("a", 0.4, mean)) == a).all()
    assert (a.astype(int) + rest == counts).all()
    with pytest.raises(ConflictError, match="another plan"):
        await acquire(second, plan("a", 0.3, mean))


async def test_counts_of_an_acquisition_that_stopped_early_are_used_up(
    serve: Callable[..., ReplayMicroscope], counts: NDArray[np.uint8]
) -> None:
    mean = counts.sum() / (24 * 16)
    microscope = serve()
    frames = microscope.acquire(plan("a", 0.7, mean))
    await anext(frames)
    assert not (await microscope.health()).blanked
    microscope.blank()
    with pytest.raises(BlankedError):
        await anext(frames)
    assert (await microscope.health()).blanked
    with pytest.raises(ExhaustedError):
        await serve().check(plan("b", 0.5, mean))


async def test_reuse_draws_from_everything_again_and_says_so(
    serve: Callable[..., ReplayMicroscope], counts: NDArray[np.uint8]
) -> None:
    mean = counts.sum() / (24 * 16)
    microscope = serve(reuse=True)
    assert any("not independent" in note for note in (await microscope.describe()).notes)
    a = await acquire(microscope, plan("a", 0.8, mean))
    b = await acquire(microscope, plan("b", 0.8, mean))
    assert not (a == b).all()
    assert (np.maximum(a, b) <= counts).all()
    assert (await microscope.describe()).electrons_per_pattern[1] == pytest.approx(mean)


async def test_state_of_another_seed_is_refused(serve: Callable[..., ReplayMicroscope]) -> None:
    serve(seed=1)
    with pytest.raises(ConflictError, match="another state directory"):
        serve(seed=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": 30.0}, "step of 30 Å is not possible here; legal: 20, 40 Å"),
        ({"defocus": 0.0}, "defocus of 0 Å is not possible here; legal: 10000 Å"),
        ({"field": Rectangle(y=20, x=0, height=480, width=320)}, "leaves"),
        ({"dose": 1e-4}, "dose"),
        ({"dose": 1e4}, "dose"),
    ],
)
async def test_plans_outside_the_recording_are_refused_with_what_is_legal(
    serve: Callable[..., ReplayMicroscope], changes: dict[str, Any], message: str
) -> None:
    wanted = plan("a", 0.5, 400).model_copy(update=changes)
    microscope = serve()
    with pytest.raises(OutOfLimitsError, match=message):
        await microscope.check(wanted)
    with pytest.raises(OutOfLimitsError, match=message):
        await anext(microscope.acquire(wanted))


def test_files_that_are_no_recording_are_refused_in_one_sentence(tmp_path: Path, counts: NDArray[np.uint8]) -> None:
    whole = tmp_path / "whole.h5"
    write(whole, counts)
    (tmp_path / "truncated.h5").write_bytes(whole.read_bytes()[:-5000])
    (tmp_path / "text.h5").write_text("not HDF5")
    write(tmp_path / "flat.h5", counts[0])
    write(tmp_path / "fractional.h5", counts * 0.5)
    write(tmp_path / "silent.h5", counts * 0)
    write(tmp_path / "dumb.h5", counts, accelerating_voltage_V=None, scan_step_A=None)
    for name, message in {
        "missing.h5": "there is no such file",
        "truncated.h5": "is truncated",
        "text.h5": "is not an HDF5 file",
        "flat.h5": "16 patterns in a row, not their scan; give --scan-shape 4,4",
        "fractional.h5": "in a pixel, and the score is made of whole counts; give --counts-per-electron",
        "silent.h5": "holds no counts",
        "dumb.h5": "does not say voltage, step; give --voltage, --step",
    }.items():
        with pytest.raises(BadInputError, match=message) as caught:
            ReplayMicroscope(tmp_path / name, tmp_path / "state")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "state").exists()
    ReplayMicroscope(tmp_path / "dumb.h5", tmp_path / "state", RecordingOptions(numbers={"voltage": 2e5, "step": 10}))


def test_replay_takes_every_option_about_a_file_that_reconstruct_takes() -> None:
    from agent.cli.options import FileOptions, GeometryOptions

    offered = {f"--{each.name.replace('_', '-')}" for group in (FileOptions, GeometryOptions) for each in fields(group)}
    parser = argparse.ArgumentParser()
    add_recording_options(parser)
    taken = {flag for action in parser._actions for flag in action.option_strings} - {"-h", "--help"}
    assert taken == offered - {"--centre"}, "the zero beam's place is for agents to know, none is advertised"


def test_options_of_the_command_line_reach_the_file(tmp_path: Path, counts: NDArray[np.uint8]) -> None:
    (tmp_path / "scan.bin").write_bytes(b"h" + b"".join(b"ab" + p.tobytes() + b"c" for p in counts.reshape(-1, 12, 10)))
    given = "--voltage 300 --semiangle 1 --angular-pixel 0.1 --step 20 --defocus 1e4 --scan-shape 24,16"
    raw = "--detector-shape 12x10 --dtype uint8 --offset 1 --frame-header 2 --frame-gap 1"
    arguments = [
        "replay",
        str(tmp_path / "scan.bin"),
        *given.split(),
        *raw.split(),
        "--state-dir",
        str(tmp_path / "state"),
    ]
    parsed = build_parser().parse_args(arguments)
    microscope = parsed.make(parsed)
    assert microscope.multiples == range(1, 3)
    microscope.close()


def test_a_file_that_cannot_be_replayed_ends_with_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scan.dm4").write_bytes(b"DM4")
    assert main(["replay", str(tmp_path / "scan.dm4"), "--state-dir", str(tmp_path / "state")]) == 2
    assert main(["replay", str(tmp_path / "scan.dm4"), "--scan-shape", "many"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "convert it, e.g. with RosettaSciIO" in first
    assert "--scan-shape many is not possible; legal: two positive whole numbers" in second


@pytest.mark.recording
async def test_experimental_recording_is_understood_without_options(tmp_path: Path) -> None:
    path = Path(__file__).parents[3] / "../shared/data/rotavirus_cryo_4dstem.h5"
    if not path.exists():
        pytest.skip(f"the experimental recording is not at {path.resolve()}")
    description = await ReplayMicroscope(path, tmp_path).describe()
    assert (description.voltage, description.semiangle) == (300e3, 1.03)
    assert description.detector.counts_per_electron is None
    assert description.defocus.values == (135e3,)
    assert description.step.bounds == (31.25, 8 * 31.25)
    assert description.electrons_per_pattern[1] == pytest.approx(95e3, rel=0.01)


async def test_two_passes_take_the_patterns_of_one_as_two_checkerboards(
    serve: Callable[..., ReplayMicroscope], counts: NDArray[np.uint8]
) -> None:
    mean = counts.sum() / (24 * 16)
    wanted = plan("a", 1, mean, multiple=2).model_copy(update={"passes": 2, "interlacing": "checkerboard"})
    frames = np.stack([frame.pattern async for frame in serve().acquire(wanted)])
    (raster,) = wanted.rasters()
    assert (frames[raster] == counts[::2, ::2]).all()
    rows, columns = np.indices(wanted.shape)
    assert (wanted.pass_index()[raster] == (rows + columns) % 2).all()
    with pytest.raises(OutOfLimitsError, match="two passes with offset interlacing are not possible here"):
        await serve("other").check(wanted.model_copy(update={"interlacing": "offset"}))
