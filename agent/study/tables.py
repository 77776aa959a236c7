"""A study for people: a table of its records and one of what they come to. Each value fits its heading's unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from agent.formatting import electrons
from agent.study.records import KINDS, CalibrationRecord, ScoreRecord
from agent.study.summary import CalibrationSummary, ScoreSummary, cells_of, summarise_calibration, summarise_score

_NOTHING = "–"


def calibration_tables(records: Sequence[CalibrationRecord]) -> Iterator[Table]:
    """One row a column, then the summary.

    Args:
        records: of the study.
    """
    table = _table(
        "First calibration, defocus in Å, rotation in degrees",
        "column", "set-point", "true", "measured", "± sd", "error", "rotation\nerror", "± sd", "found",
    )  # fmt: skip
    for r in records:
        error = None if r.defocus is None or r.true_defocus is None else r.defocus - r.true_defocus
        found = "failed" if r.error is not None else "yes" if r.found else "no"
        table.add_row(
            r.name,
            *(_text(value, "+.1f") for value in (r.nominal_defocus, r.true_defocus, r.defocus)),
            _text(r.defocus_sd, ".2f"),
            _text(error, "+.1f"),
            _text(r.rotation_error, "+.2f"),
            _text(r.rotation_sd, ".2f"),
            found if r.right_hand is not False else f"{found}, wrong hand",
        )
    yield table
    summary = _table("Summary", "figure", "value")
    for name, value in _calibration_lines(summarise_calibration(records)):
        summary.add_row(name, value)
    yield summary


def score_tables(records: Sequence[ScoreRecord]) -> Iterator[Table]:
    """One table a column, one of all columns' means, then the summary, for both kinds of halves.

    Args:
        records: of the study.
    """
    for name in dict.fromkeys(r.name for r in records):
        table = _table(
            f"{name}: score beside the truth, bit/Å²",
            "step\nÅ", "defocus\nÅ", "dose\ne/Å²", "halves", "score", "± sd", "truth", "veto",
        )  # fmt: skip
        for r in (r for r in records if r.name == name):
            table.add_row(
                _text(r.step, ".2f"),
                _text(r.defocus, "+.0f"),
                _NOTHING if r.dose is None else electrons(r.dose),
                r.halves or _NOTHING,
                _text(r.score, ".2f"),
                _text(r.sd, ".2f"),
                _text(r.truth, ".2f"),
                "failed" if r.error is not None else "" if r.veto is None else "!",
            )
        yield table
    yield _cell_table(records)
    table = _table("Summary", "figure", *(f"halves: {kind}" for kind in KINDS))
    lines = [_score_lines(summarise_score(records, kind)) for kind in KINDS]
    for (name, first), (_, second) in zip(*lines, strict=True):
        table.add_row(name, first, second)
    yield table


def _cell_table(records: Sequence[ScoreRecord]) -> Table:
    """Means of each setting over all columns; right: within max(15 %, 2 sd) of the truth."""
    headings = [f"{kind}\n{what}" for kind in KINDS for what in ("score", "truth", "right")]
    table = _table("Means over columns, bit/Å²", "step\nÅ", "defocus\nÅ", "dose\ne/Å²", *headings)
    cells = [cells_of(records, kind) for kind in KINDS]
    for number in sorted(set().union(*cells)):
        found = [each.get(number) for each in cells]
        known = next(cell for cell in found if cell is not None)
        row = [f"{known.step:.2f}", _text(known.defocus, "+.0f"), electrons(known.dose)]
        for cell in found:
            row += (
                [_NOTHING] * 3
                if cell is None
                else [f"{cell.score:.2f}", f"{cell.truth:.2f}", "yes" if cell.right else "no"]
            )
        table.add_row(*row)
    return table


def _calibration_lines(s: CalibrationSummary) -> list[tuple[str, str]]:
    return [
        ("acquisitions", str(s.acquisitions)),
        ("defocus not found", _text(s.not_found, ".0%")),
        ("|defocus error|, median", f"{_text(s.defocus_median, '.1f')} Å, {_text(s.relative_median, '.1%')}"),
        ("|defocus error|, 90 %", f"{_text(s.defocus_90, '.1f')} Å, {_text(s.relative_90, '.1%')}"),
        ("defocus error over sd, rms and worst", f"{_text(s.pull_rms, '.1f')}, {_text(s.pull_worst, '.1f')}"),
        ("|rotation error|, median and 90 %", f"{_text(s.rotation_median, '.2f')}°, {_text(s.rotation_90, '.2f')}°"),
        (
            "rotation error over sd, rms and worst",
            f"{_text(s.rotation_pull_rms, '.1f')}, {_text(s.rotation_pull_worst, '.1f')}",
        ),
        ("wrong handedness", str(s.wrong_hand)),
    ]


def _score_lines(s: ScoreSummary) -> list[tuple[str, str]]:
    return [
        ("acquisitions, failed", f"{s.acquisitions}, {s.failed}"),
        ("(score − truth)/truth, mean and rms", f"{_text(s.bias, '+.0%')}, {_text(s.rms, '.0%')}"),
        ("cells within max(15 %, 2 sd)", _text(s.within, ".0%")),
        (
            "Spearman within a column, median and worst",
            f"{_text(s.rank_median, '.2f')}, {_text(s.rank_worst, '.2f')}",
        ),
        ("regret of the best score, median", _text(s.regret, ".0%")),
        ("vetoes, of them false", f"{s.vetoes}, {s.false_vetoes}"),
        *((f"Spearman of {name.replace('_', ' ')}, median", _text(rank, ".2f")) for name, rank in s.rivals.items()),
    ]


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in headings:
        left = heading in ("column", "figure", "halves", "veto", "found")
        table.add_column(heading, justify="left" if left else "right", overflow="fold" if left else "ellipsis")
    return table


def _text(value: float | None, how: str) -> str:
    return _NOTHING if value is None else format(value, how).replace("-", "−")
