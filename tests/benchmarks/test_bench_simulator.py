# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulator seconds per acquisition: 40 × 40 positions, and what each further switch costs."""

from __future__ import annotations

import time
from typing import Any

import examples
import pytest

from instrument import AcquisitionPlan
from sim_instrument import Column, SpecimenOptions, build_specimen, simulate
from sim_instrument.damage import DamageState

SOURCE: dict[str, Any] = {"source_size": 0.5}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], float]] = {
    "no fault": ({}, {}, 500.0),
    "source 0.5 Å": (SOURCE, {}, 500.0),
    "source 1 Å": ({"source_size": 1.0}, {}, 500.0),
    "source, energy spread 0.3 eV": (SOURCE | {"energy_spread": 0.3}, {}, 500.0),
    "source, residual aberrations": (SOURCE | {"aberrations": Column().aberrations}, {}, 500.0),
    "source, drift and jitter": (SOURCE | {"drift": 0.3, "jitter": 0.05}, {}, 500.0),
    "source, rotation 45°": (SOURCE | {"rotation": 0.785}, {}, 500.0),
    "source, point spread, bad pixels": (SOURCE | {"point_spread": 0.4, "dead_pixels": 4, "hot_pixels": 3}, {}, 500.0),
    "source, pixel centres only": (SOURCE | {"pixel_area": False}, {}, 500.0),
    "source, 4 phonon configurations": (SOURCE, {"phonon_configurations": 4}, 500.0),
    "source, knock-on 1.8 barn": (SOURCE | {"knock_on": 1.8}, {}, 500.0),
    "source, defocus 800 Å": (SOURCE, {}, 800.0),
}


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Imports, tables and FFT plans are not what is measured."""
    for defocus in (500.0, 800.0):
        simulate(plan(2, defocus), build_specimen(), Column.ideal())


@pytest.mark.benchmark(group="simulator, 40 × 40 positions")
@pytest.mark.parametrize("case", CASES)
def test_simulated_acquisition(benchmark: Any, case: str) -> None:
    column_changes, specimen_changes, defocus = CASES[case]
    edge = 40
    specimen, column = build_specimen(SpecimenOptions(**specimen_changes)), Column.ideal(**column_changes)
    began = time.process_time()
    patterns = benchmark.pedantic(
        lambda: simulate(plan(edge, defocus), specimen, column, damage=DamageState(specimen, column)), rounds=1
    )
    cpu = time.process_time() - began
    benchmark.extra_info["processor seconds"] = cpu
    print(f"{case}: {benchmark.stats.stats.mean:.2f} s, {cpu:.2f} s of processor time, {edge} × {edge} positions")
    assert patterns.shape == (edge, edge, 128, 128)


def plan(edge: int, defocus: float) -> AcquisitionPlan:
    return examples.plan("a1", 0.85 * edge, 180, 180, step=0.85, defocus=defocus, dose=2000)
