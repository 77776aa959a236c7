"""What many tests begin with: an instrument's description, a plan, the numbers and limits that they need to be legal."""

from __future__ import annotations

from typing import Any

from instrument.models import AcquisitionPlan, Description, Detector, Parameter, PlanCheck, Rectangle


def between(low: float, high: float, unit: str = "Å") -> Parameter:
    """A continuous setting."""
    return Parameter(kind="continuous", unit=unit, minimum=low, maximum=high)


def one_of(*values: float, unit: str = "Å") -> Parameter:
    """A setting that is fixed to one value, or takes one of several."""
    return Parameter(kind="fixed" if len(values) == 1 else "discrete", unit=unit, values=values)


def square(size: float, y: float = 0.0, x: float = 0.0) -> Rectangle:
    """A square of `size` Å with a corner at (y, x)."""
    return Rectangle(y=y, x=x, height=size, width=size)


def detector(pixels: int = 128, angular_pixel: float = 0.82, **changes: Any) -> Detector:
    """One of 16 bit that counts single electrons."""
    values: dict[str, Any] = {
        "shape": (pixels, pixels),
        "angular_pixel": angular_pixel,
        "dtype": "uint16",
        "saturation": 65535,
    }
    return Detector(**(values | changes))


def description(**changes: Any) -> Description:
    """A column of 80 kV whose settings are all continuous."""
    values: dict[str, Any] = {
        "name": "test column",
        "voltage": 80e3,
        "semiangle": 21.4,
        "beam_current": 10.0,
        "detector": detector(),
        "step": between(0.2, 5.0),
        "defocus": between(-1000.0, 1000.0),
        "dose": between(50.0, 1e6, "e/Å²"),
        "electrons_per_pattern": (10.0, 2e5),
        "area": square(400.0),
    }
    return Description(**(values | changes))


def plan(id: str = "a1", size: float = 10.0, y: float = 20.0, x: float = 30.0, **changes: Any) -> AcquisitionPlan:
    """A square of `size` Å in steps of 1 Å, unless told otherwise."""
    values: dict[str, Any] = {
        "id": id,
        "campaign": "c",
        "region": "r",
        "field": square(size, y, x),
        "step": 1.0,
        "defocus": 100.0,
        "dose": 100.0,
    }
    return AcquisitionPlan(**(values | changes))


def check(plan: AcquisitionPlan, overhead: float = 0.0, margin: float = 0.0, **changes: Any) -> PlanCheck:
    """What the plan costs, with `overhead` electrons and `margin` Å of light beside it."""
    values: dict[str, Any] = {
        "n_positions": plan.n_positions,
        "shape": plan.shape,
        "dwell_time": 1e-3,
        "electrons": plan.electrons + overhead,
        "duration": 0.0,
        "bytes": 1,
        "illuminated": plan.field.grown(margin),
    }
    return PlanCheck(**(values | changes))
