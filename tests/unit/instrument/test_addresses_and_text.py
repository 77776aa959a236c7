"""Where an instrument can be, with which keys, and how its words reach any terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from instrument import ClientKeys, MalformedRequestError, ServerKeys, generate_keys
from instrument.endpoints import as_reached, beside, check_endpoint, is_loopback
from instrument.text import encodable, printable


@pytest.mark.parametrize(
    ("endpoint", "local"),
    [
        ("tcp://127.0.0.1:5555", True),
        ("tcp://localhost:5555", True),
        ("tcp://[::1]:5555", True),
        ("tcp://[::ffff:127.0.0.1]:5555", True),
        ("ipc:///run/scope", True),
        ("tcp://*:5555", False),
        ("tcp://[::]:5555", False),
        ("tcp://[fe80::1%eth0]:5555", False),
        ("tcp://192.168.0.7:5555", False),
        ("tcp://control-pc:5555", False),
    ],
)
def test_what_other_machines_can_reach(endpoint: str, local: bool) -> None:
    assert is_loopback(endpoint) == local


@pytest.mark.parametrize("endpoint", ["tcp://[::1]:5555", "tcp://[fe80::1%eth0]:*", "tcp://host:0", "ipc://scope"])
def test_an_address_that_is_legal(endpoint: str) -> None:
    check_endpoint(endpoint)


@pytest.mark.parametrize(
    "endpoint", ["tcp://::1:5555", "tcp://[::1:5555", "tcp://host:70000", "host:5555", "ipc://", ""]
)
def test_an_address_that_is_none_is_refused_with_an_example(endpoint: str) -> None:
    with pytest.raises(MalformedRequestError, match=r"tcp://\[::1\]:5555"):
        check_endpoint(endpoint)


def test_the_other_sockets_lie_beside_the_control_socket() -> None:
    assert beside("tcp://[::1]:5555", "data") == "tcp://[::1]:*"
    assert beside("ipc:///run/scope", "data") == "ipc:///run/scope.data"
    assert as_reached("tcp://[::]:4711", "tcp://control-pc:5555") == "tcp://control-pc:4711"
    assert as_reached("tcp://0.0.0.0:4711", "tcp://[fe80::7]:5555") == "tcp://[fe80::7]:4711"
    assert as_reached("tcp://10.0.0.1:4711", "tcp://control-pc:5555") == "tcp://10.0.0.1:4711"


def test_all_keys_of_one_side_in_one_folder(tmp_path: Path) -> None:
    scope, agent = tmp_path / "scope", tmp_path / "agent"
    generate_keys(scope, "scope")
    generate_keys(agent, "agent")
    (scope / "clients").mkdir()
    (scope / "clients" / "agent.key").write_bytes((agent / "agent.key").read_bytes())
    (agent / "scope.key").write_bytes((scope / "scope.key").read_bytes())
    server, client = ServerKeys.load(None, None, scope), ClientKeys.in_folder(agent)
    assert server is not None
    assert client.server == server.public
    assert server.clients == scope / "clients"


def test_a_folder_with_other_keys_than_expected_is_named(tmp_path: Path) -> None:
    generate_keys(tmp_path / "agent", "agent")
    generate_keys(tmp_path / "two", "one")
    generate_keys(tmp_path / "two", "other")

    def refused(load: Callable[[Path], object], folder: str) -> str:
        with pytest.raises(MalformedRequestError) as caught:
            load(tmp_path / folder)
        return str(caught.value)

    assert "no folder there" in refused(ClientKeys.in_folder, "nowhere")
    assert "2 secret keys there" in refused(ClientKeys.in_folder, "two")
    assert "one public key of a server" in refused(ClientKeys.in_folder, "agent")
    assert "public keys (*.key) of the clients" in refused(lambda folder: ServerKeys.load(None, None, folder), "agent")


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", "2.6 +/- 0.1 bit/A^2, +200 A, 3 x 10^-6 ... m\\xe4rz \\xe9"),
        ("cp1252", "2.6 ± 0.1 bit/Å², +200 Å, 3 × 10^-6 … m\\xe4rz é"),
        ("utf-8", "2.6 ± 0.1 bit/Å², +200 Å, 3 × 10⁻⁶ … m\\xe4rz é"),
    ],
)
def test_every_terminal_shows_every_text(encoding: str, shown: str) -> None:
    text = "2.6 ± 0.1 bit/Å², +200 Å, 3 × 10⁻⁶ … m\udce4rz é"
    assert encodable(text if encoding != "utf-8" else printable(text), encoding) == shown


def test_powers_of_ten_are_never_half_spelled_out() -> None:
    assert encodable("10¹⁰ of 10¹²", "cp1252") == "10^10 of 10¹²"
