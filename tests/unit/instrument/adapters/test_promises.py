"""Adapters in front of their fakes keep all promises, with the beam on, as `python -m instrument check` tries them.

A column, a camera over TCP and one over ZeroMQ; `adapted` says how to try the others.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from adapted import DOSE, merlin, simplon, temscript

from instrument.adapters.composed import ComposedMicroscope
from instrument.conformance import trial, try_promises


@pytest.mark.parametrize("make", [temscript, merlin, simplon], ids=lambda make: make.__name__)
async def test_an_adapter_keeps_the_promises(make: Callable[[], ComposedMicroscope], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trial, "POSITIONS", 4)  # along a side, instead of 10
    microscope = make()
    try:
        found = await try_promises(microscope, dose=DOSE, beam=True)
    finally:
        await microscope.close()
    assert not [(each.promise, each.failure) for each in found if each.failure]
    assert sum(not each.skipped for each in found) >= 40
