"""`ptychopilot study counterfactual`: a finished campaign's choices, made again."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from agent.campaign.counterfactual import decisions
from agent.cli.results import check_json, say
from agent.cli.terminal import Terminal
from agent.errors import BadInputError
from agent.records import Settings
from agent.report.headline import settings_text
from agent.study.resume import write_records


def run_counterfactual(
    campaign: Path | None, json_file: Path | None, policy: str | None, seed: int | None, electrons: float | None
) -> None:
    """Print what was chosen and what would have been, and write the records.

    Args:
        campaign: folder of the campaign.
        json_file: where the records go.
        policy: in place of the campaign's own; None: that.
        seed: likewise.
        electrons: of the whole budget, likewise.

    Raises:
        BadInputError: no folder is given, or it holds no campaign.
    """
    if campaign is None:
        msg = "study counterfactual needs --campaign DIR, the folder of a finished campaign"
        raise BadInputError(msg)
    check_json(json_file)
    console, found = Terminal(), list(decisions(campaign, policy, seed, electrons))
    table = Table(title=f"Choices of {campaign.name}, made again")
    for heading in ("trial", "role", "chosen", "would be chosen", "same"):
        table.add_column(heading)
    for each in found:
        table.add_row(str(each.trial), each.role, _text(each.made), _text(each.instead), "yes" if each.same else "no")
    console.print(table)
    same = sum(each.same for each in found)
    say(console, f"{same} of {len(found)} choices are the same to the last bit")
    write_records(json_file, found)


def _text(settings: Settings | None) -> str:
    return "nothing" if settings is None else settings_text(settings, "e/Å²")
