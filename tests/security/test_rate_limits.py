"""Limits of requests: a valid key pays for itself, junk with its address, and neither costs anybody else anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from helpers import failed, ok
from mediatheca.api.limits import MAX_REMEMBERED, RateLimiter
from mediatheca.kernel.errors import TooManyRequestsError
from mediatheca.settings import Settings
from server import Server, new_tenant

RPM = 20


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> RateLimiter:
    return RateLimiter(RPM, clock)


def flood(limiter: RateLimiter, address: str, count: int = 10_000) -> int:
    """Requests with made-up keys from an address; gives how many were let through."""
    passed = 0
    for number in range(count):
        try:
            limiter.take(f"junk {number}", address)
        except TooManyRequestsError:
            continue
        passed += 1
    return passed


def prove(limiter: RateLimiter, digest: str, address: str = "10.0.0.1") -> None:
    limiter.take(digest, address).admit(f"key of {digest}")


def test_made_up_keys_of_an_address_share_one_allowance(limiter: RateLimiter) -> None:
    assert flood(limiter, "10.0.0.1") == RPM
    assert flood(limiter, "10.0.0.2") == RPM


def test_a_key_that_proved_itself_is_not_locked_out_by_junk_from_its_address(limiter: RateLimiter) -> None:
    prove(limiter, "good")
    flood(limiter, "10.0.0.1")
    for _ in range(RPM - 1):
        limiter.take("good", "10.0.0.1")
    with pytest.raises(TooManyRequestsError, match="with this key"):
        limiter.take("good", "10.0.0.1")


def test_proving_a_key_costs_its_address_nothing(limiter: RateLimiter) -> None:
    for number in range(5 * RPM):
        prove(limiter, f"good {number}")
    assert flood(limiter, "10.0.0.1") == RPM


def test_two_spellings_and_two_addresses_of_a_key_share_its_allowance(limiter: RateLimiter) -> None:
    for number in range(RPM):
        limiter.take(f"spelling {number}", f"10.0.0.{number}").admit("key_1")
    with pytest.raises(TooManyRequestsError):
        limiter.take("spelling 0", "10.0.0.0")


def test_an_allowance_refills_and_says_when(limiter: RateLimiter, clock: Clock) -> None:
    flood(limiter, "10.0.0.1", RPM)
    with pytest.raises(TooManyRequestsError) as caught:
        limiter.take("", "10.0.0.1")
    assert caught.value.retry_after_s == pytest.approx(60 / RPM)
    clock.now += caught.value.retry_after_s
    limiter.take("", "10.0.0.1")
    clock.now += 3600
    assert flood(limiter, "10.0.0.1") == RPM


def test_one_subscriber_of_ipv6_is_one_address(limiter: RateLimiter) -> None:
    passed = sum(flood(limiter, f"2001:db8:0:1::{number:x}", 1) for number in range(1, 100))
    assert passed == RPM
    assert flood(limiter, "2001:db8:0:2::1") == RPM
    flood(limiter, "::ffff:10.0.0.9")
    assert flood(limiter, "10.0.0.9") == 0, "an IPv4 address by its other name"


def test_neither_keys_nor_addresses_grow_memory_without_bound(limiter: RateLimiter) -> None:
    for number in range(MAX_REMEMBERED + 500):
        limiter.take(f"junk {number}", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
        prove(limiter, f"good {number}", "10.99.0.1")
    held = (limiter._addresses._held, limiter._keys._held, limiter._proved)
    assert {len(table) for table in held} == {MAX_REMEMBERED}


# ---- through the front door


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Its clock stands still: nothing refills while the test runs, however long that takes."""
    folder: Path = tmp_path_factory.mktemp("limited")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mediatheca.api.app.RateLimiter", lambda rpm: RateLimiter(rpm, Clock()))
        made = Server(Settings(data_dir=folder, workers=0, rate_limit_rpm=RPM, log_level="error"))
    yield made
    made.close()


def test_a_flood_of_junk_keys_is_stopped_and_a_tenant_at_the_same_address_works_on(limited: Server) -> None:
    tenant, other = new_tenant(limited), new_tenant(limited)
    with tenant.client() as client, other.client() as second, httpx.Client(base_url=limited.url) as stranger:
        first = client.get("/v1/me")
        ok(first)
        assert (first.headers["x-ratelimit-limit"], first.headers["x-ratelimit-remaining"]) == (str(RPM), str(RPM - 1))
        answers = [
            stranger.get("/v1/me", headers={"Authorization": f"Bearer sk_junk{number}"}) for number in range(2 * RPM)
        ]
        assert {answer.status_code for answer in answers[: RPM - 2]} == {401}
        error = failed(answers[-1], 429)
        assert "address" in error["message"]
        assert int(answers[-1].headers["retry-after"]) >= 1
        for left in range(RPM - 2, -1, -1):
            answer = client.get("/v1/me")
            assert answer.headers["x-ratelimit-remaining"] == str(left)
        assert "key" in failed(client.get("/v1/me"), 429)["message"]
        ok(second.get("/v1/me"))  # a key never seen before, from the address that has nothing left
