"""What was left out, masked and found in the patterns of a campaign, before anything was measured."""

from __future__ import annotations

from html import escape

from agent.records import CampaignRecord


def cleaning_section(record: CampaignRecord) -> str:
    """The findings of each trial, as HTML; trials with the same findings share a line, and nothing is shown where none has any.

    Args:
        record: of the campaign.
    """
    trials: dict[tuple[str, ...], list[int]] = {}
    for trial in record.trials:
        if trial.cleaning is not None:
            trials.setdefault(trial.cleaning.sentences(), []).append(trial.number)
    clean = trials.pop((), [])
    if not trials:
        return ""
    rows = [(_numbers(numbers), "; ".join(sentences)) for sentences, numbers in trials.items()]
    if clean:
        rows.append((_numbers(clean), "nothing had to be left out or masked"))
    shown = "".join(f"<dt>{escape(name)}</dt><dd>{escape(found)}</dd>" for name, found in rows)
    return f"<h2>Patterns as they came</h2><dl>{shown}</dl>"


def _numbers(numbers: list[int]) -> str:
    return f"Trial{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers))}"
