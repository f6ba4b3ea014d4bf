"""One running Chromium, driven over a pipe, whose only way out is a proxy of ours.

It runs in its own process group, as nobody where the server runs as root, with a fresh profile for every visit, and is
killed when its time or memory is over. Pictures, films and fonts are not loaded; nothing is downloaded or asked.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mediatheca.flows.outside.devtools import BrowserGoneError, DevTools, Event, RefusalError
from mediatheca.kernel.errors import BadRequestError, MediathecaError, UnavailableError, ValidationError
from mediatheca.kernel.outside import HttpAnswer, RenderRequest
from mediatheca.stores.fetch import Fetcher, FetchFailedError
from mediatheca.stores.fetch.proxy import FetchProxy, Visit

PROGRAMS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
HOW = "no browser is installed: install Chromium (Debian: apt-get install chromium), or read pages without JavaScript"
MAX_HTML = 8 << 20
MAX_LOADED = 32 << 20
"""Bytes that one page may load, with everything it asks for."""
MEMORY_MB = 1536
START_S = 30.0
QUIET_SHARE = 0.7
"""Of the time: a page that has not come to rest by then is taken as it is."""
_LAUNCH = Path(__file__).with_name("browser_launch.py")
_FOLDER = "mediatheca-browser-"
_STALE_S = 24 * 3600.0
_NO_SANDBOX = "--no-sandbox"
_UNWANTED = ("Image", "Media", "Font", "Ping")
_AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36 mediatheca"
_PROXY_EVEN_HERE = "<-loopback>"
"""Nothing goes past the proxy, not even what is on this machine."""
# The proxy given here is nobody: only pages, in contexts of their own, get one. So the browser itself calls no one.
_FLAGS = (
    "--headless=new", "--remote-debugging-pipe", "--no-first-run", "--no-default-browser-check", "--disable-gpu",
    "--disable-dev-shm-usage", "--disable-extensions", "--disable-sync", "--disable-background-networking",
    "--disable-component-update", "--disable-default-apps", "--disable-breakpad", "--disable-crash-reporter",
    "--disable-quic", "--disable-file-system", "--disable-notifications", "--disable-domain-reliability",
    "--disable-client-side-phishing-detection", "--disable-remote-fonts", "--disable-software-rasterizer",
    "--metrics-recording-only", "--mute-audio", "--no-pings", "--no-service-autorun", "--password-store=basic",
    "--renderer-process-limit=2", "--js-flags=--max-old-space-size=512", "--window-size=1280,1600",
    "--webrtc-ip-handling-policy=disable_non_proxied_udp", "--block-new-web-contents",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",  # its older name
    "--disable-features=Translate,OptimizationHints,MediaRouter,AutofillServerCommunication,DialMediaRouteProvider",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--proxy-server=127.0.0.1:1",
    f"--proxy-bypass-list={_PROXY_EVEN_HERE}",
)  # fmt: skip
_HTML = "document.documentElement ? document.documentElement.outerHTML.slice(0, {limit}) : ''"
_PAGES = frozenset({"text/html", "application/xhtml+xml"})
log = logging.getLogger(__name__)


def program() -> str | None:
    """The browser of this machine; None where there is none."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


@dataclass(slots=True)
class _Page:
    """What is known of the page being visited."""

    frame: str
    origin: tuple[str, str]
    headers: Mapping[str, str]
    loader: str = ""
    quiet: set[str] = field(default_factory=set)
    """Loads of the main frame that came to rest."""
    responses: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What answered each load of the main frame; a download is one that never becomes the page."""


class Chromium:
    """A browser that runs, with its proxy; for one thread at a time.

    Raises:
        UnavailableError: none is installed, or it does not start.
    """

    def __init__(self, fetcher: Fetcher) -> None:
        found = program()
        if found is None:
            raise UnavailableError(HOW)
        self.visits, self.idle_since = 0, 0.0
        self._proxy = FetchProxy(fetcher)
        try:
            self._running = _Running(found)
        except UnavailableError:
            self._proxy.close()
            raise
        try:
            self._running.tools.call("Browser.getVersion", time.monotonic() + START_S)
        except (BrowserGoneError, RefusalError) as error:
            said = self._running.last_words()
            self.close()
            raise UnavailableError(f"the browser {found} does not start: {error}; {said}") from error

    def visit(self, url: str, request: RenderRequest) -> HttpAnswer:
        """The page at a checked address. See `Browser.render`."""
        self.visits += 1
        visit = self._proxy.begin(timeout_s=request.timeout_s, max_bytes=MAX_LOADED)
        over = threading.Event()
        threading.Thread(target=self._running.watch, args=(over,), name="browser-memory", daemon=True).start()
        try:
            return self._visited(url, request, visit)
        except (BrowserGoneError, RefusalError) as error:
            said = self._running.ended or str(error)
            raise FetchFailedError(f"url: no page within {request.timeout_s:g} s of the browser: {said}") from error
        finally:
            over.set()
            self._proxy.end()

    def close(self) -> None:
        self._running.close()
        self._proxy.close()

    def _visited(self, url: str, request: RenderRequest, visit: Visit) -> HttpAnswer:
        deadline, tools = visit.deadline, self._running.tools
        out = {"proxyServer": f"127.0.0.1:{self._proxy.port}", "proxyBypassList": _PROXY_EVEN_HERE}
        context = tools.call("Target.createBrowserContext", deadline, **out)["browserContextId"]
        try:
            tools.call("Browser.setDownloadBehavior", deadline, behavior="deny", browserContextId=context)
            made = tools.call("Target.createTarget", deadline, url="about:blank", browserContextId=context)
            found = tools.call("Target.attachToTarget", deadline, targetId=made["targetId"], flatten=True)
            page = _Page(made["targetId"], _origin(url), dict(request.headers))
            return _Reading(tools, found["sessionId"], page, visit).read(url, request)
        finally:
            tools.hear = _deaf
            with contextlib.suppress(BrowserGoneError, RefusalError):
                tools.call("Target.disposeBrowserContext", time.monotonic() + 5.0, browserContextId=context)


class _Reading:
    """Reading one page in its own tab."""

    def __init__(self, tools: DevTools, session: str, page: _Page, visit: Visit) -> None:
        self._tools, self._session, self._page, self._visit = tools, session, page, visit
        tools.hear = self._heard

    def read(self, url: str, request: RenderRequest) -> HttpAnswer:
        page = self._page
        self._ask("Page.enable")
        self._ask("Page.setLifecycleEventsEnabled", enabled=True)
        self._ask("Network.enable", maxTotalBufferSize=1 << 20, maxResourceBufferSize=1 << 19)
        kinds = ("Document", *_UNWANTED)
        self._ask("Fetch.enable", patterns=[{"urlPattern": "*", "resourceType": kind} for kind in kinds])
        began = self._ask("Page.navigate", url=url)
        if began.get("errorText"):
            raise _failed(url, str(began["errorText"]), self._visit)
        page.loader = str(began.get("loaderId") or page.loader)
        left = self._visit.deadline - time.monotonic()
        self._tools.listen(time.monotonic() + left * QUIET_SHARE, lambda: page.loader in page.quiet)
        world = self._ask("Page.createIsolatedWorld", frameId=page.frame, worldName="reader")
        limit = min(request.max_bytes, MAX_HTML)
        html = self._value(_HTML.format(limit=limit), world)
        return _answered(page, self._value("location.href", world), html, limit)

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        return self._tools.call(method, self._visit.deadline, self._session, **params)

    def _value(self, expression: str, world: Mapping[str, Any]) -> str:
        """A text, read by a script that the page's own scripts cannot reach."""
        there = {"contextId": world["executionContextId"], "returnByValue": True}
        found = self._ask("Runtime.evaluate", expression=expression, **there)
        return str((found.get("result") or {}).get("value") or "")

    def _heard(self, event: Event) -> None:
        if event.get("sessionId") != self._session:
            return
        method, params = str(event.get("method")), event.get("params") or {}
        if method == "Fetch.requestPaused":
            self._paused(params)
        elif method == "Page.javascriptDialogOpening":
            self._tell("Page.handleJavaScriptDialog", accept=False)
        elif method == "Page.frameNavigated" and params["frame"].get("id") == self._page.frame:
            self._page.loader = str(params["frame"].get("loaderId") or self._page.loader)
        elif params.get("frameId") == self._page.frame:
            self._noted(method, params)

    def _noted(self, method: str, params: Mapping[str, Any]) -> None:
        """What happens to the main frame."""
        loader = str(params.get("loaderId"))
        if method == "Page.lifecycleEvent" and params.get("name") == "networkIdle":
            self._page.quiet.add(loader)
        elif method == "Network.responseReceived" and params.get("type") == "Document":
            self._page.responses[loader] = dict(params.get("response") or {})

    def _paused(self, params: Mapping[str, Any]) -> None:
        """Pages and frames go on, with the caller's headers to their own site; the rest is not loaded."""
        request, ident = params.get("request") or {}, params.get("requestId")
        if params.get("resourceType") != "Document":
            self._tell("Fetch.failRequest", requestId=ident, errorReason="BlockedByClient")
            return
        more: dict[str, Any] = {}
        if self._page.headers and _origin(str(request.get("url"))) == self._page.origin:
            sent = {str(name).lower(): value for name, value in (request.get("headers") or {}).items()}
            sent |= {name.lower(): value for name, value in self._page.headers.items()}
            more["headers"] = [{"name": name, "value": value} for name, value in sent.items()]
        self._tell("Fetch.continueRequest", requestId=ident, **more)

    def _tell(self, method: str, **params: Any) -> None:
        self._tools.tell(method, self._visit.deadline, self._session, **params)


class _Running:
    """The processes of a browser, their folder and the pipe to them."""

    def __init__(self, found: str) -> None:
        self.ended = ""
        """Why it was killed."""
        _sweep()
        self._folder = tempfile.mkdtemp(prefix=_FOLDER)
        ours, theirs = _pipes()
        try:
            self._process = _start(found, self._folder, theirs)
        except OSError as error:
            for descriptor in ours:
                os.close(descriptor)
            shutil.rmtree(self._folder, ignore_errors=True)
            raise UnavailableError(f"the browser {found} cannot be started: {error}") from error
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        self.tools = DevTools(*ours)

    def watch(self, over: threading.Event) -> None:
        """Kill a browser that grows too large, until `over`; whoever waits for it hears that it has ended."""
        while not over.wait(0.25):
            if _memory_of_group(self._process.pid) > MEMORY_MB << 20:
                self.ended = f"it took more than {MEMORY_MB:,} MB"
                log.warning("a browser was ended: it took more than %d MB for one page", MEMORY_MB)
                self._kill()
                return

    def last_words(self) -> str:
        """The end of what it wrote, once it is dead."""
        self._kill()
        self._process.wait()
        text = (Path(self._folder) / "said").read_bytes()[-8192:].decode("utf-8", "replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1][-300:] if lines else "it says nothing"

    def close(self) -> None:
        self._kill()
        self._process.wait()
        self.tools.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


def _sweep() -> None:
    """Remove the folders that servers left behind when they were killed: no browser lives for a day."""
    oldest = time.time() - _STALE_S
    for left in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        with contextlib.suppress(OSError):
            if left.lstat().st_mtime < oldest:
                shutil.rmtree(left, ignore_errors=True)


def _pipes() -> tuple[tuple[int, int], tuple[int, int]]:
    """Our ends (reading, writing) and theirs; theirs are above the two numbers that a browser looks for."""
    (in_read, in_write), (out_read, out_write) = os.pipe(), os.pipe()
    theirs = tuple(fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 10) for each in (in_read, out_write))
    os.close(in_read)
    os.close(out_write)
    return (out_read, in_write), (theirs[0], theirs[1])


def _start(found: str, folder: str, theirs: tuple[int, int]) -> subprocess.Popen[bytes]:
    flags = [*_FLAGS, f"--user-agent={_AGENT}", f"--user-data-dir={folder}/profile"]
    if not _can_sandbox():
        log.warning("this machine lets nobody make user namespaces: the browser runs without its own sandbox")
        flags.append(_NO_SANDBOX)
    launch = [sys.executable, "-I", "-S", str(_LAUNCH), *map(str, theirs), folder]
    environment = {"HOME": folder, "PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"}
    with open(Path(folder) / "said", "wb") as said:
        # The command is ours; no page and no caller has a part in it. Nothing of our environment goes along.
        return subprocess.Popen(  # noqa: S603
            [*launch, found, *flags, "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env=environment,
            pass_fds=theirs,
            start_new_session=True,
        )


def _can_sandbox() -> bool:
    """Whether an ordinary user may make a user namespace, which the browser's sandbox is built of."""
    for path, refusing in (
        ("/proc/sys/user/max_user_namespaces", "0"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
    ):
        with contextlib.suppress(OSError):
            if Path(path).read_text().strip() == refusing:
                return False
    return True


def _memory_of_group(group: int) -> int:
    """Bytes in memory of all processes of a group; shared pages count once for each."""
    total, page = 0, os.sysconf("SC_PAGE_SIZE")
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                if int(Path(f"/proc/{entry.name}/stat").read_text().rpartition(")")[2].split()[2]) == group:
                    resident, shared = Path(f"/proc/{entry.name}/statm").read_text().split()[1:3]
                    total += (int(resident) - int(shared)) * page
    return total


def _deaf(event: Event) -> None:
    """Between two pages nothing is listened to."""


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _failed(url: str, reason: str, visit: Visit) -> MediathecaError:
    """What our proxy refused says more than what the browser made of it."""
    if visit.refusals:
        host = urlsplit(url).hostname or ""
        told = visit.refusals.get(host) or next(iter(visit.refusals.values()))
        return ValidationError(told) if "refused" in told else FetchFailedError(told)
    return FetchFailedError(f"url: the browser cannot load the page ({reason}); check the address, try again later")


def _answered(page: _Page, where: str, html: str, limit: int) -> HttpAnswer:
    response = page.responses.get(page.loader, {})
    kind = str(response.get("mimeType") or "text/html").lower()
    if kind not in _PAGES:
        raise BadRequestError(f"url: what is there is '{kind[:60]}', not a web page")
    data = html.encode("utf-8", "replace")[:limit]
    final = where if where.startswith(("http://", "https://")) else str(response.get("url") or where)
    headers = {"content-type": "text/html; charset=utf-8"}
    return HttpAnswer(int(response.get("status") or 200), headers, data, "text/html", final)
