"""Who may do what: every client's key has a role, which can be changed or taken away while the server runs.

The role is a line `role = viewer | agent | operator` in the metadata of the public key's file among the admitted clients. A key
without one is an operator's, as every key was before there were roles. Where there are no keys, on this machine only, everybody
is an operator.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zmq.auth import load_certificate

from instrument.errors import AccessError

Role = Literal["viewer", "agent", "operator"]
ROLES: tuple[Role, ...] = ("viewer", "agent", "operator")
"""Each may do what those before it may."""
LOOK_INTERVAL = 0.5
_LOOKING = ("hello", "describe", "health", "status", "check", "outcome", "exposures", "illuminated", "events")
_COMMANDING = ("lease.acquire", "lease.renew", "lease.release", "campaign", "prepare", "start", "cancel", "abort")
_LEAST: dict[str, Role] = {
    **dict.fromkeys(_LOOKING, "viewer"),
    **dict.fromkeys(_COMMANDING, "agent"),
    "resume": "operator",
}
_ROLE_LINE = re.compile(r"^\s*role\s*=\s*\"?([a-z]+)\"?\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Sender:
    """Whose message it is.

    Attributes:
        name: of the key; "" where there are no keys.
        role: of the key.
    """

    name: str = ""
    role: Role = "operator"

    def called(self, holder: str) -> str:
        """What the audit trail calls it.

        Args:
            holder: name under which it has the lease; "" where the message came without one.
        """
        key = f"key {self.name}" if self.name else ""
        return f"{holder} ({key})" if holder and key else holder or key or "somebody without a key"

    def require(self, op: str) -> None:
        """Refuse a verb that the role may not use.

        Args:
            op: the verb; one that nobody knows is refused elsewhere.

        Raises:
            AccessError: with the role that is needed.
        """
        least = _LEAST.get(op, "viewer")
        if ROLES.index(self.role) < ROLES.index(least):
            msg = (
                f"the key {self.name} has the role {self.role}, {op} needs {least}; the owner of the instrument changes it in "
                f"{self.name}.key among the admitted clients"
            )
            raise AccessError(msg, role=self.role, needed=least)


class Admitted:
    """The clients whose public keys lie in a folder, as of now: files that are added or removed count without a restart.

    Args:
        folder: with one NAME.key for each.
        clock: monotonic time, s.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._lock = threading.Lock()
        self._looked = -LOOK_INTERVAL
        self._seen: object = None
        self._senders: dict[str, Sender] = {}

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether a key is admitted; asked by ZeroMQ, in its thread, at every handshake.

        Args:
            domain: not used.
            key: public, Z85.
        """
        return self._known(key.decode("ascii", "replace"), fresh=True) is not None

    def sender(self, key: str) -> Sender:
        """Whose key it is.

        Args:
            key: public, Z85.

        Raises:
            AccessError: it is not admitted any more.
        """
        found = self._known(key, fresh=False)
        if found is None:
            msg = "this key has been taken from the admitted clients; ask the owner of the instrument"
            raise AccessError(msg)
        return found

    def _known(self, key: str, *, fresh: bool) -> Sender | None:
        with self._lock:
            if fresh or self._clock() - self._looked >= LOOK_INTERVAL:
                self._looked = self._clock()
                self._look()
            return self._senders.get(key)

    def _look(self) -> None:
        try:
            files = sorted(self._folder.glob("*.key"))
            seen = [(path.name, (known := path.stat()).st_mtime_ns, known.st_size, known.st_ino) for path in files]
        except OSError:
            files, seen = [], []  # a folder that cannot be read admits nobody
        if seen != self._seen:
            self._seen = seen
            self._senders = dict(found for path in files if (found := _read(path)) is not None)


def _read(path: Path) -> tuple[str, Sender] | None:
    try:
        public, _ = load_certificate(path)
        found = _ROLE_LINE.search(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError):
        return None
    role = next((known for known in ROLES if found is not None and known == found[1]), None)
    if found is not None and role is None:
        role = "viewer"  # a role that nobody knows may do least
    return public.decode("ascii", "replace"), Sender(path.stem, role or "operator")
