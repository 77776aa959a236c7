"""HDF5 files: whole or absent, opened by strangers on a picture, and fast enough for the detector."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import examples
import h5py
import numpy as np
import pytest

from agent.cleaning_record import Cleaning
from agent.config import Metadata
from agent.errors import BadInputError, StoppedError
from agent.reconstruction.solver.result import Reconstruction
from agent.records import Optics, Score
from agent.storage.acquisition_file import AcquisitionWriter, read_acquisition, require_space
from agent.storage.reconstruction_file import read_reconstruction, write_reconstruction
from instrument import stream
from instrument.errors import StreamError
from instrument.models import AcquisitionPlan, Description, Outcome

GOLDEN = Path(__file__).parent / "golden"
METADATA = Metadata(sample="MoS2", operator="A. Tester", proposal="P-42", comment="made up")


def description(pixels: int = 16, dtype: str = "uint16") -> Description:
    counting = examples.detector(pixels, 4.0, dtype=dtype, saturation=255, dead_pixels=((0, 1),))
    return examples.description(detector=counting, electrons_per_pattern=(1, 1e6))


def plan(edge: float = 3.0) -> AcquisitionPlan:
    return examples.plan("a-001", edge, 10, 20, campaign="a", region="final-001", dose=500.0)


def patterns(n: int, pixels: int = 16, dtype: Any = np.uint16) -> np.ndarray:
    return np.random.default_rng(1).poisson(3, (n, pixels, pixels)).astype(dtype)


def write(
    path: Path, frames: np.ndarray, leave_out: tuple[int, ...] = (), wanted: AcquisitionPlan | None = None
) -> None:
    dtype = frames.dtype
    with AcquisitionWriter(path, wanted or plan(), description(dtype=dtype.name), METADATA) as writer:
        for index in reversed(range(len(frames))):  # any order
            if index not in leave_out:
                writer.frame(index, stream.compress(frames[index]), frames.shape[1:], dtype)
        writer.finish(Outcome(id="a-001", state="done", frames=len(frames), electrons=4500))


@pytest.mark.parametrize("pattern", ["serpentine", "spiral"])
def test_images_of_any_scan_pattern_lie_as_the_specimen_does(tmp_path: Path, pattern: str) -> None:
    frames, raster = patterns(16), plan(4.0)
    wanted = raster.model_copy(update={"pattern": pattern})
    write(tmp_path / "raster.h5", frames, wanted=raster)
    write(tmp_path / "other.h5", frames[np.argsort(wanted.rasters()[0].ravel())], wanted=wanted)
    with h5py.File(tmp_path / "raster.h5") as one, h5py.File(tmp_path / "other.h5") as other:
        np.testing.assert_allclose(other["entry/dark_field/image"], one["entry/dark_field/image"])
        assert other["entry/measurement/positions"].attrs["pattern"] == pattern
        assert "diffraction" not in other["entry"]
        assert "diffraction" in one["entry"]
    assert read_acquisition(tmp_path / "other.h5").plan == wanted


FOUND = Cleaning(patterns=9, empty=2, hot_pixels=4, counts_per_electron=1.02)
MASK = np.ones((16, 16), bool)
OPTICS = Optics(
    defocus=98.0,
    rotation=0.21,
    mirrored=True,
    centre=(8.1, 7.9),
    aberrations={"C12": 12.0, "phi12": 0.3},
    sd={"defocus": 1.5, "rotation": 0.002, "row": 0.01, "column": 0.01, "C12": 2.0, "phi12": 0.1},
    handedness=14.0,
)


def reconstruction() -> Reconstruction:
    phase = np.arange(30, dtype=np.float32).reshape(5, 6)
    return Reconstruction(
        object=np.exp(1j * phase)[None].astype(np.complex64),
        phase=phase,
        pixel_size=(0.5, 0.4),
        origin=(10.0, 20.0),
        probe=np.ones((2, 16, 16), np.complex64),
        positions=plan().scan_positions(),
        defocus=98.0,
        aberrations={"C12": 12.0, "phi12": 0.3},
        background=np.ones((16, 16), np.float32),
        deviance=(1.5, 1.1),
        passes=2,
        illuminated=np.ones((5, 6), np.float32),
        device="cpu",
        seconds=1.25,
    )


def write_picture(folder: Path) -> Path:
    write(folder / "acquisition.h5", patterns(9))
    score = Score(value=3.5, sd=0.1, frequency=(0.2, 0.3), frc=(0.9, 0.8), pairs=(40.0, 60.0))
    halves = np.stack([reconstruction().phase] * 2)
    target = folder / "reconstruction.h5"
    acquisition = read_acquisition(folder / "acquisition.h5")
    write_reconstruction(
        target,
        reconstruction(),
        score,
        halves,
        plan().field,
        acquisition,
        ("a note",),
        optics=OPTICS,
        cleaning=FOUND,
        mask=MASK,
    )
    return target


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_frames_come_back_as_they_were(tmp_path: Path, dtype: Any) -> None:
    frames = patterns(9, dtype=dtype)
    write(tmp_path / "a.h5", frames)
    acquisition = read_acquisition(tmp_path / "a.h5")
    assert acquisition.patterns.dtype == dtype
    assert np.array_equal(acquisition.patterns, frames)
    assert acquisition.received.all()
    assert acquisition.plan == plan()
    assert acquisition.metadata == METADATA
    assert acquisition.outcome.electrons == 4500
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


def test_two_passes_come_back_and_each_is_shown_as_the_raster_it_was(tmp_path: Path) -> None:
    offset = plan().model_copy(update={"passes": 2})
    frames = patterns(18)
    write(tmp_path / "offset.h5", frames, wanted=offset)
    acquisition = read_acquisition(tmp_path / "offset.h5")
    assert acquisition.plan == offset
    assert np.array_equal(acquisition.patterns, frames)
    with h5py.File(tmp_path / "offset.h5") as file:
        assert file["entry/measurement/pass"][:].tolist() == [0] * 9 + [1] * 9
        for name, part, y in (("diffraction", frames[:9], 10.25), ("diffraction_2", frames[9:], 10.75)):
            assert np.array_equal(file["entry"][name]["data"][:].reshape(9, 16, 16), part)
            assert file["entry"][name]["scan_y"][0] == y


def test_checkerboards_are_shown_as_one_raster(tmp_path: Path) -> None:
    wanted = plan().model_copy(update={"passes": 2, "interlacing": "checkerboard"})
    frames = patterns(9)
    write(tmp_path / "a.h5", frames, wanted=wanted)
    with h5py.File(tmp_path / "a.h5") as file:
        shown = file["entry/diffraction/data"][:]
        dark = file["entry/dark_field/image"][:]
    assert np.array_equal(shown[0, :, 0, 2], [frames[0, 0, 2], frames[5, 0, 2], frames[1, 0, 2]])
    assert np.array_equal(shown.reshape(9, 16, 16)[[0, 2, 4, 6, 8, 1, 3, 5, 7]], frames)
    assert dark.shape == (3, 3)


def test_missing_frames_are_marked(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", patterns(9), leave_out=(2, 5))
    acquisition = read_acquisition(tmp_path / "a.h5")
    assert np.flatnonzero(~acquisition.received).tolist() == [2, 5]
    assert not acquisition.patterns[[2, 5]].any()
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["entry/measurement/missing"][:].tolist() == [2, 5]


def test_an_unfinished_acquisition_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), AcquisitionWriter(tmp_path / "a.h5", plan(), description(), METADATA):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_series_that_is_not_as_described_is_refused(tmp_path: Path) -> None:
    header = stream.SeriesStart(1, "a-001", "uint8", 16, 16, 9)
    with (
        pytest.raises(StreamError, match="uint8"),
        AcquisitionWriter(tmp_path / "a.h5", plan(), description(), METADATA) as writer,
    ):
        writer.start(header)


def test_the_mean_pattern_and_the_dark_field_are_what_the_frames_say(tmp_path: Path) -> None:
    frames = patterns(9)
    write(tmp_path / "a.h5", frames)
    with h5py.File(tmp_path / "a.h5") as file:
        assert np.allclose(file["entry/mean_pattern/image"][:], frames.mean(axis=0))
        angle = np.hypot(*np.meshgrid(*[(np.arange(16) - 8) * 4.0] * 2, indexing="ij"))
        outside = angle > 1.1 * 21.4
        outside[0, 1] = False
        assert np.allclose(file["entry/dark_field/image"][:].ravel(), frames[:, outside].sum(axis=1))
        assert file["entry/dark_field/y"][:].tolist() == [10.5, 11.5, 12.5]


def test_a_reconstruction_comes_back_as_it_was(tmp_path: Path) -> None:
    stored = read_reconstruction(write_picture(tmp_path))
    expected = reconstruction()
    for name in ("object", "phase", "probe", "positions", "background", "illuminated"):
        assert np.array_equal(getattr(stored.reconstruction, name), getattr(expected, name)), name
    for name in ("pixel_size", "origin", "defocus", "deviance", "passes", "device", "seconds", "aberrations"):
        assert getattr(stored.reconstruction, name) == getattr(expected, name), name
    assert stored.score.value == 3.5
    assert stored.half_phases is not None
    assert stored.half_phases.shape == (2, 5, 6)
    assert stored.scored == plan().field
    assert stored.notes == ("a note",)
    assert stored.optics == OPTICS
    assert stored.cleaning == FOUND
    assert stored.mask is not None
    assert np.array_equal(stored.mask, MASK)


def test_a_file_of_an_earlier_version_has_no_optics(tmp_path: Path) -> None:
    target = write_picture(tmp_path)
    with h5py.File(target, "r+") as file:
        for name in ("optics", "phase_scale", "notes", "deviance", "cleaning", "mask"):
            del file["entry/reconstruction"][name]
    stored = read_reconstruction(target)
    assert stored.optics is None
    assert stored.cleaning is stored.mask is None
    assert stored.reconstruction.phase_scale == 1.0
    assert stored.notes == ()


def test_a_raster_is_four_dimensional_under_the_names_that_others_look_for(tmp_path: Path) -> None:
    frames = patterns(9)
    write(tmp_path / "a.h5", frames, leave_out=(4,))
    (tmp_path / "moved").mkdir()
    moved = (tmp_path / "a.h5").rename(tmp_path / "moved" / "b.h5")
    frames[4] = 0
    with h5py.File(moved) as file:
        for name in ("entry/diffraction/data", "root/datacube/data"):
            assert np.array_equal(file[name][:], frames.reshape(3, 3, 16, 16)), name
        axes = file["entry/diffraction"]
        assert axes["scan_x"][:].tolist() == [20.5, 21.5, 22.5]
        assert axes["detector_y"][8] == 0.0
        assert file["entry/diffraction/data"].is_virtual, "no second copy"
        assert file["entry/diffraction/data"] == file["root/datacube/data"]


def test_positions_that_are_no_raster_are_no_raster(tmp_path: Path) -> None:
    scattered = plan().model_copy(update={"positions": ((11.0, 21.0), (12.5, 22.0))})
    with AcquisitionWriter(tmp_path / "a.h5", scattered, description(dtype="uint16"), METADATA) as writer:
        writer.finish(Outcome(id="a-001", state="aborted", frames=0, electrons=0))
    with h5py.File(tmp_path / "a.h5") as file:
        assert "diffraction" not in file["entry"]


def test_no_data_set_is_empty(tmp_path: Path) -> None:
    """HyperSpy's reader ends at one."""
    write_picture(tmp_path)
    acquisition = read_acquisition(tmp_path / "acquisition.h5")
    bare = replace(reconstruction(), deviance=())
    write_reconstruction(tmp_path / "bare.h5", bare, Score(value=0.0, sd=1.0), None, plan().field, acquisition)
    empty: list[str] = []
    for path in tmp_path.glob("*.h5"):
        with h5py.File(path) as file:
            file.visititems(
                lambda name, item: empty.append(name) if isinstance(item, h5py.Dataset) and 0 in item.shape else None
            )
    assert empty == []
    assert read_reconstruction(tmp_path / "bare.h5").reconstruction.deviance == ()


@pytest.mark.parametrize("name", ["acquisition", "reconstruction"])
def test_viewers_open_on_a_picture(tmp_path: Path, name: str) -> None:
    """The NeXus default-plot chain, followed as H5Web and silx do."""
    write_picture(tmp_path)
    with h5py.File(tmp_path / f"{name}.h5") as file:
        entry = file[file.attrs["default"]]
        data = entry[entry.attrs["default"]]
        assert (entry.attrs["NX_class"], data.attrs["NX_class"]) == ("NXentry", "NXdata")
        image = data[data.attrs["signal"]]
        for axis, length in zip(data.attrs["axes"], image.shape, strict=True):
            assert data[axis].shape == (length,)
            assert data[axis].attrs["units"]
    with h5py.File(tmp_path / "reconstruction.h5") as file:
        assert file["entry/phase_image/x"][:2].tolist() == [20.0, 20.4]


@pytest.mark.parametrize("name", ["acquisition", "reconstruction"])
def test_the_layout_is_the_golden_one(tmp_path: Path, name: str) -> None:
    write_picture(tmp_path)
    golden = GOLDEN / f"{name}-layout.txt"
    assert layout(tmp_path / f"{name}.h5") == golden.read_text(encoding="utf-8").splitlines()


def layout(path: Path) -> list[str]:
    """Path, kind, shape, type and attributes of everything in a file."""
    lines = []

    def visit(name: str, item: Any) -> None:
        attributes = " ".join(f"{key}={_plain(value)}" for key, value in sorted(item.attrs.items()))
        if isinstance(item, h5py.Dataset):
            kind = "text" if h5py.check_string_dtype(item.dtype) else str(item.dtype)
            lines.append(f"/{name} {kind} {item.shape} {attributes}".rstrip())
        else:
            lines.append(f"/{name}/ {attributes}".rstrip())

    with h5py.File(path) as file:
        visit("", file)
        file.visititems(visit)
    return lines


def _plain(value: Any) -> str:
    return str(value.tolist() if isinstance(value, np.ndarray) else value)


def test_every_number_has_its_unit(tmp_path: Path) -> None:
    write_picture(tmp_path)
    naked: list[str] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not h5py.check_string_dtype(item.dtype) and "units" not in item.attrs:
            naked.append(name)

    for name in ("acquisition", "reconstruction"):
        with h5py.File(tmp_path / f"{name}.h5") as file:
            file.visititems(visit)
    assert naked == []


@pytest.mark.parametrize("read", [read_acquisition, read_reconstruction])
def test_what_is_no_such_file_is_bad_input(tmp_path: Path, read: Any) -> None:
    target = write_picture(tmp_path)
    (tmp_path / "text.h5").write_text("not HDF5")
    (tmp_path / "truncated.h5").write_bytes(target.read_bytes()[:-500])
    other = tmp_path / ("reconstruction.h5" if read is read_acquisition else "acquisition.h5")
    for path in (tmp_path / "absent.h5", tmp_path / "text.h5", tmp_path / "truncated.h5", other):
        with pytest.raises(BadInputError, match=path.name):
            read(path)


FULL = """
import resource, signal, sys
from pathlib import Path
sys.path[:0] = [{here!r}, {tests!r}]
from test_store_files import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path({folder!r})
if {what!r} == "reconstruction":
    write(folder / "acquisition.h5", patterns(9))
    resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))
else:
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
try:
    if {what!r} == "reconstruction":
        acquisition = read_acquisition(folder / "acquisition.h5")
        score = Score(value=1, sd=1)
        write_reconstruction(folder / "r.h5", reconstruction(), score, None, plan().field, acquisition)
    else:
        with AcquisitionWriter(folder / "a.h5", plan(40), description(64), METADATA) as writer:
            frames = np.random.default_rng(1).integers(0, 60000, (50, 64, 64), dtype=np.uint16)
            for index in range(50):
                writer.frame(index, stream.compress(frames[index]), (64, 64), frames.dtype)
except StoppedError as error:
    print(error)
"""


@pytest.mark.parametrize("what", ["acquisition", "reconstruction"])
def test_a_full_disk_stops_and_leaves_nothing_half_written(tmp_path: Path, what: str) -> None:
    script = FULL.format(
        here=str(Path(__file__).parent), tests=str(Path(__file__).parents[3]), folder=str(tmp_path), what=what
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "the disk is full" in done.stdout, done.stderr
    assert (done.returncode, done.stderr) == (0, "")
    left = ["acquisition.h5"] if what == "reconstruction" else []
    assert [p.name for p in tmp_path.iterdir()] == left


def test_too_little_space_is_noticed_before_the_exposure(tmp_path: Path) -> None:
    require_space(tmp_path, 1000)
    with pytest.raises(StoppedError, match="nothing was exposed"):
        require_space(tmp_path, 10**18)


def test_the_writer_keeps_up_with_two_thousand_frames_a_second(tmp_path: Path) -> None:
    frames = [stream.compress(frame) for frame in patterns(20, 128)]
    column = description(128)
    with AcquisitionWriter(tmp_path / "a.h5", plan(32.0), column, METADATA) as writer:
        started = time.process_time()
        for index in range(1024):
            writer.frame(index, frames[index % 20], (128, 128), np.dtype(np.uint16))
        rate = 1024 / (time.process_time() - started)
    assert rate > 2000
