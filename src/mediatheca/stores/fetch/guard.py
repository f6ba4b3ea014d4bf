"""Which addresses the server may fetch from: the public internet, and what the operator named.

Refused are all addresses that are not global unicast (private, loopback, link-local, shared, multicast, reserved,
documentation), those of cloud metadata services, and IPv6 forms that carry such an IPv4 address inside. Sources:
the IANA special-purpose address registries for IPv4 and IPv6.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

from mediatheca.kernel.errors import ValidationError

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network
Resolve: TypeAlias = Callable[[str, int], Sequence[str]]
"""(host, port) → IP addresses as text. Raises OSError when the name does not resolve."""

SETTING = "MEDIATHECA_FETCH_ALLOW"
PUBLIC_PORTS = frozenset({80, 443})

_METADATA = {
    "169.254.169.254": "AWS, Google, Azure and others",
    "169.254.170.2": "AWS ECS",
    "100.100.100.200": "Alibaba",
    "168.63.129.16": "Azure",
    "192.0.0.192": "Oracle",
    "fd00:ec2::254": "AWS",
    "fd20:ce::254": "Google",
}
_LINK_LOCAL = "link-local"
_KINDS: dict[str, str] = {
    "0.0.0.0/8": "unspecified",
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "shared (carrier-grade NAT)",
    "127.0.0.0/8": "loopback",
    "169.254.0.0/16": _LINK_LOCAL,
    "172.16.0.0/12": "private",
    "192.0.0.0/24": "reserved",
    "192.0.2.0/24": "documentation",
    "192.88.99.0/24": "reserved",
    "192.168.0.0/16": "private",
    "198.18.0.0/15": "benchmarking",
    "198.51.100.0/24": "documentation",
    "203.0.113.0/24": "documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved",
    "::/128": "unspecified",
    "::1/128": "loopback",
    "64:ff9b:1::/48": "private NAT64",
    "fc00::/7": "private",
    "fe80::/10": _LINK_LOCAL,
    "ff00::/8": "multicast",
    "2001::/23": "reserved",
    "2001:db8::/32": "documentation",
    "2002::/16": "6to4",
    "3fff::/20": "documentation",
}
_SPECIAL: tuple[tuple[Network, str], ...] = tuple((ipaddress.ip_network(text), kind) for text, kind in _KINDS.items())
_GLOBAL_V6 = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_OWN = frozenset({"private", "loopback", "shared (carrier-grade NAT)", "benchmarking", "documentation"})
"""Kinds of networks that an operator may own, so that naming a host is enough to reach it there."""

_ENTRY = re.compile(r"(?P<host>\[[^\]]*\]|[^:/\[\]]+)(?::(?P<port>\d{1,5}))?")
_HOST = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?")


def embedded(address: Address) -> Address:
    """The IPv4 address that an IPv4-mapped or NAT64 address leads to; any other address itself."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def kind_of(address: Address) -> str | None:
    """What is special about an address (`private`, `loopback`, …), None for a public one."""
    address = embedded(address)
    if str(address) in _METADATA:
        return f"cloud metadata ({_METADATA[str(address)]})"
    for network, kind in _SPECIAL:
        if address.version == network.version and address in network:
            return kind
    if isinstance(address, IPv6Address) and address not in _GLOBAL_V6:
        return "reserved"
    return None


@dataclass(frozen=True, slots=True)
class _Name:
    host: str
    """`example.org`, or `.example.org` for everything below it."""
    port: int | None

    def matches(self, host: str, port: int) -> bool:
        named = host.endswith(self.host) if self.host.startswith(".") else host == self.host
        return named and self.port in (None, port)


@dataclass(frozen=True, slots=True)
class AllowList:
    """What the operator lets through besides the public internet."""

    names: tuple[_Name, ...] = ()
    networks: tuple[tuple[Network, int | None], ...] = field(default=())

    @classmethod
    def parse(cls, text: str) -> AllowList:
        """Read a comma list of `host`, `*.suffix`, `address` or `CIDR`, each but the last with an optional `:port`.

        Raises:
            ValidationError: an entry is none of these.
        """
        names: list[_Name] = []
        networks: list[tuple[Network, int | None]] = []
        for entry in filter(None, (part.strip() for part in text.split(","))):
            parsed = _parse(entry.lower())
            if parsed is None:
                raise ValidationError.at(
                    SETTING, f"'{entry}' is not a host, *.suffix, IP address or CIDR (host:port, [v6]:port)", "allow"
                )
            if isinstance(parsed, _Name):
                names.append(parsed)
            else:
                networks.append(parsed)
        return cls(tuple(names), tuple(networks))

    def names_host(self, host: str, port: int) -> bool:
        return any(name.matches(host, port) for name in self.names)

    def covers(self, address: Address, port: int) -> bool:
        """Whether a CIDR or address entry lets this address through on this port."""
        forms = {address, embedded(address)}
        return any(
            form.version == network.version and form in network and allowed in (None, port)
            for network, allowed in self.networks
            for form in forms
        )


def _parse(entry: str) -> _Name | tuple[Network, int | None] | None:
    network = _network(entry)
    if network is not None:
        return network, None
    match = _ENTRY.fullmatch(entry)
    if match is None:
        return None
    host, port = match["host"], int(match["port"]) if match["port"] else None
    if port is not None and not 1 <= port <= 65535:
        return None
    network = _network(host.strip("[]"))
    if network is not None:
        return network, port
    host = host.rstrip(".")
    return _Name(host.removeprefix("*"), port) if _HOST.fullmatch(host) else None


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def system_resolve(host: str, port: int) -> list[str]:
    """Ask the operating system (`getaddrinfo`)."""
    return [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


@dataclass(frozen=True, slots=True)
class Guard:
    """Decides where one connection may go."""

    allow: AllowList
    resolve: Resolve = system_resolve

    def addresses(self, host: str, port: int) -> list[str]:
        """Resolve a host once and return its addresses, if every one of them may be fetched from.

        Raises:
            ValidationError: the port or an address is refused; names the rule and the setting.
            OSError: the name does not resolve.
        """
        found = [ipaddress.ip_address(text.split("%")[0]) for text in self.resolve(host, port)]
        if not found:
            raise OSError("no addresses")
        named = self.allow.names_host(host, port)
        for address in found:
            self._check(host, port, address, named)
        return list(dict.fromkeys(map(str, found)))

    def named(self, host: str, port: int) -> bool:
        """Whether the operator named this host, or the address that it is."""
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return self.allow.names_host(host, port)
        return self.allow.names_host(host, port) or self.allow.covers(address, port)

    def _check(self, host: str, port: int, address: Address, named: bool) -> None:
        if self.allow.covers(address, port):
            return
        if port not in PUBLIC_PORTS and not named:
            raise _refused(f"port {port} of '{host}'", "only ports 80 and 443 are fetched from", _entry(host, port))
        kind = kind_of(address)
        if kind is None or (named and kind in _OWN):
            return
        what = f"'{host}'" if str(address) == host else f"'{host}' (it resolves to a {kind} address)"
        if named:
            what = f"the {kind} address behind '{host}'"
            raise _refused(what, "naming the host is not enough for such an address", "that address or its network")
        raise _refused(what, f"{kind} addresses are not fetched from", host)


def _entry(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _refused(what: str, rule: str, entry: str) -> ValidationError:
    return ValidationError.at(
        "url", f"{what} is refused: {rule}; if this is meant, the operator can add {entry} to {SETTING}", "url_refused"
    )
