"""Who somebody is, as a reverse proxy tells it, and who else might say so."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from agent.dashboard.proxy import Proxy
from agent.errors import BadInputError

PROXY = Proxy.at(["10.1.0.7", "fd00::/64"], "Remote-Groups", "microscope-operators")


def told(*lines: tuple[str, str]) -> Headers:
    return Headers(raw=[(name.lower().encode(), value.encode("latin-1")) for name, value in lines])


@pytest.mark.parametrize("peer", ["10.1.0.7", "::ffff:10.1.0.7", "fd00::1"])
def test_a_member_of_the_group_commands_and_is_known_by_name(peer: str) -> None:
    visitor = PROXY.visitor(peer, told(("Remote-Groups", "staff, microscope-operators"), ("Remote-User", "ruska")))
    assert visitor is not None
    assert (visitor.role, visitor.name) == ("operator", "ruska")


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [("Remote-Groups", "")],
        [("Remote-Groups", "staff")],
        [("Remote-Groups", "microscope-operators-of-old")],
        [("Remote-Groups", "MICROSCOPE-OPERATORS")],
        [("Remote_Groups", "microscope-operators")],
        [("X-Remote-Groups", "microscope-operators")],
        [("Remote-Groups", "microscope-operators"), ("Remote-Groups", "staff")],
        [("Remote-Groups", "staff"), ("Remote-Groups", "microscope-operators")],
    ],
    ids=str,
)
def test_whoever_is_not_said_to_be_an_operator_once_and_exactly_looks(lines: list[tuple[str, str]]) -> None:
    visitor = PROXY.visitor("10.1.0.7", told(*lines))
    assert visitor is not None
    assert visitor.role == "viewer"


@pytest.mark.parametrize("peer", [None, "", "10.1.0.8", "127.0.0.1", "::1", "fd00:1::1", "testclient"])
def test_headers_from_elsewhere_make_nobody_anything(peer: str | None) -> None:
    forged = told(("Remote-Groups", "microscope-operators"), ("X-Forwarded-For", "10.1.0.7"))
    assert PROXY.visitor(peer, forged) is None


def test_a_name_cannot_move_what_is_logged() -> None:
    visitor = PROXY.visitor("10.1.0.7", told(("Remote-User", "Eve\x1b[2J" + "x" * 200)))
    assert visitor is not None
    assert "\x1b" not in visitor.name
    assert len(visitor.name) <= 60


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((["proxy.example.org"], "Remote-Groups", "ops"), "is no address"),
        ((["10.1.0.7/24"], "Remote-Groups", "ops"), "is no address"),
        ((["0.0.0.0/0"], "Remote-Groups", "ops"), "is everybody"),
        ((["10.1.0.7"], "Remote Groups:", "ops"), "no name of a header"),
        ((["10.1.0.7"], "Remote-Groups", "ops,staff"), "no name of a group"),
    ],
)
def test_what_would_trust_the_wrong_ones_is_refused(arguments: tuple[list[str], str, str], says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        Proxy.at(*arguments)
