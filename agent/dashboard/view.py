"""What the page knows of one campaign, put together from the contract's messages, wherever they came from."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import ValidationError

from agent.status.contract import (
    LARGEST_IMAGE,
    STALE_S,
    AcquisitionMessage,
    AlarmMessage,
    BeamMessage,
    BestMessage,
    DoseMessage,
    EventMessage,
    LiveMessage,
    Message,
    ModelMessage,
    OptimizerMessage,
    PictureMessage,
    ProposalMessage,
    ReconstructionMessage,
    Reply,
    SessionMessage,
    StateMessage,
    SuggestionMessage,
    TrialMessage,
)
from agent.status.leaves import leaf_of

EVENTS_KEPT = 400
TRIALS_KEPT = 1000
REPLIES_KEPT = 64

Each = TypeVar("Each", bound=Message)


@dataclass
class View:
    """One campaign, or one agent on a broker.

    Attributes:
        key: names it in addresses of the page: a topic root, or a folder.
        version: rises with every message that changed something.
        heard: monotonic time, s, of the last sign of life; None: nothing was heard yet.
        online: what is said of the agent's availability; None: nothing.
        garbled: messages that were not of the contract.
    """

    key: str
    version: int = 0
    heard: float | None = None
    online: bool | None = None
    garbled: int = 0
    trials: dict[int, TrialMessage] = field(default_factory=dict)
    events: deque[EventMessage] = field(default_factory=lambda: deque(maxlen=EVENTS_KEPT))
    alarms: dict[str, AlarmMessage] = field(default_factory=dict)
    images: dict[str, bytes] = field(default_factory=dict)
    replies: dict[str, Reply] = field(default_factory=dict)
    _latest: dict[str, Message] = field(default_factory=dict)

    def take(self, leaf: str, payload: bytes, now: float) -> None:
        """Take note of a message.

        Args:
            leaf: topic below the root.
            payload: as it came; one that is not of the contract is counted and left out.
            now: monotonic time, s.
        """
        known = leaf_of(leaf)
        name = leaf.split("/", maxsplit=1)[0]
        if known is None or name == "command":
            return
        self.heard = now
        self.version += 1
        if name == "availability":
            self.online = payload == b"online"
        elif name == "image":
            self._keep_image(leaf.split("/")[1], payload)
        elif not payload:
            self._forget(leaf)
        else:
            assert known.model is not None
            try:
                message = known.model.model_validate_json(payload)
            except ValidationError:
                self.garbled += 1
                return
            assert isinstance(message, Message)
            self._keep(leaf, name, message)

    def latest(self, kind: type[Each]) -> Each | None:
        """The last message of a kind, if there is one.

        Args:
            kind: of the contract.
        """
        found = self._latest.get(kind.__name__)
        return found if isinstance(found, kind) else None

    @property
    def session(self) -> SessionMessage | None:
        """Who works on what."""
        return self.latest(SessionMessage)

    @property
    def state(self) -> StateMessage | None:
        """What goes on."""
        return self.latest(StateMessage)

    @property
    def beam(self) -> BeamMessage | None:
        """The beam as the agent commands it."""
        return self.latest(BeamMessage)

    @property
    def dose(self) -> DoseMessage | None:
        """Electrons."""
        return self.latest(DoseMessage)

    @property
    def suggestion(self) -> SuggestionMessage | None:
        """The newest one."""
        return self.latest(SuggestionMessage)

    @property
    def proposal(self) -> ProposalMessage | None:
        """What a program proposes, while it waits."""
        return self.latest(ProposalMessage)

    @property
    def best(self) -> BestMessage | None:
        """The best trusted score."""
        return self.latest(BestMessage)

    @property
    def optimizer(self) -> OptimizerMessage | None:
        """What the model expects."""
        return self.latest(OptimizerMessage)

    @property
    def model(self) -> ModelMessage | None:
        """The model over two settings."""
        return self.latest(ModelMessage)

    @property
    def picture(self) -> PictureMessage | None:
        """What the pictures show."""
        return self.latest(PictureMessage)

    @property
    def live(self) -> LiveMessage | None:
        """What the pictures of a trial show that is not scored yet; None where there are none."""
        return None if {"live-phase", "live-spectrum"} - self.images.keys() else self.latest(LiveMessage)

    @property
    def acquisition(self) -> AcquisitionMessage | None:
        """Progress of the running acquisition."""
        return self.latest(AcquisitionMessage)

    @property
    def reconstruction(self) -> ReconstructionMessage | None:
        """Progress of the running reconstruction."""
        return self.latest(ReconstructionMessage)

    @property
    def title(self) -> str:
        """The campaign's name, or the key before it is known."""
        return self.session.campaign if self.session is not None else self.key

    @property
    def finished(self) -> bool:
        """Whether the campaign has ended: what is shown stays true."""
        return self.state is not None and self.state.phase == "finished"

    def alive(self, now: float) -> None:
        """A sign of life without news.

        Args:
            now: monotonic time, s.
        """
        self.heard = now

    def silent_for(self, now: float) -> float:
        """s since the last sign of life; infinite where there was none.

        Args:
            now: monotonic time, s.
        """
        return float("inf") if self.heard is None else max(now - self.heard, 0.0)

    def stale(self, now: float) -> bool:
        """Whether what is shown may not be true any more.

        Args:
            now: monotonic time, s.
        """
        return not self.finished and (self.online is False or self.silent_for(now) > STALE_S)

    def _keep(self, leaf: str, name: str, message: Message) -> None:
        match message:
            case SessionMessage():
                if self.session is None or self.session.id != message.id:
                    self._begin()
                self._latest.pop("AcquisitionMessage", None)
                self._latest.pop("ReconstructionMessage", None)
                self._latest.pop("LiveMessage", None)
                self._latest["SessionMessage"] = message
                self.trials = {n: t for n, t in self.trials.items() if t.campaign == message.id}
            case TrialMessage():
                if self.session is None or message.campaign == self.session.id:
                    self.trials[message.trial] = message
                    if len(self.trials) > TRIALS_KEPT:
                        del self.trials[min(self.trials)]
                    self._settle(message)
            case EventMessage():
                self.events.append(message)
            case AlarmMessage():
                self.alarms[message.code] = message
            case Reply():
                self.replies[message.id] = message
                if len(self.replies) > REPLIES_KEPT:
                    del self.replies[next(iter(self.replies))]
            case _:
                self._latest[type(message).__name__] = message

    def _keep_image(self, name: str, payload: bytes) -> None:
        if not payload:
            self.images.pop(name, None)
        elif len(payload) <= LARGEST_IMAGE:
            self.images[name] = payload

    def _begin(self) -> None:
        """Another campaign: nothing of the last one is shown as its own."""
        if self.session is None:
            return
        self._latest.clear()
        self.trials.clear()
        self.images.clear()
        self.alarms.clear()
        self.events.clear()

    def _settle(self, trial: TrialMessage) -> None:
        """Progress of what has ended is none."""
        if (
            trial.state in ("done", "failed")
            and (work := self.reconstruction) is not None
            and work.trial == trial.trial
        ):
            del self._latest["ReconstructionMessage"]
        if (
            trial.state in ("acquired", "failed")
            and (scan := self.acquisition) is not None
            and scan.trial == trial.trial
        ):
            del self._latest["AcquisitionMessage"]

    def _forget(self, leaf: str) -> None:
        name, _, last = leaf.partition("/")
        known = leaf_of(leaf)
        if name == "alarm":
            self.alarms.pop(last, None)
        elif name == "trial":
            self.trials.pop(int(last) if last.isdecimal() else -1, None)
        elif known is not None and known.model is not None:
            self._latest.pop(known.model.__name__, None)
