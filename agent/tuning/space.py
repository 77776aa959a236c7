"""What is searched: settings of a reconstruction as numbers, integers, choices and switches, and as coordinates of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction import DiffractionData, ReconstructionSettings
from instrument import optics
from instrument.errors import BadInputError

Value = bool | int | float | str | None
Values = Mapping[str, Value]
"""Name of a dimension -> its value."""
Kind = Literal["number", "integer", "choice", "switch"]

MEASURED = ("defocus", "rotation")
"""What calibration measures; searched only where that is asked for."""
AS_GIVEN = "as given"
"""The choice in which positions stay where they are."""
NARROWEST, WIDEST = 15.0, 0.05
"""Å, and part of the defocus, that the search of a measured defocus goes to each side; at least the former."""
FEWEST_PASSES = 7
"""Of a cheap stage: what acts on full passes only has to show."""
TURN = 3.0
"""Degrees that the search of a measured rotation goes to each side."""


@dataclass(frozen=True)
class Dimension:
    """One thing that is searched.

    Attributes:
        name: of the setting, or what a person calls it.
        kind: number: any value from low to high; integer: one of `levels`, which are in order; choice: one of `levels`, which
            are in none; switch: off or on.
        levels: legal values; of a number: (low, high).
        log: whether ratios count, not differences. `rest`: those of what is left to 1.
        unit: for people.
    """

    name: str
    kind: Kind
    levels: tuple[Any, ...]
    log: Literal["no", "value", "rest"] = "no"
    unit: str = ""

    @property
    def places(self) -> tuple[float, ...] | None:
        """Coordinates of the values; None: any from 0 to 1. Those of a choice are its numbers."""
        if self.kind == "number":
            return None
        n = len(self.levels)
        return tuple(float(i) if self.kind == "choice" else i / (n - 1) for i in range(n))

    def value(self, place: float) -> Value:
        """The value at a coordinate."""
        if self.places is not None:
            nearest = int(np.argmin([abs(place - each) for each in self.places]))
            found: Value = self.levels[nearest]
            return found
        low, high = (self._scaled(level) for level in self.levels)
        there = low + min(max(place, 0.0), 1.0) * (high - low)
        number = there if self.log == "no" else math.exp(there)
        number = 1 - number if self.log == "rest" else number
        return float(f"{number:.4g}")

    def place(self, value: Value) -> float:
        """The coordinate of a value. Raises BadInputError for one that is not searched."""
        if self.places is not None:
            if value not in self.levels:
                msg = f"{self.name} of {value!r} is not searched; legal: {', '.join(map(str, self.levels))}"
                raise BadInputError(msg)
            return self.places[self.levels.index(value)]
        assert isinstance(value, int | float)
        low, high = (self._scaled(level) for level in self.levels)
        return min(max((self._scaled(value) - low) / (high - low), 0.0), 1.0)

    def _scaled(self, value: float) -> float:
        if self.log == "no":
            return float(value)
        return math.log(value if self.log == "value" else 1 - value)


@dataclass(frozen=True)
class Space:
    """All dimensions, and the values where the search begins.

    Attributes:
        dimensions: what is searched.
        start: value of each.
    """

    dimensions: tuple[Dimension, ...]
    start: Values

    def values(self, point: NDArray[np.float64]) -> dict[str, Value]:
        """The values at coordinates; those that have no effect beside the others are at their start.

        Args:
            point: (d,) coordinates.
        """
        return self.plain({each.name: each.value(float(x)) for each, x in zip(self.dimensions, point, strict=True)})

    def point(self, values: Values) -> NDArray[np.float64]:
        """(d,) coordinates of values."""
        return np.array([each.place(values[each.name]) for each in self.dimensions])

    def plain(self, values: Values) -> dict[str, Value]:
        """The same reconstruction, with what has no effect at its start, so that it is tried once only."""
        idle = set()
        if values.get("slices", 1) == 1:
            idle.add("slice_spacing")
        if values.get("refine_positions", AS_GIVEN) == AS_GIVEN:
            idle.add("positions_start")
        return {name: self.start[name] if name in idle else value for name, value in values.items()}

    def changed(self, values: Values) -> dict[str, Value]:
        """What is not as at the start."""
        return {name: value for name, value in values.items() if value != self.start[name]}


def space_of(
    data: DiffractionData, settings: ReconstructionSettings, wanted: Sequence[str] | None, *, own_quantities: bool
) -> Space:
    """What can be searched for these data, around given settings.

    Args:
        data: calibrated.
        settings: where the search begins.
        wanted: names of dimensions; None: all but what calibration measures.
        own_quantities: whether counts can judge what every pattern has of its own.

    Raises:
        BadInputError: a name that is none, or a setting that is not searched with these data.
    """
    known = {each.name: each for each in _all(data, settings, own_quantities=own_quantities)}
    names = [name for name in known if name not in MEASURED] if wanted is None else list(dict.fromkeys(wanted))
    for name in names:
        if name not in known:
            msg = f"{name} cannot be searched with these data; legal: {', '.join(known)}"
            raise BadInputError(msg)
    start, dimensions = {}, []
    for name in names:
        begin = _start(name, data, settings)
        dimensions.append(_with(known[name], begin))
        start[name] = begin
    return Space(tuple(dimensions), start)


def _all(data: DiffractionData, settings: ReconstructionSettings, *, own_quantities: bool) -> list[Dimension]:
    deepest = max(2 * data.depth_of_focus, 40.0)
    base = settings.max_passes
    found = [
        Dimension("probe_modes", "integer", (1, 2, 3, 4)),
        Dimension("slices", "integer", (1, 2, 3, 4, 6)),
        Dimension("slice_spacing", "number", (3.0, deepest), "value", "Å"),
        Dimension("batches", "integer", (1, 2, 4, 6, 9, 14, 20)),
        Dimension("passes", "integer", tuple(sorted({max(4, round(base * part)) for part in (0.6, 1, 1.5, 2.2, 3.2)}))),
        Dimension("step_size", "number", (0.3, 1.95), "value"),
        Dimension("momentum", "number", (0.0, 1.0)),
        Dimension("loss", "choice", ("poisson", "amplitude", "gaussian")),
        Dimension("object_type", "choice", ("automatic", "phase", "complex")),
        Dimension("regularise", "switch", (False, True)),
        Dimension("positivity", "switch", (False, True)),
        Dimension("background", "switch", (False, True)),
        Dimension("padding", "integer", (1.0, 1.25, 1.5)),
    ]
    if data.source_size or data.focal_spread:
        found.append(Dimension("coherence", "number", (0.8, 0.998), "rest"))
    if own_quantities:
        found += [
            Dimension("refine_positions", "choice", (AS_GIVEN, "linear", *(["lines"] * _is_raster(data)), "free")),
            Dimension("positions_start", "number", (0.0, 0.7), unit="of the passes"),
            Dimension("variable_modes", "integer", (0, 1, 2, 3)),
            Dimension("refine_intensity", "switch", (False, True)),
        ]
    reach = max(NARROWEST, WIDEST * abs(data.defocus))
    angle = _degrees(data)
    found.append(Dimension("defocus", "number", (data.defocus - reach, data.defocus + reach), unit="Å"))
    found.append(Dimension("rotation", "number", (angle - TURN, angle + TURN), unit="°"))
    return found


def _is_raster(data: DiffractionData) -> bool:
    """Whether the positions are lines of a raster, as a model of drifting lines asks for."""
    return any(len(np.unique(np.round(axis, 3))) ** 2 <= 4 * len(axis) for axis in data.positions.T)


def _degrees(data: DiffractionData) -> float:
    if data.detector_to_scan is None:
        return 0.0
    return math.degrees(optics.rotation_and_hand(np.asarray(data.detector_to_scan))[0])


def _start(name: str, data: DiffractionData, settings: ReconstructionSettings) -> Value:
    """The value of a dimension in settings."""
    n = len(data.patterns)
    spacing: Any = settings.slice_spacing
    special: dict[str, Value] = {
        "slice_spacing": float(np.mean(spacing)),
        "batches": 6 if settings.batch_size is None else max(1, round(n / settings.batch_size)),
        "passes": settings.max_passes,
        "object_type": settings.object_type or "automatic",
        "padding": settings.padding or 1.0,
        "refine_positions": settings.refine_positions or AS_GIVEN,
        "positions_start": min(0.7, settings.positions_start / settings.max_passes),
        "defocus": data.defocus,
        "rotation": _degrees(data),
    }
    value: Value = special[name] if name in special else getattr(settings, name)
    return value


def _with(dimension: Dimension, value: Value) -> Dimension:
    """The dimension with its start among the legal values."""
    levels = dimension.levels
    if dimension.kind == "number":
        assert isinstance(value, int | float)
        return replace(dimension, levels=(min(levels[0], value), max(levels[1], value)))
    if value in levels:
        return dimension
    return replace(
        dimension, levels=tuple(sorted((*levels, value))) if dimension.kind == "integer" else (*levels, value)
    )


def settings_of(
    values: Values, base: ReconstructionSettings, n_patterns: int, part: float = 1.0
) -> ReconstructionSettings:
    """The engine's settings for values.

    Args:
        values: of the dimensions that are searched.
        base: what is not searched.
        n_patterns: reconstructed together.
        part: of the passes that are made.
    """
    given: dict[str, Any] = {name: value for name, value in values.items() if name not in MEASURED}
    whole = int(given.pop("passes", base.max_passes))
    passes = max(min(FEWEST_PASSES, whole), round(part * whole))
    changes: dict[str, Any] = {"max_passes": passes, "refine_optics": (), "stop_early": False}
    if "batches" in given:
        changes["batch_size"] = max(1, math.ceil(n_patterns / int(given.pop("batches"))))
    if "positions_start" in given:
        changes["positions_start"] = max(2, round(float(given.pop("positions_start")) * passes))
    if given.get("object_type") == "automatic":
        given["object_type"] = None
    if given.get("refine_positions") == AS_GIVEN:
        given["refine_positions"] = None
    if given.get("slices", base.slices) != base.slices and "slice_spacing" not in given:
        given["slice_spacing"] = float(np.mean(np.asarray(base.slice_spacing)))
    if "slice_spacing" in given and given.get("slices", base.slices) == 1:
        given.pop("slice_spacing")
    return replace(base, **given, **changes)


def data_of(values: Values, data: DiffractionData, settings: ReconstructionSettings, *, middle: bool) -> dict[str, Any]:
    """What of the data's optics differs.

    Args:
        values: of the dimensions that are searched.
        data: calibrated.
        settings: for the values.
        middle: whether the defocus of `data` is that of the specimen's middle, not of its first slice.
    """
    defocus = values.get("defocus", data.defocus)
    assert isinstance(defocus, int | float)
    changes: dict[str, Any] = {"defocus": float(defocus) + (float(settings.depths[-1]) / 2 if middle else 0.0)}
    angle = values.get("rotation")
    if isinstance(angle, int | float):
        _, mirrored = optics.rotation_and_hand(np.eye(2) if data.detector_to_scan is None else data.detector_to_scan)
        changes["detector_to_scan"] = optics.detector_to_scan(math.radians(angle), mirrored)
    return changes
