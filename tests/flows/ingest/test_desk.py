"""What extractors ask for is done in the server, under its guards, with the secrets that their parameters name."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datapath_app import Application
from datapath_shop import Shop

from language_server import KEY, LanguageServer, Say
from mediatheca.flows.ingest.desk import ExtractionDesk, hosts_in, secrets_in
from mediatheca.kernel.desk import NO_DESK
from mediatheca.kernel.errors import (
    BadRequestError,
    ForbiddenError,
    MediathecaError,
    PayloadTooLargeError,
    UnavailableError,
    ValidationError,
)
from mediatheca.kernel.outside import Generate, HttpRequest, RenderRequest
from mediatheca.kernel.scope import Scope
from outside_site import Asked, Reply, Site, a_site

PARAMETERS = {"headers": {"authorization": "{{SECRET.token}}"}, "llm": [{"llm_api_key": "{{ SECRET.model_key }}"}]}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with a_site() as site:
        yield site


@pytest.fixture(scope="module")
def served(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    with LanguageServer([Say("a fox")], key="the caller's key") as language:
        folder = tmp_path_factory.mktemp("desk")
        url, key = f"{language.url}/v1", KEY
        made = Application(
            folder, fetch_allow="127.0.0.1", language_url=url, language_key=key, language_model="llama", workers=0
        )
        yield made
        made.close()


@pytest.fixture
def scope(served: Application) -> Scope:
    shop: Shop = served.shop()
    scope = served.scope(shop)
    values = {"token": "Bearer real", "model_key": "the caller's key", "other": "of somebody else"}
    with served.db.begin(Scope(scope.organization_id)) as tx:
        for name, value in values.items():
            served.services.desks.vault.create(tx, name, value)
    return scope


@pytest.fixture
def desk(served: Application, scope: Scope, site: Site) -> ExtractionDesk:
    made = served.services.desks.of(scope, {**PARAMETERS, "header_hosts": [site.host]}, NO_DESK)
    assert isinstance(made, ExtractionDesk)
    return made


def test_a_page_comes_through_the_guarded_client(desk: ExtractionDesk, site: Site) -> None:
    site.html("/page", "<p>hello</p>")
    answer = desk.fetch(HttpRequest(f"{site.url}/page", headers={"Accept-Language": "de"}))
    assert (answer.status, answer.data, answer.content_type) == (200, b"<p>hello</p>", "text/html")
    assert site.asked[-1].headers["accept-language"] == "de"
    assert desk.fetch(HttpRequest(f"{site.url}/nothing")).status == 404


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/latest", "http://10.0.0.1/", "file:///etc/passwd", "http://[::1]:80/", "nonsense"]
)
def test_addresses_that_nobody_may_reach_are_refused(desk: ExtractionDesk, url: str) -> None:
    with pytest.raises(MediathecaError) as caught:
        desk.fetch(HttpRequest(url, timeout_s=5))
    assert isinstance(caught.value, ValidationError | BadRequestError)


def test_an_answer_beyond_its_limit_and_one_that_does_not_come_are_errors(desk: ExtractionDesk, site: Site) -> None:
    site.routes["/big"] = Reply(b"x" * 100_000)
    site.routes["/slow"] = Reply(b"x", delay_s=3)
    with pytest.raises(PayloadTooLargeError):
        desk.fetch(HttpRequest(f"{site.url}/big", max_bytes=1000))
    with pytest.raises(BadRequestError) as caught:
        desk.fetch(HttpRequest(f"{site.url}/slow", timeout_s=0.3))
    assert caught.value.retryable


def test_a_header_may_name_a_secret_of_the_parameters_and_no_other(desk: ExtractionDesk, site: Site) -> None:
    site.routes["/closed"] = Reply(b"in")
    desk.fetch(HttpRequest(f"{site.url}/closed", headers={"Authorization": "{{SECRET.token}}"}))
    assert site.asked[-1].headers["authorization"] == "Bearer real"
    with pytest.raises(ForbiddenError, match="do not name the secret 'other'"):
        desk.fetch(HttpRequest(f"{site.url}/closed", headers={"Authorization": "{{SECRET.other}}"}))


def test_a_secret_goes_to_the_hosts_that_the_parameters_name_and_to_no_other(desk: ExtractionDesk) -> None:
    with a_site() as other:
        for url in (f"{other.url}/closed", f"{other.url}/?x={other.url}", "https://example.org/"):
            with pytest.raises(ForbiddenError, match="gets no secret"):
                desk.fetch(HttpRequest(url, headers={"authorization": "{{SECRET.token}}"}))
            with pytest.raises(ForbiddenError, match="gets no secret"):
                desk.render(RenderRequest(url, headers={"authorization": "{{SECRET.token}}"}))
        assert other.asked == []


def test_the_key_of_a_model_is_no_header(served: Application, scope: Scope, site: Site) -> None:
    parameters: dict[str, Any] = {"llm_api_key": "{{SECRET.model_key}}", "custom_headers": {"x": "{{SECRET.token}}"}}
    desk = served.services.desks.of(scope, {**parameters, "header_hosts": [site.host]}, NO_DESK)
    with pytest.raises(ForbiddenError, match="model_key"):
        desk.fetch(HttpRequest(site.url, headers={"x": "{{SECRET.model_key}}"}))


def test_hosts_are_read_from_the_parameters_alone() -> None:
    assert hosts_in({"header_hosts": ["Shop.Example", "b.example:8443"]}) == {"shop.example", "b.example:8443"}
    for other in (
        {},
        {"header_hosts": None},
        {"header_hosts": "a.example"},
        {"inner": {"header_hosts": ["a.example"]}},
    ):
        assert hosts_in(other) == frozenset()
    assert hosts_in({"header_hosts": ["a.example", 7, None]}) == {"a.example"}


def test_without_hosts_in_the_parameters_no_site_gets_a_secret(served: Application, scope: Scope, site: Site) -> None:
    parameters = {"start": site.url, "custom_headers": {"x": "{{SECRET.token}}"}}
    desk = served.services.desks.of(scope, parameters, NO_DESK)
    with pytest.raises(ForbiddenError, match="header_hosts does not name"):
        desk.fetch(HttpRequest(site.url, headers={"x": "{{SECRET.token}}"}))


def test_a_secret_for_a_host_that_the_operator_did_not_name_travels_encrypted(
    served: Application, scope: Scope
) -> None:
    desks = served.services.desks
    assert desks.encrypted("http://shop.example/x") == "https://shop.example/x"
    assert desks.encrypted("http://127.0.0.1:8080/x") == "http://127.0.0.1:8080/x"


def test_a_language_model_is_asked_with_the_callers_key(desk: ExtractionDesk) -> None:
    assert desk.generate(Generate("what is it?", api_key="{{SECRET.model_key}}")).text == "a fox"


def test_keys_are_given_as_secrets_only(desk: ExtractionDesk) -> None:
    with pytest.raises(BadRequestError, match=r"\{\{SECRET.name\}\}") as caught:
        desk.generate(Generate("x", api_key="sk-plain"))
    assert "sk-plain" not in str(caught.value)
    with pytest.raises(ForbiddenError, match="other"):
        desk.generate(Generate("x", api_key="{{SECRET.other}}"))


def test_a_secret_that_does_not_exist_is_an_error_that_names_it(served: Application, scope: Scope) -> None:
    desk = served.services.desks.of(scope, {"key": "{{SECRET.forgotten}}"}, NO_DESK)
    with pytest.raises(BadRequestError, match="forgotten"):
        desk.generate(Generate("x", api_key="{{SECRET.forgotten}}"))


def test_many_threads_ask_at_once(desk: ExtractionDesk, site: Site) -> None:
    together = threading.Barrier(2)  # an answer comes when two have asked

    def answer(asked: Asked) -> Reply:
        together.wait(120)
        return Reply(b"page")

    site.routes["/many"] = answer
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(desk.fetch(HttpRequest(f"{site.url}/many", timeout_s=120)).data))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"page"] * 8
    assert site.busiest > 1


@pytest.mark.parametrize("key", ["", "abc", "A" * 64, "../" * 21 + "a", "0" * 65])
def test_the_key_of_a_step_is_checked(desk: ExtractionDesk, key: str) -> None:
    with pytest.raises(BadRequestError, match="64 hex digits"):
        desk.recall(key)
    with pytest.raises(BadRequestError, match="64 hex digits"):
        desk.remember(key, b"x")


def test_a_step_beyond_all_measure_is_refused(desk: ExtractionDesk) -> None:
    with pytest.raises(BadRequestError, match="32 MiB"):
        desk.remember("0" * 64, bytes((32 << 20) + 1))


def test_secrets_are_found_wherever_parameters_name_them() -> None:
    assert secrets_in(PARAMETERS) == {"token", "model_key"}
    assert secrets_in({"a": "no {{SECRET.x}} inside", "b": [1, None, ("{{secrets.y}}",)]}) == {"y"}


def test_after_the_end_nothing_is_asked(tmp_path: Path) -> None:
    application = Application(tmp_path, workers=0)
    desk = application.services.desks.of(Scope("org_x", "ns_x"), {}, NO_DESK)
    application.close()
    with pytest.raises(UnavailableError, match="server stops"):
        desk.fetch(HttpRequest("https://example.org"))
