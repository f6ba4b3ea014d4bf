"""Where the fetch client may go: every special network, every disguise, and the operator's allow list."""

from __future__ import annotations

import ipaddress

import pytest

from mediatheca.kernel.errors import ValidationError
from mediatheca.stores.fetch.guard import AllowList, Guard, kind_of, system_resolve

REFUSED = {
    "0.0.0.0": "unspecified",
    "10.1.2.3": "private",
    "100.64.0.1": "shared",
    "100.100.100.200": "metadata",
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "168.63.129.16": "metadata",
    "169.254.1.1": "link-local",
    "169.254.169.254": "metadata",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.0.0.9": "reserved",
    "192.0.0.192": "metadata",
    "192.0.2.1": "documentation",
    "192.88.99.1": "reserved",
    "192.168.1.1": "private",
    "198.18.0.1": "benchmarking",
    "198.51.100.1": "documentation",
    "203.0.113.1": "documentation",
    "224.0.0.1": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "reserved",
    "::": "unspecified",
    "::1": "loopback",
    "::7f00:1": "reserved",
    "::ffff:127.0.0.1": "loopback",
    "::ffff:a9fe:a9fe": "metadata",
    "64:ff9b::7f00:1": "loopback",
    "64:ff9b::a9fe:a9fe": "metadata",
    "64:ff9b:1::808:808": "private NAT64",
    "100::1": "reserved",
    "2001::1": "reserved",
    "2001:db8::1": "documentation",
    "2002:7f00:1::": "6to4",
    "2002:808:808::": "6to4",
    "3fff::1": "documentation",
    "5f00::1": "reserved",
    "fc00::1": "private",
    "fd00:ec2::254": "metadata",
    "fd20:ce::254": "metadata",
    "fe80::1": "link-local",
    "fec0::1": "reserved",
    "ff02::1": "multicast",
}
PUBLIC = ["8.8.8.8", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "2606:4700::1", "64:ff9b::808:808"]


def guard(allow: str, *addresses: str) -> Guard:
    return Guard(AllowList.parse(allow), lambda host, port: list(addresses))


@pytest.mark.parametrize(("address", "kind"), REFUSED.items())
def test_a_special_address_is_refused(address: str, kind: str) -> None:
    assert kind in str(kind_of(ipaddress.ip_address(address)))
    with pytest.raises(ValidationError, match=r"host.example.*is refused.*MEDIATHECA_FETCH_ALLOW"):
        guard("", address).addresses("host.example", 80)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_accepted(address: str) -> None:
    assert kind_of(ipaddress.ip_address(address)) is None
    assert guard("", address).addresses("host.example", 443) == [address]


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f000001", "127.1", "0177.0.0.1", "localhost", "127.0.0.1", "0", "::1", "::ffff:7f00:1"]
)
def test_every_way_to_write_this_machine_is_refused(host: str) -> None:
    with pytest.raises(ValidationError, match="refused"):
        Guard(AllowList(), system_resolve).addresses(host, 80)


def test_one_bad_address_among_good_ones_refuses_the_name() -> None:
    with pytest.raises(ValidationError, match="private"):
        guard("", "8.8.8.8", "10.0.0.1").addresses("host.example", 80)


def test_a_zone_does_not_hide_a_link_local_address() -> None:
    with pytest.raises(ValidationError, match="link-local"):
        guard("", "fe80::1%eth0").addresses("host.example", 80)


def test_no_address_at_all_is_an_error() -> None:
    with pytest.raises(OSError, match="no addresses"):
        guard("").addresses("host.example", 80)


def test_the_message_does_not_tell_the_address() -> None:
    with pytest.raises(ValidationError) as caught:
        guard("", "10.11.12.13").addresses("inner.example", 80)
    assert "10.11.12.13" not in caught.value.message
    assert "private" in caught.value.message
    assert "inner.example" in caught.value.message


@pytest.mark.parametrize("port", [22, 25, 8080, 6379])
def test_other_ports_are_refused(port: int) -> None:
    with pytest.raises(ValidationError, match=rf"port {port}.*only ports 80 and 443.*host.example:{port}"):
        guard("", "8.8.8.8").addresses("host.example", port)


@pytest.mark.parametrize(
    ("allow", "host", "address", "port"),
    [
        ("inner", "inner", "10.0.0.1", 80),
        ("inner", "inner", "127.0.0.1", 8080),
        ("INNER.Example.", "inner.example", "192.168.0.1", 9000),
        (" a , inner:8080 ", "inner", "10.0.0.1", 8080),
        ("*.corp.example", "x.corp.example", "10.0.0.1", 80),
        ("*.corp.example:81", "x.y.corp.example", "10.0.0.1", 81),
        ("10.0.0.0/8", "anything", "10.2.3.4", 80),
        ("10.0.0.0/8", "10.2.3.4", "10.2.3.4", 8443),
        ("10.2.3.4", "anything", "10.2.3.4", 8443),
        ("10.2.3.4:81", "anything", "10.2.3.4", 81),
        ("127.0.0.0/8", "x", "::ffff:7f00:1", 80),
        ("fd00::/8", "x", "fd12::1", 80),
        ("[::1]:8000", "x", "::1", 8000),
        ("::1", "x", "::1", 8000),
        ("169.254.169.254", "x", "169.254.169.254", 80),
        ("host", "host", "8.8.8.8", 8080),
        ("*.tail.net", "box.tail.net", "100.64.1.1", 80),
    ],
)
def test_what_the_operator_names_is_let_through(allow: str, host: str, address: str, port: int) -> None:
    assert guard(allow, address).addresses(host, port) == [address]


@pytest.mark.parametrize(
    ("allow", "host", "address", "port"),
    [
        ("inner:8080", "inner", "10.0.0.1", 80),
        ("inner:8080", "inner", "8.8.8.8", 8081),
        ("*.corp.example", "corp.example", "10.0.0.1", 80),
        ("*.corp.example", "evilcorp.example", "10.0.0.1", 80),
        ("inner", "x.inner", "10.0.0.1", 80),
        ("10.0.0.0/8", "10.0.0.1", "192.168.0.1", 80),
        ("10.2.3.4:81", "x", "10.2.3.4", 80),
    ],
)
def test_what_the_operator_did_not_name_is_refused(allow: str, host: str, address: str, port: int) -> None:
    with pytest.raises(ValidationError, match="refused"):
        guard(allow, address).addresses(host, port)


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "fe80::1", "224.0.0.1", "168.63.129.16"])
def test_a_named_host_cannot_lead_to_a_metadata_service(address: str) -> None:
    with pytest.raises(ValidationError, match="naming the host is not enough"):
        guard("inner", address).addresses("inner", 80)


@pytest.mark.parametrize("entry", ["http://x", "a b", "*", "*.", "host:0", "host:99999", "10.0.0.0/99", "a/b", "[::1"])
def test_a_wrong_entry_is_refused_at_start(entry: str) -> None:
    with pytest.raises(ValidationError, match="MEDIATHECA_FETCH_ALLOW"):
        AllowList.parse(f"good.example,{entry}")
