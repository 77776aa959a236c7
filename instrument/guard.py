"""The dead man's handle: who may have the beam on.

`BeamGuard` holds the few facts on which the beam depends (lease, SAFE, running acquisition) under one lock. The thread of
`safe_socket` calls its `tick`, however busy or stuck the event loop of the server may be.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from instrument import wire
from instrument.beam import BeamTime
from instrument.errors import (
    ConflictError,
    MalformedRequestError,
    SafeStateError,
    StaleLeaseError,
    SuspendedError,
)
from instrument.status import InstrumentStatus, Phase

MIN_TTL, MAX_TTL = 0.05, 600.0


@dataclass
class _Lease:
    holder: str
    fence: int
    ttl: float
    expires: float


class BeamGuard:
    """Decides whether the beam may be on; thread-safe.

    Args:
        blank: takes the beam off; called from any thread.
        clock: monotonic time, s.
        on_safe: told the reason, from any thread, when the instrument goes to SAFE.
        on_release: called when an operator releases it; where it raises the instrument stays in SAFE.
        safe_reason: why it is in SAFE from the start; "" where it is not.
        fence: the last fence number given.
        dry_run: whether the beam stays blanked in all acquisitions.

    Attributes:
        leases_lapsed: since the server started.
    """

    def __init__(
        self,
        blank: Callable[[], None],
        *,
        clock: Callable[[], float],
        on_safe: Callable[[str], None],
        on_release: Callable[[], None],
        safe_reason: str = "",
        fence: int = 0,
        dry_run: bool = False,
    ) -> None:
        self._blank_microscope = blank
        self._clock = clock
        self._on_safe = on_safe
        self._on_release = on_release
        self._lock = threading.RLock()
        self._lease: _Lease | None = None
        self._fence = fence
        self._safe_reason = safe_reason
        self._suspended = ""
        self._acquisition = ""
        self._dry_always = self._dry = dry_run
        self._stop_reason = ""
        self._started = clock()
        self._electrons = (0.0, 0.0)
        self._beam_time = BeamTime(clock)
        self._limit, self._due = 0.0, 0.0
        self.leases_lapsed = 0

    @property
    def exposing(self) -> bool:
        """Whether an acquisition runs."""
        return bool(self._acquisition)

    @property
    def beam_allowed(self) -> bool:
        """Whether the beam may be on: an acquisition runs, and is no dry run."""
        return bool(self._acquisition) and not self._dry

    @property
    def stop_reason(self) -> str:
        """Why the running acquisition has to end; "" while it may go on."""
        return self._stop_reason

    def book(self, reserved: float, spent: float) -> None:
        """Tell the electrons that `status` reports.

        Args:
            reserved: electrons set aside.
            spent: electrons that have been exposed.
        """
        self._electrons = (reserved, spent)

    def status(self) -> InstrumentStatus:
        """The state now."""
        with self._lock:
            lease, phase = self._lease, self._phase()
            return InstrumentStatus(
                phase=phase,
                blanked=not self.beam_allowed or bool(self._stop_reason),
                reason=self._safe_reason,
                electrons_reserved=self._electrons[0],
                electrons_spent=self._electrons[1],
                fence=self._fence,
                holder=lease.holder if lease else "",
                lease_left=max(0.0, lease.expires - self._clock()) if lease else 0.0,
                acquisition=self._acquisition,
                uptime=self._clock() - self._started,
                suspended=self._suspended,
                dry_run=self._dry,
            )

    def _phase(self) -> Phase:
        if self._safe_reason:
            return "safe"
        return "exposing" if self._acquisition else "idle"

    def grant(self, holder: str, ttl: float, next_fence: Callable[[], int]) -> int:
        """Give the lease under a new fence number.

        The same holder takes over from itself (an agent that was killed and started again), which stops what runs.

        Args:
            holder: who asks.
            ttl: s without renewal after which the lease lapses, 0.05 … 600.
            next_fence: makes a fence number higher than all before.

        Returns:
            The fence number.

        Raises:
            MalformedRequestError: `ttl` is not legal.
            ConflictError: somebody else holds a live lease.
        """
        if not MIN_TTL <= ttl <= MAX_TTL:
            msg = f"a lease of {ttl:g} s; legal: {MIN_TTL:g} … {MAX_TTL:g} s"
            raise MalformedRequestError(msg)
        with self._lock:
            self._lapse_if_due()
            if self._lease is not None and self._lease.holder != holder:
                left = self._lease.expires - self._clock()
                msg = f"{self._lease.holder} holds the lease for another {left:.1f} s; wait until it has released it"
                raise ConflictError(msg, holder=self._lease.holder, lease_left=left)
            self._stop_running(f"{holder} has taken a new lease")
            self._fence = next_fence()
            self._lease = _Lease(holder, self._fence, ttl, self._clock() + ttl)
            return self._fence

    def renew(self, token: wire.LeaseToken | None) -> None:
        """Prolong the lease by its own duration.

        Args:
            token: lease of the sender.

        Raises:
            StaleLeaseError: it is not the live one.
        """
        with self._lock:
            lease = self._require_lease(token)
            lease.expires = self._clock() + lease.ttl

    def release(self, token: wire.LeaseToken | None) -> None:
        """Give the lease back; a running acquisition is stopped.

        Args:
            token: lease of the sender.

        Raises:
            StaleLeaseError: it is not the live one.
        """
        with self._lock:
            lease = self._require_lease(token)
            self._stop_running(f"{lease.holder} has released the lease")
            self._lease = None

    def require(self, token: wire.LeaseToken | None) -> None:
        """Refuse a command that needs the lease and a beam that may be on.

        Args:
            token: lease of the sender.

        Raises:
            StaleLeaseError: it is not the live one.
            SafeStateError: the instrument is in SAFE.
            SuspendedError: the column is not well.
        """
        with self._lock:
            self._require_lease(token)
            self.require_not_safe()
            if self._suspended:
                msg = (
                    f"nothing is exposed now ({self._suspended}); it goes on once the column has been well for a while"
                )
                raise SuspendedError(msg, reason=self._suspended)

    def check_fence(self, token: wire.LeaseToken | None) -> None:
        """Refuse a command of somebody whose lease is over.

        Args:
            token: lease of the sender; None, no lease at all, is fine.

        Raises:
            StaleLeaseError: it is not the live one.
        """
        if token is not None:
            with self._lock:
                self._require_lease(token)

    def require_no_other(self, token: wire.LeaseToken | None, op: str) -> None:
        """Refuse what only the holder of a live lease may do while there is one.

        Args:
            token: lease of the sender, which has been checked; None: none.
            op: the verb.

        Raises:
            ConflictError: somebody else holds the lease.
        """
        with self._lock:
            self._lapse_if_due()
            if token is None and self._lease is not None:
                msg = (
                    f"{self._lease.holder} holds the lease, and {op} is the holder's; `stop` and `blank` on the safe socket end "
                    "what runs, whoever asks"
                )
                raise ConflictError(msg, holder=self._lease.holder)

    def require_not_safe(self) -> None:
        """Raise SafeStateError in SAFE."""
        if self._safe_reason:
            msg = f"the instrument is in SAFE ({self._safe_reason}); an operator has to release it with `resume`"
            raise SafeStateError(msg, reason=self._safe_reason)

    def _require_lease(self, token: wire.LeaseToken | None) -> _Lease:
        self._lapse_if_due()
        if token is None:
            msg = "this needs a lease; acquire one first"
            raise StaleLeaseError(msg, fence=self._fence)
        lease = self._lease
        if lease is None or lease.fence != token.fence or lease.holder != token.holder:
            now = f"{lease.holder} holds it with fence {lease.fence}" if lease else "it has lapsed or was released"
            msg = f"the lease of {token.holder} with fence {token.fence} is not valid any more: {now}"
            raise StaleLeaseError(msg, fence=self._fence)
        return lease

    def begin(
        self, acquisition: str, token: wire.LeaseToken | None, first_frame: float, *, dry: bool = False
    ) -> BeamTime:
        """Allow the beam on for one acquisition.

        Args:
            acquisition: its id.
            token: lease of the sender.
            first_frame: s within which the first frame has to be there; see `progress`.
            dry: it is gone through with the beam blanked.

        Returns:
            What counts the time of its beam.

        Raises:
            StaleLeaseError, SafeStateError, SuspendedError: as `require`.
            ConflictError: another acquisition runs.
        """
        with self._lock:
            self.require(token)
            if self._acquisition:
                msg = f"acquisition {self._acquisition} is running; one at a time"
                raise ConflictError(msg, running=self._acquisition)
            self.progress(first_frame)
            self._beam_time = BeamTime(self._clock)
            self._acquisition, self._stop_reason = acquisition, ""
            self._dry = dry or self._dry_always
            return self._beam_time

    def progress(self, limit: float) -> None:
        """A frame has been delivered and taken; where the next one is not within the limit, the beam goes off.

        Args:
            limit: s.
        """
        self._limit, self._due = limit, self._clock() + limit

    def blank(self) -> None:
        """Turn the beam off, and stop counting its time."""
        self._blank_microscope()
        self._beam_time.blanked()

    def end(self) -> None:
        """The acquisition is over and its beam is off."""
        with self._lock:
            self._acquisition, self._stop_reason, self._dry = "", "", self._dry_always

    def stop(self, reason: str, acquisition: str = "") -> bool:
        """Blank and end the running acquisition. Does not latch.

        Args:
            reason: becomes the reason of the outcome.
            acquisition: end only this one; "": whatever runs.

        Returns:
            Whether there was one to end.
        """
        with self._lock:
            if acquisition and acquisition != self._acquisition:
                return False
            running = bool(self._acquisition)
            self._stop_running(reason)
        if not acquisition:
            self.blank()
        return running

    def go_safe(self, reason: str) -> None:
        """Blank, end what runs and stay in SAFE until `resume`. Idempotent: the first reason stays.

        Args:
            reason: why.
        """
        with self._lock:
            first = not self._safe_reason
            self._safe_reason = self._safe_reason or reason
            self._stop_running(reason)
        try:
            self.blank()
        finally:
            if first:
                self._on_safe(reason)

    def suspend(self, reason: str) -> bool:
        """Allow no exposure while the column is not well, and end what runs.

        Args:
            reason: why; "": it is well.

        Returns:
            Whether that is a change from well to unwell or back.
        """
        with self._lock:
            changed = bool(reason) != bool(self._suspended)
            self._suspended = reason
            if reason:
                self._stop_running(f"suspended: {reason}")
        return changed

    def resume(self) -> None:
        """An operator's release from SAFE."""
        with self._lock:  # whoever goes to SAFE next comes after the release in what was noted, too
            self._on_release()
            self._safe_reason = ""

    def _stop_running(self, reason: str) -> None:
        if self._acquisition:
            # The reason comes first: once it stands, the acquisition takes no further frame.
            self._stop_reason = self._stop_reason or reason
            self.blank()

    def _lapse_if_due(self) -> None:
        lease = self._lease
        if lease is not None and self._clock() >= lease.expires:
            self._lease = None
            self.leases_lapsed += 1
            self.go_safe(f"the lease of {lease.holder} lapsed: not renewed for {lease.ttl:g} s")

    def tick(self) -> None:
        """See to the lease and to progress, and blank again while a stop is pending. The thread does it at every turn.

        Blanking again covers the moment between the last test of `stop_reason` and the first electron.
        """
        with self._lock:
            self._lapse_if_due()
            if self._acquisition and self._clock() > self._due:
                self._stop_running(f"no frame was taken or delivered for {self._limit:.3g} s")
            pending = bool(self._acquisition and self._stop_reason)
        if pending:
            self.blank()
