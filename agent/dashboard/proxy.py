"""Roles from a reverse proxy that knows who somebody is: told in headers, believed from its address alone.

Whoever else sends such headers is asked for a password. Somebody of whom the proxy says nothing, or says it twice, may look.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers

from agent.dashboard.roles import Role, Visitor
from agent.errors import BadInputError
from instrument.text import visible

_NAME = re.compile(r"[A-Za-z0-9-]+")
_LONGEST_NAME = 60
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Proxy:
    """Where a proxy stands and how it tells who somebody is.

    Attributes:
        networks: addresses that it has.
        groups_header: name of the header with a person's groups, with commas between.
        user_header: name of the header with a person's name.
        operators: the group whose members may command.
    """

    networks: tuple[Network, ...]
    groups_header: str = "Remote-Groups"
    user_header: str = "Remote-User"
    operators: str = "ptychopilot-operators"

    @classmethod
    def at(cls, addresses: Sequence[str], groups_header: str, operators: str) -> Proxy:
        """Of what a person has written.

        Args:
            addresses: of the proxy, such as 127.0.0.1 or 10.1.0.0/24.
            groups_header, operators: see Proxy.

        Raises:
            BadInputError: one of them cannot be used.
        """
        networks = []
        for address in addresses:
            try:
                network = ipaddress.ip_network(address)
            except ValueError as error:
                msg = f"--proxy {address!r} is no address ({error}); write 127.0.0.1, or 10.1.0.0/24"
                raise BadInputError(msg) from error
            if network.prefixlen == 0:
                raise BadInputError(f"--proxy {address!r} is everybody; name the proxy's own address")
            networks.append(network)
        if not _NAME.fullmatch(groups_header):
            msg = f"{groups_header!r} is no name of a header; letters, digits and - are legal, as in Remote-Groups"
            raise BadInputError(msg)
        if not operators.strip() or "," in operators:
            raise BadInputError(f"{operators!r} is no name of a group; write one without commas")
        return cls(tuple(networks), groups_header, operators=operators.strip())

    def visitor(self, peer: str | None, headers: Headers) -> Visitor | None:
        """Who it is, from what the proxy says; None: this does not come from the proxy.

        Args:
            peer: address at the other end of the connection itself, never one that a header tells.
            headers: of the request.
        """
        if not self._is_proxy(peer):
            return None
        groups = headers.getlist(self.groups_header)
        # Two such lines: one of them is somebody's own, which the proxy has let through.
        member = len(groups) == 1 and self.operators in [each.strip() for each in groups[0].split(",")]
        role: Role = "operator" if member else "viewer"
        users = headers.getlist(self.user_header)
        return Visitor(role, visible(users[0])[:_LONGEST_NAME] if len(users) == 1 else "")

    def _is_proxy(self, peer: str | None) -> bool:
        try:
            address = ipaddress.ip_address((peer or "").partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self.networks)
