"""Hosts that may get secrets are compared by their whole name and port."""

from __future__ import annotations

import pytest

from mediatheca.kernel.header_hosts import checked_host, names_host


@pytest.mark.parametrize(
    ("given", "host"),
    [
        ("Shop.Example", "shop.example"),
        (" shop.example. ", "shop.example"),
        ("shop.example:8443", "shop.example:8443"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("[::1]", "[::1]"),
        ("[2001:DB8::1]:443", "[2001:db8::1]:443"),
        ("localhost", "localhost"),
    ],
)
def test_a_host_is_kept_in_one_spelling(given: str, host: str) -> None:
    assert checked_host(given) == host


@pytest.mark.parametrize(
    "given",
    ["", ".", "*", "*.shop.example", "https://shop.example", "shop.example/", "shop.example/x", "a b",
     "user@shop.example", "shop.example:0", "shop.example:65536", "shop.example:", "::1", "bücher.example", "x" * 300,
     "-shop.example"],
)  # fmt: skip
def test_what_is_no_host_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"shop\.example"):
        checked_host(given)


@pytest.mark.parametrize(
    "url",
    ["https://shop.example/x?y", "https://SHOP.example.:443/", "http://shop.example", "http://shop.example:80/",
     "https://other.example:8443/x", "https://[::1]/", "https://bücher.example/"],
)  # fmt: skip
def test_the_named_hosts_are_found(url: str) -> None:
    assert names_host(["shop.example", "other.example:8443", "[::1]", "xn--bcher-kva.example"], url)


@pytest.mark.parametrize(
    "url",
    ["https://www.shop.example/", "https://shop.example.evil.example/", "https://evil.example/shop.example",
     "https://shop.example@evil.example/", "https://shop.example:8443/", "https://other.example/",
     "https://notshop.example/", "ftp://shop.example/", "https:///x", "shop.example", "", "https://shop.example:x/",
     "https://[::1", "https://a..b/"],
)  # fmt: skip
def test_no_other_host_is(url: str) -> None:
    assert not names_host(["shop.example", "other.example:8443"], url)


def test_a_port_that_is_named_is_also_that_of_the_scheme() -> None:
    assert names_host(["shop.example:443"], "https://shop.example/")
    assert not names_host(["shop.example:443"], "http://shop.example/")
    assert not names_host([], "https://shop.example/")
