"""de-twin as a `Microscope`, for `python -m instrument serve adapter_deapi:make`; HOST says where column and camera are."""

from __future__ import annotations

import json
import os

from instrument.adapters.composed import ComposedMicroscope
from instrument.adapters.deapi import DirectElectron
from instrument.adapters.temchannel import TemChannelColumn
from instrument.models import Parameter

FIELD = 160.0
"""Å that the coils scan at ±1 V, at a magnification of 8 million."""
CURRENT = 5.96
"""pA."""


def make() -> ComposedMicroscope:
    host = json.loads(os.environ["HOST"])
    defocus = Parameter(kind="continuous", unit="Å", minimum=-500, maximum=500)
    column = TemChannelColumn(host["soap"], semiangle=20.0, beam_current=CURRENT, defocus=defocus).__enter__()
    server = DirectElectron(
        port=host["port"],
        field=FIELD,
        angular_pixel=0.6,
        frame_rate=400.0,
        adu_per_electron=18.9,
        threshold=2.5,
        region=512,
        binning=4,
        steps=(0.3, 2.0),
        latency=300.0,  # the twin computes its frames, and on a busy machine the first ones take minutes
    ).__enter__()
    return ComposedMicroscope("de-twin", column, server, server)
