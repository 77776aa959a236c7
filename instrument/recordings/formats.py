"""The formats that are known, and the one call that reads a file of any of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from instrument import optics
from instrument.errors import BadInputError
from instrument.recordings.dectris import DectrisFormat
from instrument.recordings.hdf5 import Hdf5Format
from instrument.recordings.mib import MibFormat
from instrument.recordings.nion import NdataFormat
from instrument.recordings.npy import NpyFormat
from instrument.recordings.raw import RawFormat
from instrument.recordings.recording import (
    Number,
    Recording,
    RecordingFormat,
    RecordingOptions,
    check_given,
    check_range,
    option_of,
)

FORMATS: list[RecordingFormat] = [NpyFormat(), MibFormat(), RawFormat(), NdataFormat(), DectrisFormat(), Hdf5Format()]
"""In the order in which they are asked: HDF5 last, since others are made of it."""
FINEST = 15.0
"""Steps in the diameter of the sharpest probe from which its unit is doubted; well-sampled scans have ten at most."""
LOW_VOLTAGE = 15e3
"""eV; electrons of less are rare where patterns are recorded, and X-rays are not."""
_UNSTATED = RecordingOptions()


def register(recording_format: RecordingFormat) -> None:
    """Add a format. It is asked before those that are known already.

    Args:
        recording_format: see `RecordingFormat`.
    """
    FORMATS.insert(0, recording_format)


def read_recording(path: Path, options: RecordingOptions = _UNSTATED) -> Recording:
    """Read a recorded 4D data set.

    Nothing is computed of the patterns: `instrument.recordings.counts` says whether they are counts.

    Args:
        path: a file of any format in FORMATS.
        options: what the file does not say, or says wrongly.

    Returns:
        The recording; `options.numbers` are among its numbers and have overruled the file's.

    Raises:
        BadInputError: no such file, another format, damaged, not four-dimensional, or a number that is not possible.
    """
    check_given(options.numbers)
    options = _with_equivalent(options)
    if path.is_dir():
        msg = f"{path}: is a folder; name a file in it"
        raise BadInputError(msg)
    if not path.is_file():
        msg = f"{path}: there is no such file"
        raise BadInputError(msg)
    if path.suffix.lower() == ".part":
        msg = f"{path}: is still being written, or what wrote it was stopped; wait for {path.stem}"
        raise BadInputError(msg)
    for recording_format in FORMATS:
        if recording_format.recognises(path):
            return _with_options(recording_format.read(path, options), options)
    msg = (
        f"{path}: is of a format that is not read; read are {'; '.join(known.name for known in reversed(FORMATS))}; "
        f"convert it, e.g. with RosettaSciIO, to .npy or .hspy"
    )
    raise BadInputError(msg)


def _with_equivalent(options: RecordingOptions) -> RecordingOptions:
    """The options with the voltage of electrons that have the wavelength given. Raises BadInputError where both are given."""
    if "wavelength" not in options.numbers:
        return options
    if "voltage" in options.numbers:
        msg = "--voltage is of electrons and --wavelength of X-rays or light; give one of them"
        raise BadInputError(msg)
    voltage = optics.EquivalentVoltage(options.numbers["wavelength"])
    return replace(options, numbers={**options.numbers, "voltage": voltage})


def _with_options(recording: Recording, options: RecordingOptions) -> Recording:
    path, patterns = recording.path, recording.patterns
    if patterns.ndim != 4 or patterns.dtype.kind not in "uif":
        msg = f"{path}: holds {patterns.ndim}-dimensional {patterns.dtype}, not four-dimensional counts"
        raise BadInputError(msg)
    given = {name: Number(value, option_of(name)) for name, value in options.numbers.items()}
    numbers = {**recording.numbers, **given}
    check_range(path, {name: number.value for name, number in numbers.items()})
    return replace(recording, numbers=numbers, notes=(*recording.notes, *_low_voltage(numbers), *_odd_step(numbers)))


def _low_voltage(numbers: Mapping[str, Number]) -> tuple[str, ...]:
    """Whether the energy may be that of photons; a sentence, or nothing."""
    if "wavelength" in numbers or "voltage" not in numbers or not 0 < numbers["voltage"].value < LOW_VOLTAGE:
        return ()
    kilovolts = numbers["voltage"].value / 1e3
    return (f"{kilovolts:g} kV are taken for the energy of electrons; X-rays and light are stated by --wavelength",)


def _odd_step(numbers: Mapping[str, Number]) -> tuple[str, ...]:
    """Whether a step is so much finer than the sharpest probe that it may be in nm; a sentence, or nothing."""
    step, voltage, semiangle = (
        numbers[name].value if name in numbers else 0.0 for name in ("step", "voltage", "semiangle")
    )
    if min(step, voltage, semiangle) <= 0:
        return ()
    sharpest = optics.probe_diameter(semiangle, 0.0, voltage)
    if step * FINEST > sharpest:
        return ()
    return (
        f"the sharpest probe of {semiangle:g} mrad is {sharpest:.3g} Å wide, {sharpest / step:.0f} steps of {step:g} Å; is the "
        f"step in Å (1 nm is 10)?",
    )
