"""Optics measured by likelihood: the defocus, aberrations and rotation that explain the counts best.

A gradient on the probe's phase creeps, because the object adapts to a wrong defocus and hides most of it. The deviance
after a short reconstruction from an empty object does not: at 1e3 e/Å² it separates defoci 10 Å apart by hundreds of
standard deviations. So each parameter is found by a line search over short reconstructions of a part of the scan, with
the same order of mini-batches every time, which makes the deviance a smooth function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction import probe
from agent.reconstruction.engine import Reconstructor
from agent.reconstruction.types import DiffractionData, ReconstructionSettings
from instrument import optics


@dataclass(frozen=True)
class Tuned:
    """The data with the optics found, and what is known of them.

    Attributes:
        data: as given, with defocus, aberrations or detector_to_scan replaced.
        uncertainty: parameter -> standard deviation in its unit, from the curvature of the deviance.
        deviance: per detector pixel at the optimum.
        evaluations: short reconstructions made.
    """

    data: DiffractionData
    uncertainty: Mapping[str, float]
    deviance: float
    evaluations: int


def with_parameter(data: DiffractionData, name: str, value: float) -> DiffractionData:
    """`data` with one parameter replaced: `defocus` (Å), `rotation` (rad, added to detector_to_scan), or C12a, C12b, … (Å)."""
    if name == "defocus":
        return replace(data, defocus=value)
    if name == "rotation":
        matrix = np.eye(2) if data.detector_to_scan is None else data.detector_to_scan
        return replace(data, detector_to_scan=optics.detector_to_scan(value) @ matrix)
    return replace(
        data, aberrations=probe.polar({**probe.cartesian(data.aberrations), **_pair(data, name), name: value})
    )


def _pair(data: DiffractionData, name: str) -> dict[str, float]:
    known = probe.cartesian(data.aberrations)
    return {n: known.get(n, 0.0) for n in (f"{name[:3]}a", f"{name[:3]}b")} if len(name) == 4 else {}


def _current(data: DiffractionData, name: str) -> float:
    if name == "defocus":
        return data.defocus
    return 0.0 if name == "rotation" else probe.cartesian(data.aberrations).get(name, 0.0)


def central_part(data: DiffractionData, n_positions: int) -> NDArray[np.int64]:
    """Indices of the `n_positions` positions nearest the middle of the scan (Chebyshev distance): a dense square."""
    centre = (data.positions.min(axis=0) + data.positions.max(axis=0)) / 2
    distance = np.abs(data.positions - centre).max(axis=1)
    return np.sort(np.argsort(distance, kind="stable")[:n_positions])


def short_deviance(data: DiffractionData, settings: ReconstructionSettings) -> float:
    """Deviance per detector pixel after a reconstruction from an empty object."""
    worker = Reconstructor(data, settings)
    worker.run()
    return worker.deviance[-1]


def deviance_of_part(data: DiffractionData, n_positions: int = 324) -> float:
    """Deviance per detector pixel of a short reconstruction of the middle of the scan, with a background."""
    part = central_part(data, n_positions)
    small = replace(data, patterns=data.patterns[part], positions=data.positions[part])
    return short_deviance(small, ReconstructionSettings(max_passes=3, refine_probe=False))


def tune(
    data: DiffractionData,
    widths: Mapping[str, float],
    *,
    settings: ReconstructionSettings | None = None,
    n_positions: int = 324,
    rounds: int = 2,
    on_progress: Callable[[float], None] | None = None,
) -> Tuned:
    """Find the parameters named in `widths` by line searches, one after another.

    Args:
        data: start of the search.
        widths: parameter -> first step of its search, in its unit. The search follows the deviance downhill up to six
            such steps, then refines to a fifth of the width by parabolas.
        settings: of the short reconstructions; the default makes two passes without probe refinement.
        n_positions: positions used, the dense square in the middle of the scan.
        rounds: how often the whole list is gone through (the second time with a third of the widths).
    """
    chosen = settings or ReconstructionSettings(max_passes=2, refine_probe=False, background=False)
    part = central_part(data, n_positions)
    small = replace(data, patterns=data.patterns[part], positions=data.positions[part])
    n_pixels = small.patterns.size
    uncertainty: dict[str, float] = {}
    evaluations = 0
    best = short_deviance(small, chosen)
    total = rounds * len(widths)
    for turn in range(rounds):
        for number, (name, width) in enumerate(widths.items()):
            base, origin = small, _current(small, name)

            def deviance(
                offset: float, name: str = name, base: DiffractionData = base, origin: float = origin
            ) -> float:
                nonlocal evaluations
                evaluations += 1
                return short_deviance(with_parameter(base, name, origin + offset), chosen)

            offset, best, curvature = _line_search(deviance, best, width / 3**turn)
            small = with_parameter(base, name, origin + offset)
            if curvature > 0:
                uncertainty[name] = float(1 / np.sqrt(0.5 * curvature * n_pixels))
            if on_progress is not None:
                on_progress((turn * len(widths) + number + 1) / total)
    found = replace(data, defocus=small.defocus, aberrations=small.aberrations, detector_to_scan=small.detector_to_scan)
    return Tuned(found, uncertainty, best, evaluations)


def _line_search(
    function: Callable[[float], float], at_zero: float, width: float, reach: int = 6
) -> tuple[float, float, float]:
    """Minimum of a smooth function near 0: (offset, value, second derivative). Walks downhill, then two parabolas."""
    points = {0.0: at_zero, width: function(width), -width: function(-width)}
    for _ in range(reach):
        lowest = min(points, key=points.__getitem__)
        if min(points) < lowest < max(points):
            break
        edge = lowest + (width if lowest == max(points) else -width)
        points[edge] = function(edge)
    curvature = 0.0
    for _ in range(2):
        lowest = min(points, key=points.__getitem__)
        left = max((p for p in points if p < lowest), default=None)
        right = min((p for p in points if p > lowest), default=None)
        if left is None or right is None:
            break
        a, b, _ = np.polyfit(np.array([left, lowest, right]) - lowest, [points[left], points[lowest], points[right]], 2)
        curvature = max(2 * float(a), 0.0)
        vertex = lowest - b / (2 * a) if a > 0 else lowest
        vertex = float(np.clip(vertex, left, right))
        if min(abs(vertex - p) for p in points) < 0.05 * width:
            break
        points[vertex] = function(vertex)
    lowest = min(points, key=points.__getitem__)
    return lowest, points[lowest], curvature
