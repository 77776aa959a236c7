"""Who may do what on the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.dashboard.roles import Doorkeeper, Passwords
from agent.errors import BadInputError


def files(folder: Path, **passwords: str) -> list[Path | None]:
    for role, password in passwords.items():
        (folder / role).write_text(password + "\n")
    return [folder / role if role in passwords else None for role in ("viewer", "operator")]


def test_each_password_opens_its_role_and_no_other(tmp_path: Path) -> None:
    keeper = Doorkeeper(
        Passwords.from_files(*files(tmp_path, viewer="look-at-it", operator="steer-it-now"), loopback=False)
    )
    assert keeper.role_of(None) is None
    assert keeper.enter("something else") is None
    for password, role in (("look-at-it", "viewer"), ("steer-it-now", "operator")):
        entered = keeper.enter(password)
        assert entered is not None
        assert keeper.role_of(entered[0]) == role
        keeper.leave(entered[0])
        assert keeper.role_of(entered[0]) is None


def test_guessing_is_slowed_down(tmp_path: Path) -> None:
    now = 0.0
    passwords = Passwords.from_files(*files(tmp_path, operator="steer-it-now"), loopback=True)
    keeper = Doorkeeper(passwords, lambda: now)
    for guess in range(10):
        assert keeper.enter(f"guess {guess}") is None
    assert keeper.enter("steer-it-now") is None, "nothing is looked at for a minute"
    now = 61.0
    assert keeper.enter("steer-it-now") is not None


def test_on_this_machine_whoever_opens_the_page_steers_unless_there_is_a_password(tmp_path: Path) -> None:
    assert Doorkeeper(Passwords.from_files(None, None, loopback=True)).role_of(None) == "operator"
    guarded = Passwords.from_files(*files(tmp_path, operator="steer-it-now"), loopback=True)
    assert Doorkeeper(guarded).role_of(None) == "viewer"


@pytest.mark.parametrize(
    ("passwords", "says"),
    [
        ({}, "needs passwords"),
        ({"operator": "short"}, "5 characters"),
        ({"viewer": "same-one", "operator": "same-one"}, "give them two"),
    ],
)
def test_what_would_let_anybody_in_is_refused(tmp_path: Path, passwords: dict[str, str], says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        Passwords.from_files(*files(tmp_path, **passwords), loopback=False)
