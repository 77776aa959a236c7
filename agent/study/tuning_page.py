"""The page of the study `tune`: what each search lost, and its pictures and Fourier magnitudes side by side."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from agent.report.drawing import add_scale_bar, length_label, new_figure, round_length, styled, to_png
from agent.report.pictures import Picture, spectrum
from agent.study.tuning import Compared, regrets

K_MAX = 1.25
"""1/Å, up to which Fourier magnitudes are drawn."""
PERCENT = 100


def page(compared: Sequence[Compared]) -> str:
    """The study as HTML, in one file.

    Args:
        compared: column by column.
    """
    css = files("agent.report").joinpath("style.css").read_text(encoding="utf-8")
    records = [record for each in compared for record in each.records]
    rows = "".join(
        f'<tr><td class="text">{escape(arm)}</td><td>{count}</td><td>{PERCENT * median:.1f}</td><td>{PERCENT * worst:.1f}</td>'
        f"<td>{cost:.1f}</td><td>{seconds:.0f}</td></tr>"
        for arm, count, median, worst, cost, seconds in regrets(records)
    )
    lines = [
        "<header><h1>Study: tuning of reconstructions</h1>"
        "<p>MoSe₂/WS₂ in columns with hidden errors; every search sees the same counts, none the truth</p></header>",
        '<h2>Truth lost</h2><table><thead><tr><th class="text">search</th><th>columns</th><th>median regret, %</th>'
        "<th>worst, %</th><th>whole reconstructions</th><th>s</th></tr></thead>"
        f'<tbody>{rows}</tbody></table><p class="soft">Regret: 1 − truth/best known; the best known is the largest truth of any '
        "settings that any search here has looked at closely.</p>",
    ]
    for each in compared:
        if each.pictures:
            lines.append(_column(each))
    missing = sorted({f"{r.policy}: {r.error}" for r in records if r.error is not None})
    lines += [f'<p class="soft">{escape(line)}</p>' for line in missing]
    body = "\n".join(lines)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>ptychopilot study tune</title>'
        f"<style>{css}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def _column(each: Compared) -> str:
    first = each.records[0]
    data = base64.b64encode(side_by_side(each)).decode()
    rows = "".join(
        f'<tr><td class="text">{escape(r.policy)}</td><td>{_number(r.truth)}</td><td>{_percent(r.regret)}</td>'
        f"<td>{_percent(r.gain, 2)}</td><td>{r.reconstructions:.1f}</td><td>{r.seconds:.0f}</td>"
        f'<td class="text why" style="white-space: normal">{escape(_changes(r.changed))}</td></tr>'
        for r in each.records
        if r.error is None
    )
    return (
        f"<h2>{escape(first.column)}: {first.dose:g} e/Å², step {first.step:.3g} Å, defocus {first.defocus:.4g} Å</h2>"
        f'<figure class="full"><img alt="pictures" src="data:image/png;base64,{data}"><figcaption>Phase (one scale of colours '
        "for all) and Fourier magnitude of what each search recommends; last: the specimen itself.</figcaption></figure>"
        '<table><thead><tr><th class="text">search</th><th>truth, bit/Å²</th><th>regret, %</th><th>held-out gain, %</th>'
        '<th>reconstructions</th><th>s</th><th class="text why">changed</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


@styled
def side_by_side(each: Compared) -> bytes:
    """Phases above, Fourier magnitudes below, a column for each search and one for the truth, as a PNG."""
    truths = {r.policy: r.truth for r in each.records}
    shown = [
        (f"{arm}, {_number(truths.get(arm))} bit/Å²", _picture(*picture)) for arm, picture in each.pictures.items()
    ]
    if each.truth is not None:
        phase, pixel = each.truth
        shown.append(("truth", _picture(phase - phase.mean(), (pixel, pixel))))
    figure, _ = new_figure(3.3 * len(shown), 6.6)
    figure.clear()
    axes = figure.subplots(2, len(shown), squeeze=False)
    levels = [np.percentile(p.phase - np.median(p.phase), [1, 99.5]) for _, p in shown[:-1] or shown]
    low, high = (float(f([level[i] for level in levels])) for i, f in ((0, np.min), (1, np.max)))
    for column, (name, picture) in enumerate(shown):
        above, below = axes[0][column], axes[1][column]
        height, width = picture.extent
        above.imshow(
            picture.phase - np.median(picture.phase), cmap="cividis", vmin=low, vmax=high, extent=(0, width, height, 0)
        )
        above.set_title(name)
        bar = round_length(width / 3)
        add_scale_bar(above, picture.extent, bar, length_label(bar))
        amplitude, edge = spectrum(picture, K_MAX)
        below.imshow(
            amplitude,
            cmap="inferno",
            vmin=float(np.percentile(amplitude, 5)),
            vmax=float(np.percentile(amplitude, 99.9)),
            extent=(-edge, edge, edge, -edge),
        )
        below.set_xlabel(f"± {edge:.2g} 1/Å")
        for one in (above, below):
            one.set(xticks=[], yticks=[])
            one.grid(False)
    return to_png(figure)


def _picture(phase: NDArray[np.float64], pixel: tuple[float, float]) -> Picture:
    drawn = np.asarray(phase, np.float32)
    return Picture(drawn, drawn, pixel, np.ones((1, 1), np.float32))


def _changes(changed: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {_said(value)}" for name, value in changed.items()) or "–"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{PERCENT * value:.{digits}f}"


def _said(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
