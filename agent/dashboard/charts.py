"""The page's charts as SVG. Colours are variables of the style sheet, so that one drawing serves both themes."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from agent.dashboard.view import View
from agent.formatting import length, signed_length, uncertain
from agent.report.thumbnails import colour_map, png_of
from agent.status.contract import ModelMessage, TrialMessage

WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 34
Floats = NDArray[np.float64]
MARKS = {"exploration": "circle", "reference": "square", "final": "diamond", "expert": "triangle"}


@dataclass(frozen=True)
class Axis:
    """From values to places on the page.

    Attributes:
        low, high: values at the ends.
        start, end: places of the ends.
        log: whether the scale is logarithmic.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Where a value is."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        part = (self._scaled(value) - low) / (high - low) if high > low else 0.5
        return self.start + part * (self.end - self.start)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round values between the ends."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            values = [m * 10.0**d for d in decades for m in (1, 1.5, 2, 3, 5, 7)]
            found = [v for v in values if self.low <= v <= self.high]
            return found[:: max(1, math.ceil(len(found) / wanted))]
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        raw = span / wanted
        power = 10.0 ** math.floor(math.log10(raw))
        step = min((m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw), default=raw)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, 1e-12)) if self.log else value


def score_chart(view: View) -> str:
    """Score of each trial with its uncertainty, beside what was predicted; halves of one pass hollow, vetoed ones crossed."""
    trials = [view.trials[n] for n in sorted(view.trials)]
    tops = [(t.score or 0.0) + (t.score_sd or 0.0) for t in trials if t.score is not None]
    tops += [(t.predicted or 0.0) + (t.predicted_sd or 0.0) for t in trials if t.predicted is not None]
    lows = [(t.score or 0.0) - (t.score_sd or 0.0) for t in trials if t.score is not None]
    planned = view.state.n_trials if view.state is not None else 1
    x = Axis(0.4, max(planned, len(trials), 1) + 0.6, LEFT, WIDTH - RIGHT)
    y = Axis(min(0.0, *lows, 0.0), max([*tops, 0.0]) * 1.08 or 1.0, HEIGHT - BOTTOM, TOP)
    ticks = [t for t in range(1, round(x.high)) if t % max(1, math.ceil(x.high / 16)) == 0 or t == 1]
    parts = [_frame(x, y, [float(t) for t in ticks], "trial", "score, bit/Å²")]
    width = min(7.0, (WIDTH - LEFT - RIGHT) / max(x.high, 1) / 3)
    for trial in trials:
        parts.append(_scored(trial, x(trial.trial), y, width))
    return _svg(parts, "Score of each trial")


def model_chart(view: View) -> str:
    """Predicted score over step and defocus, with trials that are done, pending and suggested."""
    model = view.model
    shown = model is not None and model.y_name == "defocus" and len(model.x) > 1 and len(model.y) > 1
    trials = [view.trials[n] for n in sorted(view.trials)]
    x, y = _model_axes(model if shown else None, trials)
    parts = []
    if shown:
        assert model is not None
        href = base64.b64encode(_map_png(model, x, y)).decode()
        parts.append(
            f'<image x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}" '
            f'preserveAspectRatio="none" href="data:image/png;base64,{href}"/>'
        )
    parts.append(_frame(x, y, x.ticks(), "scan step, Å", "defocus, Å", grid=not shown))
    newest = trials[-1].trial if trials else 0
    for trial in trials:
        kind = "suggested" if trial.trial == newest and trial.state == "suggested" else "pending"
        if trial.state in ("done", "failed", "vetoed", "abandoned"):
            kind = "done" if trial.state == "done" and trial.veto is None else "bad"
        parts.append(_point(trial, x(trial.step_a), y(trial.defocus_a), kind))
    return _svg(parts, "Model over scan step and defocus")


def dose_map(view: View) -> str:
    """Where on the specimen electrons went, to scale; darker for more."""
    session = view.session
    exposed = (t for t in view.trials.values() if t.electrons or t.state in ("reserved", "acquiring"))
    fields = [t for t in exposed if t.field_y_a is not None]
    if session is None or not fields:
        return _empty("nothing is exposed yet")
    top = min(t.field_y_a or 0.0 for t in fields)
    left = min(t.field_x_a or 0.0 for t in fields)
    bottom = max((t.field_y_a or 0.0) + (t.field_height_a or 0.0) for t in fields)
    right = max((t.field_x_a or 0.0) + (t.field_width_a or 0.0) for t in fields)
    margin = 0.08 * max(bottom - top, right - left)
    size = max(bottom - top, right - left) + 2 * margin
    scale = (HEIGHT - 8) / size
    most = max(t.dose for t in fields)
    offset = (WIDTH - size * scale) / 2
    parts = [f'<rect x="{offset:.1f}" y="4" width="{size * scale:.1f}" height="{size * scale:.1f}" class="plot"/>']
    for trial in sorted(fields, key=lambda t: t.trial):
        assert trial.field_y_a is not None
        x = offset + ((trial.field_x_a or 0.0) - left + margin) * scale
        y = 4 + (trial.field_y_a - top + margin) * scale
        width, height = (trial.field_width_a or 0.0) * scale, (trial.field_height_a or 0.0) * scale
        opacity = 0.15 + 0.75 * math.log1p(99 * trial.dose / most) / math.log(100)
        about = escape(f"trial {trial.trial} ({trial.role}): {trial.dose:.3g} {trial.dose_unit}")
        parts.append(
            f'<g><title>{about}</title><rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'class="field" style="fill-opacity:{opacity:.2f}"/>'
            f'<text x="{x + width / 2:.1f}" y="{y + height / 2 + 4:.1f}" class="inside">{trial.trial}</text></g>'
        )
    bar, beside = _round_below(size / 3), offset + size * scale + 8
    parts.append(
        f'<path class="axis" d="M{beside:.1f} {HEIGHT - 14} h{bar * scale:.1f}" style="stroke-width:3"/>'
        f'<text x="{beside:.1f}" y="{HEIGHT - 20}" class="tick">{length(bar)}</text>'
    )
    return _svg(parts, "Where electrons went on the specimen")


def _scored(trial: TrialMessage, x: float, y: Axis, width: float) -> str:
    parts = []
    if trial.predicted is not None:
        sd = trial.predicted_sd or 0.0
        high, low = y(trial.predicted + sd), y(max(trial.predicted - sd, y.low))
        parts.append(
            f'<rect x="{x - width:.1f}" y="{high:.1f}" width="{2 * width:.1f}" height="{max(low - high, 1):.1f}" '
            'class="predicted"/>'
        )
    if trial.score is None:
        if trial.state in ("failed", "vetoed", "abandoned"):
            parts.append(_cross(x, y(0.0) - 7, "bad"))
        elif trial.predicted is None:
            parts.append(f'<circle cx="{x:.1f}" cy="{y(0.0) - 7:.1f}" r="3.5" class="mark pending"/>')
        return f"<g><title>{_about(trial)}</title>{''.join(parts)}</g>"
    sd, at = trial.score_sd or 0.0, y(trial.score)
    parts.append(f'<path class="bar" d="M{x:.1f} {y(trial.score + sd):.1f} V{y(max(trial.score - sd, y.low)):.1f}"/>')
    hollow = " hollow" if trial.halves in ("positions", "thinned") else ""
    parts.append(_mark(trial.role, x, at, f"mark{hollow}"))
    if trial.veto is not None:
        parts.append(_cross(x, at, "bad"))
    return f"<g><title>{_about(trial)}</title>{''.join(parts)}</g>"


def _point(trial: TrialMessage, x: float, y: float, kind: str) -> str:
    if kind == "bad":
        drawn = _cross(x, y, "bad")
    elif kind == "suggested":
        at = f'cx="{x:.1f}" cy="{y:.1f}"'
        drawn = f'<circle {at} r="7" class="ring suggested"/><circle {at} r="2" class="dot"/>'
    elif kind == "pending":
        drawn = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5" class="ring pending"/>'
    else:
        drawn = _mark(trial.role, x, y, "mark outlined")
    return f"<g><title>{_about(trial)}</title>{drawn}</g>"


def _about(trial: TrialMessage) -> str:
    settings = f"{length(trial.step_a)}, {signed_length(trial.defocus_a)}, {trial.dose:.3g} {trial.dose_unit}"
    text = f"trial {trial.trial} ({trial.role}), {trial.state}: {settings}"
    if trial.score is not None:
        text += f" → {uncertain(trial.score, trial.score_sd)} bit/Å²"
    if trial.predicted is not None:
        text += f"; predicted {uncertain(trial.predicted, trial.predicted_sd)}"
    if trial.veto is not None:
        text += f"; not to be trusted: {trial.veto}"
    return escape(text)


def _model_axes(model: ModelMessage | None, trials: Sequence[TrialMessage]) -> tuple[Axis, Axis]:
    steps = [t.step_a for t in trials] or [0.5, 2.0]
    defoci = [t.defocus_a for t in trials] or [-500.0, 500.0]
    if model is not None:
        steps, defoci = [*model.x, *steps], [*model.y, *defoci]
    low, high = min(steps), max(steps)
    if low == high:
        low, high = 0.8 * low, 1.25 * high
    bottom, top = min(defoci), max(defoci)
    pad = 0.04 * (top - bottom) or 100.0
    x = Axis(low / 1.04, high * 1.04, LEFT, WIDTH - RIGHT, log=True)
    return x, Axis(bottom - pad, top + pad, HEIGHT - BOTTOM, TOP)


def _map_png(model: ModelMessage, x: Axis, y: Axis) -> bytes:
    """The grid resampled to the axes' pixels; transparent where a setting is illegal."""
    shape = (len(model.y), len(model.x))
    mean = np.array([np.nan if v is None else v for v in model.mean], dtype=float).reshape(shape)
    finite = mean[np.isfinite(mean)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    columns = np.geomspace(x.low, x.high, 180)
    rows = np.linspace(y.high, y.low, 110)
    across = _nearest(np.log(np.array(model.x)), np.log(columns))
    down = _nearest(np.array(model.y), rows)
    picture = np.where((down[:, None] >= 0) & (across[None] >= 0), mean[down][:, across], np.nan)
    return png_of(colour_map((picture - low) / max(high - low, 1e-12), "cividis"))


def _nearest(known: Floats, wanted: Floats) -> NDArray[np.intp]:
    """Index of the nearest of `known` (n,) for each of `wanted` (m,); −1 outside by more than half a spacing. Returns (m,)."""
    half = np.abs(np.diff(known)).max() / 2
    distance = np.abs(known[None] - wanted[:, None])
    return np.where(distance.min(axis=1) <= half, distance.argmin(axis=1), -1)


def _frame(x: Axis, y: Axis, x_ticks: Sequence[float], x_label: str, y_label: str, *, grid: bool = True) -> str:
    width, height, kind = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM, "plot" if grid else "outline"
    plot = f'<rect x="{LEFT}" y="{TOP}" width="{width}" height="{height}" class="{kind}"/>'
    parts = [plot]
    for tick in y.ticks():
        at = y(tick)
        if grid:
            parts.append(f'<path class="grid" d="M{LEFT} {at:.1f} H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{at + 3.5:.1f}" class="tick end">{_number(tick)}</text>')
    for tick in x_ticks:
        parts.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 13}" class="tick middle">{_number(tick)}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 5}" class="label middle">{x_label}</text>')
    parts.append(f'<text transform="translate(10 {middle}) rotate(-90)" class="label middle">{y_label}</text>')
    return "".join(parts)


def _mark(role: str, x: float, y: float, kind: str) -> str:
    shape = MARKS.get(role, "circle")
    kind += f" {role if role in MARKS else 'exploration'}"  # a broker may send anything
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" class="{kind}"/>'
    if shape == "square":
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" class="{kind}"/>'
    path = {"diamond": "M0 -6 L6 0 L0 6 L-6 0 Z", "triangle": "M0 -5.5 L5.5 4.5 L-5.5 4.5 Z"}[shape]
    return f'<path transform="translate({x:.1f} {y:.1f})" d="{path}" class="{kind}"/>'


def _cross(x: float, y: float, kind: str) -> str:
    return f'<path d="M{x - 5:.1f} {y - 5:.1f} l10 10 m0 -10 l-10 10" class="cross {kind}"/>'


def _number(value: float) -> str:
    return f"{value:.4g}".replace("-", "−") if abs(value) > 1e-12 else "0"


def _round_below(largest: float) -> float:
    power = 10.0 ** math.floor(math.log10(largest))
    return max(m * power for m in (1.0, 2.0, 5.0) if m * power <= largest * (1 + 1e-9))


def _svg(parts: Sequence[str], title: str) -> str:
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'


def _empty(text: str) -> str:
    return f'<p class="nothing">{escape(text)}</p>'
