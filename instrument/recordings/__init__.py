"""Recorded 4D data sets: `read_recording` reads a file of any known format; one module a format. See README.md."""

from instrument.recordings.counts import Counts, as_type, counts_of, whole_counts
from instrument.recordings.formats import FORMATS, read_recording, register
from instrument.recordings.recording import (
    NUMBERS,
    Number,
    Recording,
    RecordingFormat,
    RecordingOptions,
    check_given,
    check_range,
    parse_shape,
)

__all__ = [
    "FORMATS",
    "NUMBERS",
    "Counts",
    "Number",
    "Recording",
    "RecordingFormat",
    "RecordingOptions",
    "as_type",
    "check_given",
    "check_range",
    "counts_of",
    "parse_shape",
    "read_recording",
    "register",
    "whole_counts",
]
