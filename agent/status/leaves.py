"""The contract's topics: which message is published where, and how."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from pydantic import BaseModel

from agent.status.contract import (
    AcquisitionMessage,
    AlarmMessage,
    BeamMessage,
    BestMessage,
    Command,
    DoseMessage,
    EventMessage,
    JobMessage,
    LiveMessage,
    ModelMessage,
    OptimizerMessage,
    PictureMessage,
    ProposalMessage,
    QueueMessage,
    ReconstructionMessage,
    Reply,
    SessionMessage,
    StateMessage,
    SuggestionMessage,
    TrialMessage,
    Verb,
)


@dataclass(frozen=True)
class Leaf:
    """A topic below an agent's root.

    Attributes:
        address: with {parameters}.
        model: of its payload; None: not JSON.
        qos, retain: how it is published.
        about: what it is for.
        content_type: of the payload.
    """

    address: str
    model: type[BaseModel] | None
    qos: int
    retain: bool
    about: str
    content_type: str = "application/json"


LEAVES: tuple[Leaf, ...] = (
    Leaf(
        "availability",
        None,
        1,
        True,
        "`online` while the agent lives, `offline` otherwise (the last will)",
        "text/plain",
    ),
    Leaf("session", SessionMessage, 1, True, "once per session"),
    Leaf("state", StateMessage, 1, True, "on change, and every 2 s"),
    Leaf("beam", BeamMessage, 1, True, "on change"),
    Leaf("dose", DoseMessage, 1, True, "on change"),
    Leaf("suggestion", SuggestionMessage, 1, True, "for each trial"),
    Leaf("trial/{number}", TrialMessage, 1, True, "on change"),
    Leaf("best", BestMessage, 1, True, "on change"),
    Leaf("optimizer", OptimizerMessage, 1, True, "when the model has changed"),
    Leaf("model", ModelMessage, 1, True, "when the model has changed"),
    Leaf("proposal", ProposalMessage, 1, True, "while one waits"),
    Leaf("acquisition", AcquisitionMessage, 0, False, "twice a second at most"),
    Leaf("reconstruction", ReconstructionMessage, 0, False, "twice a second at most"),
    Leaf("event", EventMessage, 1, False, "as they happen"),
    Leaf("alarm/{code}", AlarmMessage, 1, True, "while it lasts"),
    Leaf("queue", QueueMessage, 1, True, "by `ptychopilot serve`, on change and every 2 s"),
    Leaf("job/{number}", JobMessage, 1, True, "by `ptychopilot serve`, on change"),
    Leaf("picture", PictureMessage, 1, True, "with each new pair of pictures"),
    Leaf("live", LiveMessage, 1, True, "with every tenth of a scan, until the trial is scored"),
    Leaf(
        "image/{name}",
        None,
        0,
        True,
        "`phase` and `spectrum`, and `live-phase` and `live-spectrum` of the running scan, at most 150 kB each",
        "image/png",
    ),
    Leaf("command/{verb}", Command, 1, False, f"to the agent: {', '.join(get_args(Verb))}"),
    Leaf("reply/{id}", Reply, 1, False, "once for each command"),
)


def leaf_of(path: str) -> Leaf | None:
    """The leaf that a topic below the root belongs to; None: it is not of this contract.

    Args:
        path: topic without the root.

    >>> leaf_of("trial/12").address, leaf_of("nonsense")
    ('trial/{number}', None)
    """
    parts = path.split("/")
    for leaf in LEAVES:
        pattern = leaf.address.split("/")
        if len(pattern) == len(parts) and all(p == q or p.startswith("{") for p, q in zip(pattern, parts, strict=True)):
            return leaf
    return None


def models() -> Iterable[type[BaseModel]]:
    """Every model of the contract, in the order of the topics."""
    return [leaf.model for leaf in LEAVES if leaf.model is not None]
