"""Who may do what on the page: a viewer sees everything, an operator commands as well.

Passwords come from files. A browser that has given one keeps a random token in a cookie that scripts cannot read.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agent.encoding import read_text
from agent.errors import BadInputError

Role = Literal["viewer", "operator"]
COOKIE = "ptychopilot_dashboard"
_SESSIONS = 1000
_ATTEMPTS, _WINDOW_S = 10, 60.0
"""Wrong passwords that are looked at within so many seconds, from wherever they come."""
SHORTEST = 8


@dataclass(frozen=True)
class Visitor:
    """Who looks at the page.

    Attributes:
        role: what may be done.
        name: as a proxy has told it; empty: nobody has.
    """

    role: Role
    name: str = ""


@dataclass(frozen=True)
class Passwords:
    """Of the roles; None: nobody can take the role by password.

    Without any password everybody is `without`: the operator on this machine, or nobody.
    """

    viewer: str | None = None
    operator: str | None = None
    without: Role | None = None

    @property
    def any(self) -> bool:
        """Whether there is a password to enter with."""
        return self.viewer is not None or self.operator is not None

    @classmethod
    def from_files(
        cls, viewer: Path | None, operator: Path | None, *, loopback: bool, proxied: bool = False
    ) -> Passwords:
        """Read them.

        Args:
            viewer, operator: files that hold a password and nothing else.
            loopback: whether the page is served on this machine only.
            proxied: whether a proxy tells who somebody is. Whoever does not come from there then needs a password.

        Raises:
            BadInputError: a file cannot be read, a password is too short, or others could command without one.
        """
        if viewer is None and operator is None:
            if not loopback and not proxied:
                msg = (
                    "a page that others can reach needs passwords: --operator-password FILE, --viewer-password FILE; "
                    "or a proxy that knows who they are: --proxy ADDRESS"
                )
                raise BadInputError(msg)
            return cls(without=None if proxied else "operator")
        anybody: Role | None = "viewer" if viewer is None and loopback and not proxied else None
        found = cls(_read(viewer), _read(operator), without=anybody)
        if found.viewer is not None and found.viewer == found.operator:
            raise BadInputError("viewers and operators have the same password; give them two")
        return found


class Doorkeeper:
    """Knows which browser has which role.

    Args:
        passwords: of the roles.
        clock: seconds, monotonic.
    """

    def __init__(self, passwords: Passwords, clock: Callable[[], float] = time.monotonic) -> None:
        self._passwords = passwords
        self._clock = clock
        self._sessions: OrderedDict[str, Role] = OrderedDict()
        self._wrong: list[float] = []

    @property
    def has_passwords(self) -> bool:
        """Whether there is a password to enter with."""
        return self._passwords.any

    def role_of(self, token: str | None) -> Role | None:
        """The role of a browser; None: it has to give a password first.

        Args:
            token: from its cookie.
        """
        known = self._sessions.get(token or "")
        return known or self._passwords.without

    def enter(self, password: str) -> tuple[str, Role] | None:
        """Take a password.

        Args:
            password: as given.

        Returns:
            A token for the browser and its role; None where the password is wrong, or too many were.
        """
        now = self._clock()
        self._wrong = [at for at in self._wrong if now - at < _WINDOW_S]
        if len(self._wrong) >= _ATTEMPTS:
            return None
        roles: tuple[tuple[Role, str | None], ...] = (
            ("operator", self._passwords.operator),
            ("viewer", self._passwords.viewer),
        )
        for role, right in roles:
            if right is not None and hmac.compare_digest(password.encode(), right.encode()):
                token = secrets.token_urlsafe(32)
                self._sessions[token] = role
                if len(self._sessions) > _SESSIONS:
                    self._sessions.popitem(last=False)
                return token, role
        self._wrong.append(now)
        return None

    def leave(self, token: str | None) -> None:
        """Forget a browser."""
        self._sessions.pop(token or "", None)


def _read(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        password = read_text(path).strip()
    except OSError as error:
        msg = f"{path}: the password cannot be read ({error.strerror})"
        raise BadInputError(msg) from error
    if len(password) < SHORTEST:
        msg = f"{path}: the password has {len(password)} characters; at least {SHORTEST} are needed"
        raise BadInputError(msg)
    return password
