"""Writes `ptychopilot.json`, the dashboard for Grafana: `make grafana`. It needs grafana_foundation_sdk, of the extra `test`.

A test holds the file up to date, and that every expression asks for what our processes export.
"""

from __future__ import annotations

import json
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueColorMode, BigValueGraphMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)

FILE = Path(__file__).with_name("ptychopilot.json")
SOURCE = DataSourceRef(type_val="prometheus", uid="ptychopilot-prometheus")
"""As in provisioning/datasources/prometheus.yml."""
BAD, GOOD = "red", "green"

STATES = [
    ("SAFE", "max(ptychopilot_safe)", ("no", "SAFE"), (GOOD, BAD)),
    ("Column", "max(ptychopilot_suspended)", ("well", "not well"), (GOOD, BAD)),
    ("Beam", "max(ptychopilot_exposing)", ("blanked", "on"), ("blue", "orange")),
    ("Campaign", "max(ptychopilot_running)", ("none", "runs"), ("blue", GOOD)),
    ("Paused", "max(ptychopilot_paused)", ("no", "paused"), (GOOD, "orange")),
    ("Lease", "max(ptychopilot_lease_held)", ("nobody", "held"), ("blue", GOOD)),
]
"""Title, expression, and words and colours of 0 and 1."""

LINES: list[tuple[str, str, str, list[tuple[str, str]]]] = [
    (
        "Electrons of the campaign",
        "short",
        "Budget, and what became of it",
        [
            ("ptychopilot_electrons_budget", "budget"),
            ("ptychopilot_electrons_spent", "spent"),
            ("ptychopilot_electrons_reserved", "reserved"),
            ("ptychopilot_electrons_left", "left"),
        ],
    ),
    (
        "Score of the trials",
        "bit/Å²",
        "Information per area; each trial is a line",
        [("ptychopilot_score_bits_per_square_angstrom", "{{role}} {{trial}}")],
    ),
    (
        "Uncertainty of the scores",
        "bit/Å²",
        "Standard deviation",
        [("ptychopilot_score_sd_bits_per_square_angstrom", "{{role}} {{trial}}")],
    ),
    (
        "Trials",
        "short",
        "The one that is acquired, how many are planned, and how those that have ended did",
        [
            ("ptychopilot_trial", "now"),
            ("ptychopilot_trials_planned", "planned"),
            ("ptychopilot_trials_total", "{{state}}"),
            ("ptychopilot_score_vetoes_total", "not to be trusted"),
        ],
    ),
    ("Time left", "s", "Estimate", [("ptychopilot_time_left_seconds", "left")]),
    (
        "Seconds of a step",
        "s",
        "Mean over all trials so far",
        [("ptychopilot_phase_seconds_sum / ptychopilot_phase_seconds_count", "{{phase}}")],
    ),
    (
        "Electrons of the instrument",
        "short",
        "Of all campaigns, as its ledger has them",
        [
            ("ptychopilot_instrument_electrons_spent", "spent"),
            ("ptychopilot_instrument_electrons_reserved", "reserved"),
        ],
    ),
    (
        "Frames",
        "cps",
        "Delivered per second, and lost in the last ten minutes",
        [
            ("rate(ptychopilot_frames_total[1m])", "delivered per second"),
            ("increase(ptychopilot_frames_lost_total[10m])", "lost, {{job}}"),
        ],
    ),
    (
        "Exposures",
        "short",
        "Since the server started, and leases that were not renewed in time",
        [("ptychopilot_exposures_total", "{{state}}"), ("ptychopilot_leases_lapsed_total", "leases lapsed")],
    ),
    (
        "Lag of the event loops",
        "s",
        "Largest of the last minute; above 1 s there is an alert",
        [("ptychopilot_event_loop_lag_seconds", "{{job}}")],
    ),
    ("Free on disk", "bytes", "Of ledger and campaign", [("ptychopilot_disk_free_bytes >= 0", "{{job}}")]),
    (
        "Answers",
        "short",
        "1: Prometheus reaches the process; the agent reaches the instrument",
        [
            ("up", "{{job}}"),
            ("ptychopilot_instrument_reachable", "instrument, by the agent"),
        ],
    ),
    (
        "Lease and uptime",
        "s",
        "Until the lease lapses unless renewed; since the server started",
        [("ptychopilot_lease_left_seconds", "lease"), ("ptychopilot_uptime_seconds", "uptime")],
    ),
]
"""Title, unit, description, and (expression, legend) of each panel."""


def expressions() -> list[str]:
    """Every expression of the dashboard."""
    return [state[1] for state in STATES] + [each for line in LINES for each, _ in line[3]]


def text() -> str:
    """The dashboard as JSON."""
    board = (
        dashboard.Dashboard("ptychopilot")
        .uid("ptychopilot")
        .tags(["ptychopilot", "electron ptychography"])
        .refresh("5s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
    )
    for title, expression, words, colours in STATES:
        board = board.with_panel(_state(title, expression, words, colours))
    for title, unit, about, targets in LINES:
        board = board.with_panel(_line(title, unit, about, targets))
    return json.dumps(json.loads(JSONEncoder(sort_keys=True).encode(board.build())), indent=1, sort_keys=True) + "\n"


def _target(expression: str, legend: str, ref: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(ref).datasource(SOURCE)


def _state(title: str, expression: str, words: tuple[str, str], colours: tuple[str, str]) -> stat.Panel:
    options = {
        str(value): ValueMappingResult(text=word, color=colour, index=value)
        for value, (word, colour) in enumerate(zip(words, colours, strict=True))
    }
    return (
        stat.Panel()
        .title(title)
        .datasource(SOURCE)
        .height(4)
        .span(4)
        .graph_mode(BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.BACKGROUND)
        .mappings([ValueMap(options=options)])
        .no_value("unknown")
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(
            dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps([Threshold(value=None, color="gray")])
        )
        .with_target(_target(expression, title, "A"))
    )


def _line(title: str, unit: str, about: str, targets: list[tuple[str, str]]) -> timeseries.Panel:
    panel = (
        timeseries.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .unit(unit)
        .height(8)
        .span(8)
        .line_width(2)
        .fill_opacity(0)
        .legend(common.VizLegendOptions().show_legend(True))
    )
    for (expression, legend), ref in zip(targets, "ABCD", strict=False):
        panel = panel.with_target(_target(expression, legend, ref))
    return panel


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    print(FILE)
