"""The pictures on the page: from the broker, or drawn from a campaign's files, with scale bar and resolution ring on top."""

from __future__ import annotations

import asyncio
import base64
import logging
import math
from collections import OrderedDict
from dataclasses import dataclass
from html import escape
from pathlib import Path

from agent.dashboard.sources import Source
from agent.dashboard.view import View
from agent.formatting import length
from agent.report.thumbnails import thumbnails
from agent.status.contract import LARGEST_IMAGE
from agent.storage.reconstruction_file import read_reconstruction

logger = logging.getLogger(__name__)
_KEPT = 64
_SIZE = 400


@dataclass(frozen=True)
class Shown:
    """Two pictures as HTML, and the trial that they show."""

    trial: int
    phase: str
    spectrum: str


@dataclass(frozen=True)
class _Facts:
    trial: int
    role: str
    extent: tuple[float, float]
    levels: tuple[float, float]
    k_edge: float
    resolution: float | None
    so_far: str = ""


class Gallery:
    """Draws each trial once, in a thread, and remembers the last ones.

    Args:
        source: knows where a trial's file is.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._drawn: OrderedDict[tuple[str, int, str], Shown | None] = OrderedDict()
        self._lock = asyncio.Lock()

    def trials(self, view: View) -> list[int]:
        """Numbers of the trials that have a picture within reach.

        Args:
            view: of the campaign.
        """
        on_disk = [
            n for n, t in sorted(view.trials.items()) if t.state == "done" and self._source.picture_file(view, n)
        ]
        if on_disk or view.picture is None or {"phase", "spectrum"} - view.images.keys():
            return on_disk
        return [view.picture.trial]

    async def picture(self, view: View, trial: int) -> Shown | None:
        """The pictures of a trial; None where they cannot be had.

        Args:
            view: of the campaign.
            trial: one of `trials`.
        """
        path = self._source.picture_file(view, trial)
        if path is None:
            return _from_broker(view, trial)
        session = view.session
        key = (session.id if session is not None else view.key, trial, str(path))
        async with self._lock:
            if key not in self._drawn:
                try:
                    self._drawn[key] = await asyncio.to_thread(_from_file, view, trial, path)
                except Exception:
                    logger.exception("%s cannot be drawn", path)
                    self._drawn[key] = None
                if len(self._drawn) > _KEPT:
                    self._drawn.popitem(last=False)
            return self._drawn[key]


def _from_broker(view: View, trial: int) -> Shown | None:
    about = view.picture
    if about is None or about.trial != trial or {"phase", "spectrum"} - view.images.keys():
        return None
    extent, levels = (about.height_a, about.width_a), (about.phase_low_rad, about.phase_high_rad)
    facts = _Facts(trial, about.role, extent, levels, about.k_edge_per_a, about.resolution_a)
    return Shown(trial, _phase(view.images["phase"], facts), _spectrum(view.images["spectrum"], facts))


def live_picture(view: View) -> Shown | None:
    """The pictures of a scan that still runs, or is not scored yet; None where there are none.

    Args:
        view: of the campaign.
    """
    about = view.live
    if about is None:
        return None
    extent, levels = (about.height_a, about.width_a), (about.phase_low_rad, about.phase_high_rad)
    so_far = f"{about.frames / max(about.expected, 1):.0%} of the scan"
    facts = _Facts(about.trial, about.role, extent, levels, about.k_edge_per_a, None, so_far)
    phase, transform = (view.images[f"live-{name}"] for name in ("phase", "spectrum"))
    return Shown(about.trial, _phase(phase, facts), _spectrum(transform, facts))


def _from_file(view: View, trial: int, path: Path) -> Shown:
    session, message = view.session, view.trials[trial]
    k_max = session.k_max_per_a if session is not None and session.k_max_per_a else 1.25
    drawn = thumbnails(read_reconstruction(path), k_max, LARGEST_IMAGE)
    facts = _Facts(trial, message.role, drawn.extent, drawn.levels, drawn.k_edge, drawn.resolution)
    return Shown(trial, _phase(drawn.phase, facts), _spectrum(drawn.spectrum, facts))


def _phase(png: bytes, facts: _Facts) -> str:
    height, width = facts.extent
    scale = _SIZE / max(width, 1e-9)
    bar = _round_below(width / 3)
    drawn = _bar(bar * scale, length(bar) if bar < 100 else f"{bar / 10:g} nm", _SIZE * height / max(width, 1e-9))
    low, high = (f"{level:+.2f}".replace("-", "−") for level in facts.levels)
    legend = f'<div class="ramp cividis"><span>{low}</span><i></i><span>{high} rad</span></div>'
    name = f"phase of trial {facts.trial} ({facts.role}), {facts.so_far or f'{height:.3g} × {width:.3g} Å'}"
    return _figure(png, drawn, name, legend, height / max(width, 1e-9))


def _spectrum(png: bytes, facts: _Facts) -> str:
    scale = _SIZE / 2 / facts.k_edge
    drawn = _bar(_round_below(0.6 * facts.k_edge) * scale, f"{_round_below(0.6 * facts.k_edge):g} 1/Å", _SIZE)
    text = "live, not scored yet" if facts.so_far else "no signal above half a bit"
    if facts.resolution is not None:
        text = f"dashed: half-bit resolution, {facts.resolution:.3g} Å"
        radius = scale / facts.resolution
        if radius <= _SIZE / 2:
            drawn += f'<circle cx="{_SIZE / 2}" cy="{_SIZE / 2}" r="{radius:.1f}" class="halfbit"/>'
    legend = f'<div class="ramp inferno"><span>log |F|</span><i></i><span>{text}</span></div>'
    return _figure(png, drawn, f"Fourier transform of trial {facts.trial} ({facts.role})", legend, 1.0)


def _figure(png: bytes, drawn: str, name: str, legend: str, shape: float) -> str:
    href = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return (
        f'<figure><svg class="picture" viewBox="0 0 {_SIZE} {_SIZE * shape:.1f}" role="img" aria-label="{escape(name)}">'
        f'<image href="{href}" width="{_SIZE}" height="{_SIZE * shape:.1f}" preserveAspectRatio="none"/>{drawn}</svg>'
        f"<figcaption>{escape(name)}</figcaption>{legend}</figure>"
    )


def _bar(pixels: float, label: str, height: float) -> str:
    return (
        f'<rect x="10" y="{height - 40:.1f}" width="{max(pixels, 60) + 16:.1f}" height="32" class="shade"/>'
        f'<path d="M18 {height - 15:.1f} h{pixels:.1f}" class="scalebar"/>'
        f'<text x="18" y="{height - 22:.1f}" class="scaletext">{label}</text>'
    )


def _round_below(largest: float) -> float:
    power = 10.0 ** math.floor(math.log10(largest))
    return max(m * power for m in (1.0, 2.0, 5.0) if m * power <= largest * (1 + 1e-9))
