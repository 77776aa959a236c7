"""The settings that a search ends with, as a file that `reconstruct --settings` and campaigns' `reconstruction` take."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import yaml

from agent.reconstruction_choice import ReconstructionChoice
from agent.tuning.space import MEASURED, Values
from agent.tuning.trial import Task

SETTINGS = "tuned.yaml"
_RENAMED = {"max_passes": "passes"}
_LEFT_OUT = ("seed", "device", "refine_optics", "stop_early")


def settings_text(task: Task, values: Values, why: str) -> str:
    """The file's text: what was searched and what differs from a settings file's defaults, each by the engine's own name.

    Args:
        task: that was searched.
        values: that are recommended.
        why: said at its top.
    """
    _, settings = task.whole(values)
    searched = {*values, "batch_size", "max_passes"} if {"batches", "passes"} & set(values) else set(values)
    default = ReconstructionChoice.model_validate({"model": "given"}).settings()  # what a file that is silent means
    content: dict[str, Any] = {"model": "given"}
    for each in fields(settings):
        value = getattr(settings, each.name)
        if each.name in _LEFT_OUT or (each.name not in searched and value == getattr(default, each.name)):
            continue
        if each.name == "slice_spacing" and settings.slices == 1:
            continue
        content[_RENAMED.get(each.name, each.name)] = list(value) if isinstance(value, tuple) else value
    content["passes"] = settings.max_passes
    lines = [
        f"# {why}",
        "# ptychopilot reconstruct FILE --settings THIS, or a campaign file's `reconstruction` section",
    ]
    lines += [f"# {line}" for line in optics_options(values)]
    return "\n".join(lines) + "\n" + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def optics_options(values: Values) -> list[str]:
    """What of the values is no setting but an option of `reconstruct`, in words; none where optics were measured only."""
    given = [f"--{name} {values[name]:g}" for name in MEASURED if isinstance(values.get(name), float)]
    return [f"searched as well, and told to `reconstruct` by {' '.join(given)} --no-calibrate"] if given else []
