"""What all figures of a report share: style, colours, scale bars, and the way to a PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#6B7280"
"""Okabe and Ito's colours, which people with any colour vision can tell apart."""

STYLE: dict[str, Any] = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#4B5563",
    "axes.grid": True,
    "grid.color": "#E5E7EB",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Decorator of functions that draw: the report's style, whatever the process uses otherwise."""

    @wraps(draw)
    def drawn(*arguments: P.args, **options: P.kwargs) -> R:
        import matplotlib as mpl  # half a second, which a process that draws nothing does without

        with mpl.rc_context(STYLE):
            return draw(*arguments, **options)

    return drawn


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    """A figure of `width` × `height` inches with `columns` axes side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns)


def to_png(figure: Any) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def round_length(largest: float) -> float:
    """The largest 1, 2 or 5 × 10ⁿ that is not above `largest`."""
    power = 10.0 ** math.floor(math.log10(largest))
    return max(m * power for m in (1.0, 2.0, 5.0) if m * power <= largest * (1 + 1e-9))


def length_label(angstrom: float) -> str:
    """Å below 10 nm, nm above, as on a micrograph."""
    return f"{angstrom:g} Å" if angstrom < 100 else f"{angstrom / 10:g} nm"


def add_scale_bar(axes: Any, extent: tuple[float, float], length: float, label: str) -> None:
    """Draw a scale bar at the lower left of an image that has its origin at the top.

    Args:
        axes: of the image.
        extent: (height, width) of the image, in the units of its axes.
        length: of the bar, in the same units.
        label: beside the bar.
    """
    from matplotlib.patches import Rectangle

    height, width = extent
    x, y, thick = 0.05 * width, 0.94 * height, 0.014 * height
    axes.add_patch(
        Rectangle(
            (x - 0.015 * width, y - 0.085 * height),
            max(length, 0.16 * width) + 0.03 * width,
            0.115 * height,
            facecolor="black",
            alpha=0.55,
            linewidth=0,
        )
    )
    axes.add_patch(Rectangle((x, y - thick / 2), length, thick, facecolor="white", linewidth=0))
    axes.text(x, y - 0.02 * height, label, color="white", fontsize=9, ha="left", va="bottom")
