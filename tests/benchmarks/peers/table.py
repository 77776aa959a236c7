"""The table of `make bench-peers` from its results; run alone it prints the latest again.

python table.py [RESULTS.jsonl]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

OURS = "ptychopilot"
WARM, FRESH = 30, 10
"""How much sooner ours is to be at the target, in a warm process and from a fresh one."""

Line = dict[str, Any]
HEAD = f"""\
target   the error to reach: a peer's best + 5 %; * marks the target of the peer that is soonest at its own
pass     at which that is reached; s/pass: median
warm s   passes only for the peers, set-up and passes for ours; imports done, everything compiled, patterns in memory
fresh s  from the start of a process to its end: imports, reading, set-up, passes, picture
MB       peak of the fresh process
NRMSE    best error of the trace (↓: was still falling when the time was up); scale: of the phase there, 1 is quantitative
ours     seconds of ours to the peer's target, and how many times sooner that is (warm {WARM}, fresh {FRESH} are wanted)
"""


def _engine(line: Line) -> tuple[str, str, str]:
    return line["file"], line["peer"], json.dumps(line["options"], sort_keys=True)


def load(results: Path, file: str | None = None) -> list[Line]:
    """The lines of a results file, of one recording or all; of each engine's traces only the latest, and what is newer."""
    lines = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    latest = {_engine(line): number for number, line in enumerate(lines) if line["kind"] == "trace"}
    return [
        line
        for number, line in enumerate(lines)
        if number >= latest.get(_engine(line), 0) and file in (None, line["file"])
    ]


def trace_of(results: Path, file: str, peer: str, options: Line) -> Line | None:
    """The latest trace of one engine on one recording."""
    wanted = [
        line
        for line in load(results, file)
        if (line["kind"], line["peer"], line["options"]) == ("trace", peer, options)
    ]
    return wanted[-1] if wanted else None


def first_below(rows: list[Line], target: float) -> Line | None:
    """The first row of a trace whose error is at most `target`."""
    return next((row for row in rows if row["nrmse"] <= target), None)


def own_target(trace: Line) -> tuple[float, Line]:
    """Best error + 5 % of a trace, and the first row that reaches it."""
    target = 1.05 * min(row["nrmse"] for row in trace["rows"])
    row = first_below(trace["rows"], target)
    assert row is not None
    return target, row


def fresh_lines(lines: list[Line], peer: str, options: Line) -> list[Line]:
    """Runs of one engine from a fresh process."""
    return [line for line in lines if (line["kind"], line["peer"], line["options"]) == ("fresh", peer, options)]


def _times(value: float | None, reference: float | None, wanted: float) -> str:
    if value is None or reference is None:
        return f"{'–':>8} {'–':>7} "
    ratio = reference / value
    return f"{value:8.2f} {ratio:6.1f}×{' ' if ratio >= wanted else '!'}"


def recording_table(lines: list[Line]) -> list[str]:
    """Rows of one recording, the peer that is soonest at its own target first."""
    traces = [line for line in lines if line["kind"] == "trace" and line["peer"] != OURS]
    ours = next((line for line in lines if line["kind"] == "trace" and line["peer"] == OURS), None)
    traces.sort(key=lambda trace: own_target(trace)[1]["seconds"])
    rows = [_peer_row(trace, ours, lines, number == 0) for number, trace in enumerate(traces)]
    if ours:
        best = min(ours["rows"], key=lambda row: row["nrmse"])
        last = ours["rows"][-1]
        made = fresh_lines(lines, OURS, ours["options"])
        fresh = max(made, key=lambda line: line["passes"]) if made else None
        rows.append(
            f"{OURS:<13} {last['nrmse']:6.3f} {last['pass']:5d} {ours['pass_seconds']:7.3f} {ours['setup']:7.2f} "
            f"{ours['setup'] + last['seconds']:8.2f} {_number(fresh, 'seconds', 8, 2)} {_number(fresh, 'peak_mb', 6, 0)} "
            f"{best['nrmse']:6.3f} {best['scale']:6.2f} │ (target, pass and warm s are those of its last pass)"
        )
    return rows


def _peer_row(trace: Line, ours: Line | None, lines: list[Line], soonest: bool) -> str:
    target, row = own_target(trace)
    best = min(trace["rows"], key=lambda row: row["nrmse"])
    falling = "↓" if best is trace["rows"][-1] else " "
    fresh = next(iter(fresh_lines(lines, trace["peer"], trace["options"])), None)
    reached = first_below(ours["rows"], target) if ours else None
    warm = ours["setup"] + reached["seconds"] if ours and reached else None
    enough = [line["seconds"] for line in fresh_lines(lines, OURS, {}) if line["nrmse"] <= target]
    return (
        f"{trace['peer']:<12}{'*' if soonest else ' '} {target:6.3f} {row['pass']:5d} {trace['pass_seconds']:7.3f} "
        f"{trace['setup']:7.2f} {row['seconds']:8.2f} {_number(fresh, 'seconds', 8, 2)} {_number(fresh, 'peak_mb', 6, 0)} "
        f"{best['nrmse']:6.3f}{falling}{best['scale']:6.2f} │{_times(warm, row['seconds'], WARM)}"
        f"{_times(min(enough, default=None), fresh['seconds'] if fresh else None, FRESH)} "
        f"{' '.join(f'{name}={value}' for name, value in trace['options'].items())}"
    )


def _number(line: Line | None, key: str, width: int, digits: int) -> str:
    return f"{line[key]:{width}.{digits}f}" if line else f"{'–':>{width}}"


def text(results: Path) -> str:
    """The whole table."""
    lines = load(results)
    columns = f"{'':13} target  pass  s/pass  set-up   warm s  fresh s     MB  NRMSE  scale │    warm           fresh     options"
    parts = [HEAD]
    for file in sorted({line["file"] for line in lines}, key=lambda name: (name.split("_")[0] != "s1.5", name)):
        of_file = [line for line in lines if line["file"] == file]
        positions = next((line["positions"] for line in of_file if "positions" in line), "?")
        parts += [f"{file}, {positions} positions", columns, *recording_table(of_file), ""]
    return "\n".join([*parts, *limits_table(lines)])


def limits_table(lines: list[Line]) -> list[str]:
    """Error of the phase as returned over the diffraction-plane limit 1/(2 dose), at the pass where it is least."""
    rows = ["error power / limit in 0.25–0.50, 0.50–0.75 and 0.75–1.00 1/Å"]
    for line in lines:
        if line["kind"] == "trace" and "limits" in line["rows"][0]:
            best = min(line["rows"], key=lambda row: max(row["limits"]))
            values = " ".join(f"{value:8.2f}" for value in best["limits"])
            rows.append(f"{line['file']:<18} {line['peer']:<12} {values}   pass {best['pass']}")
    return rows


if __name__ == "__main__":
    made = sorted((Path(__file__).parents[3] / ".peers" / "results").glob("*.jsonl"))
    print(text(Path(sys.argv[1]) if len(sys.argv) > 1 else made[-1]))
