"""Pages after their JavaScript, through a real Chromium and the proxy with the guard."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import wait_for
from mediatheca.flows.outside.browser import Browser, lacking
from mediatheca.flows.outside.chromium import _memory_of_group, _sweep
from mediatheca.flows.outside.devtools import BrowserGoneError, DevTools
from mediatheca.kernel.errors import BadRequestError, UnavailableError, ValidationError
from mediatheca.kernel.outside import RenderRequest
from mediatheca.stores.fetch import Fetcher
from mediatheca.stores.fetch.proxy import MAX_CONNECTIONS
from outside_site import Asked, Reply, Site, a_site

APP = """<html><body><div id="root">loading</div><img src="/big.png"><script>
fetch("/data.json").then(r => r.json()).then(d => { document.getElementById("root").textContent = "Hello " + d.name; });
</script></body></html>"""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with a_site() as made:
        yield made


@pytest.fixture(scope="module")
def browser(site: Site) -> Iterator[Browser]:
    made = Browser(Fetcher(allow=site.host))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _fresh(site: Site) -> None:
    site.routes.clear()
    site.asked.clear()


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine takes its time to start a browser, and others wait for it."""
    monkeypatch.setattr("mediatheca.flows.outside.chromium.START_S", 240.0)
    monkeypatch.setattr("mediatheca.flows.outside.browser.BUSY_S", 240.0)


def shown(browser: Browser, url: str, **more: object) -> str:
    return browser.render(RenderRequest(url, **{"timeout_s": 60, **more})).data.decode()  # type: ignore[arg-type]


def test_a_page_is_what_its_scripts_make_of_it(browser: Browser, site: Site) -> None:
    site.html("/app", APP)
    site.routes["/data.json"] = Reply({"name": "fox"})
    answer = browser.render(RenderRequest(f"{site.url}/app", timeout_s=60))
    assert b"Hello fox" in answer.data
    assert (answer.status, answer.content_type, answer.final_url) == (200, "text/html", f"{site.url}/app")
    assert "/big.png" not in site.paths()
    assert all("mediatheca" in asked.headers["user-agent"] for asked in site.asked)


def test_redirects_statuses_and_history_are_told(browser: Browser, site: Site) -> None:
    site.routes["/old"] = Reply(status=302, headers={"location": "/new"})
    site.html("/new", "<script>history.pushState({}, '', '/pushed')</script>new")
    assert browser.render(RenderRequest(f"{site.url}/old", timeout_s=60)).final_url == f"{site.url}/pushed"
    site.routes["/gone"] = Reply(b"<p>gone</p>", 410, {"content-type": "text/html"})
    assert browser.render(RenderRequest(f"{site.url}/gone", timeout_s=60)).status == 410


def test_a_page_reaches_nothing_inside(browser: Browser, site: Site) -> None:
    with a_site() as inner:
        inner.routes["*"] = Reply(
            b"internal", headers={"content-type": "text/html", "access-control-allow-origin": "*"}
        )
        site.html(
            "/spy",
            f"""<body><p id=a></p><p id=b></p><iframe src="{inner.url}/frame"></iframe><script>
        const no = place => () => place.textContent = "refused";
        fetch("{inner.url}/x").then(r => r.text()).then(t => a.textContent = "got " + t).catch(no(a));
        fetch("http://169.254.169.254/latest/").then(r => r.text()).then(t => b.textContent = t).catch(no(b));
        new WebSocket("ws://127.0.0.1:{inner.port}/ws"); new Image().src = "file:///etc/passwd";
        </script></body>""",
        )
        html = shown(browser, f"{site.url}/spy")
        assert '<p id="a">refused</p><p id="b">refused</p>' in html
        assert "got internal" not in html
        assert inner.asked == []


def test_a_redirect_inside_is_refused_with_the_rule(browser: Browser, site: Site) -> None:
    site.routes["/go"] = Reply(status=302, headers={"location": "http://169.254.169.254/latest/"})
    with pytest.raises((BadRequestError, ValidationError), match="refused"):
        shown(browser, f"{site.url}/go")
    for url in (
        "http://127.0.0.1:1/",
        "file:///etc/passwd",
        "http://169.254.169.254/",
        "chrome://version",
        "about:blank",
    ):
        with pytest.raises(ValidationError):
            shown(browser, url)


def test_a_page_that_never_rests_is_read_as_it_is_and_one_that_hangs_is_given_up(browser: Browser, site: Site) -> None:
    site.html("/busy", "<p>there already</p><script>setInterval(() => fetch('/tick?' + Math.random()), 20)</script>")
    site.routes["/tick"] = Reply(b"")
    assert "there already" in shown(browser, f"{site.url}/busy", timeout_s=20)
    site.html("/hang", "<p>x</p><script>while (true) {}</script>")
    with pytest.raises(BadRequestError, match="no page within 5 s"):
        shown(browser, f"{site.url}/hang", timeout_s=5)
    site.html("/fine", "<p>again</p>")
    assert "again" in shown(browser, f"{site.url}/fine")


def test_dialogs_popups_and_downloads_stop_nothing(browser: Browser, site: Site) -> None:
    site.html(
        "/loud", "<p>there</p><script>alert(1); confirm(2); window.open('/popup'); location.href = '/file.bin'</script>"
    )
    site.routes["/file.bin"] = Reply(b"\0" * 1000, headers={"content-disposition": "attachment"})
    assert "there" in shown(browser, f"{site.url}/loud", timeout_s=20)


def test_what_is_no_page_is_refused(browser: Browser, site: Site) -> None:
    site.routes["/x.json"] = Reply({"a": 1})
    with pytest.raises(BadRequestError, match="application/json"):
        shown(browser, f"{site.url}/x.json")


def test_a_page_is_cut_at_the_bytes_that_are_wanted(browser: Browser, site: Site) -> None:
    site.html("/long", "<p>" + "long " * 100_000)
    assert len(browser.render(RenderRequest(f"{site.url}/long", 30, 5_000)).data) <= 5_000


def test_nothing_of_one_visit_is_there_in_the_next(browser: Browser, site: Site) -> None:
    site.html(
        "/keep",
        """<p id=p></p><script>
    p.textContent = "had " + localStorage.getItem("k") + document.cookie;
    localStorage.setItem("k", "secret"); document.cookie = "c=secret"</script>""",
    )
    for _ in range(2):
        assert "had null<" in shown(browser, f"{site.url}/keep")


def test_headers_go_to_the_page_and_to_no_other_site(browser: Browser, site: Site) -> None:
    with a_site() as other:
        made = Browser(Fetcher(allow=f"{site.host},{other.host}"))
        try:
            other.html("/x", "other")
            site.html("/h", f'<p>page</p><iframe src="{other.url}/x"></iframe>')
            shown(made, f"{site.url}/h", headers={"x-key": "1"})
        finally:
            made.close()
        assert site.asked[0].headers["x-key"] == "1"
        assert other.asked
        assert not any("x-key" in asked.headers for asked in other.asked)


def test_two_pages_at_once_do_not_meet(browser: Browser, site: Site) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def echo(asked: Asked) -> Reply:
        return Reply(f"<p>page {asked.path}</p>".encode(), headers={"content-type": "text/html"})

    site.routes["*"] = echo
    with ThreadPoolExecutor(4) as pool:
        pages = list(pool.map(lambda number: shown(browser, f"{site.url}/{number}"), range(4)))
    assert all(f"page /{number}<" in page for number, page in enumerate(pages))


def test_without_a_browser_it_is_said_how_to_get_one(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "install Chromium" in lacking()
    with pytest.raises(UnavailableError, match="install Chromium"):
        Browser(Fetcher(allow=site.host)).render(RenderRequest(f"{site.url}/x"))


def test_a_program_that_is_no_browser_is_found_out(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "chromium"
    fake.write_text("#!/bin/sh\necho 'it is broken' >&2\nexit 1\n")
    fake.chmod(0o755)
    tmp_path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(UnavailableError, match="does not start"):
        Browser(Fetcher(allow=site.host)).render(RenderRequest(f"{site.url}/x"))


def test_closing_leaves_no_process_and_no_folder(site: Site) -> None:
    site.html("/x", "x")
    made = Browser(Fetcher(allow=site.host))
    shown(made, f"{site.url}/x")
    running = made._idle[0]._running
    folder, group = Path(running._folder), running._process.pid
    assert folder.is_dir()
    made.close()
    assert not folder.exists()
    wait_for(lambda: _memory_of_group(group) == 0)  # what was killed needs a moment to be gone


def test_calls_between_browsers_go_past_the_proxy_to_nobody(browser: Browser, site: Site) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as near, socket.create_server(("127.0.0.1", 0)) as relay:
        near.bind(("127.0.0.1", 0))
        near.setblocking(False)
        relay.setblocking(False)
        stun, turn = near.getsockname()[1], relay.getsockname()[1]
        site.html(
            "/call",
            f"""<p id=p>calling</p><script>
        const servers = [{{urls: "stun:127.0.0.1:{stun}"}},
            {{urls: ["turn:127.0.0.1:{turn}?transport=tcp", "turn:127.0.0.1:{stun}"], username: "u", credential: "c"}}];
        const call = new RTCPeerConnection({{iceServers: servers}});
        call.onicegatheringstatechange = () => {{
            p.textContent = "gathering is " + call.iceGatheringState;
            if (call.iceGatheringState === "complete") clearInterval(busy);
        }};
        call.createDataChannel("x");
        call.createOffer().then(offer => call.setLocalDescription(offer));
        const busy = setInterval(() => fetch("/tick"), 50);
        </script>""",
        )
        site.routes["/tick"] = Reply(b"")
        assert "gathering is" in shown(browser, f"{site.url}/call", timeout_s=60)
        with pytest.raises(BlockingIOError):
            near.recv(100)
        with pytest.raises(BlockingIOError):
            relay.accept()


def test_events_without_end_do_not_outlast_the_time() -> None:
    (in_read, in_write), (out_read, out_write) = os.pipe(), os.pipe()
    tools = DevTools(out_read, in_write)

    def flood() -> None:
        with contextlib.suppress(BrokenPipeError):
            while True:
                os.write(out_write, b'{"method":"Network.x"}\0' * 1000)

    page = threading.Thread(target=flood, daemon=True)
    page.start()
    with pytest.raises(BrowserGoneError, match="in time"):
        tools.call("Runtime.evaluate", time.monotonic() + 0.3)
    tools.close()
    page.join(120)
    os.close(in_read)
    os.close(out_write)


def test_folders_of_browsers_that_were_killed_long_ago_are_removed(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tmp_path.chmod(0o755)
    old, young, other = tmp_path / "mediatheca-browser-a", tmp_path / "mediatheca-browser-b", tmp_path / "of-others"
    for folder in (old, young, other):
        folder.mkdir()
        (folder / "file").write_text("x")
    for folder in (old, other):
        os.utime(folder, (0, 0))
    _sweep()
    assert not old.exists()
    assert young.exists()
    assert other.exists()


def test_the_browser_itself_calls_nobody(browser: Browser, site: Site) -> None:
    site.html("/x", "<p>x</p>")
    made = Browser(Fetcher(allow=site.host))
    try:
        shown(made, f"{site.url}/x")
        proxy = made._idle[0]._proxy
        visit = proxy.begin(timeout_s=3, max_bytes=1 << 20)
        time.sleep(1)
        assert visit.refusals == {}
        assert visit.connections_left == MAX_CONNECTIONS
    finally:
        made.close()
