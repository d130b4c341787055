"""The relay with both its ends: a real `dicode relay serve`, a real trigger-engine behind it, and homes a test plays."""

from __future__ import annotations

import hashlib
import hmac
import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin

import msgspec
import psutil
import pytest
from tests.support.relay_desk import RelayProcess, answer, hear, token
from tests.support.system import System
from tests.support.trigger_desk import Desk
from tests.support.waiting import wait_for
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.server import ServerConnection, serve

from dicode.messages.kinds import Config, ConfigSource, Delivery, Relay, Request, Result, Route, Run, Source
from dicode.messages.task import Trigger
from dicode.process.clock import wall_ms
from dicode.relay.frames import MESSAGE_MAX, REPLACED, WAITING_MAX, Call, encode, read_reply
from dicode.trigger.webhook import BODY_MAX

pytestmark = pytest.mark.process
SECRET = b"s3cret-of-this-test"
TOKEN = token()
DENO = str(Path(sys.executable).parent / "deno")


def sign(body: bytes, secret: bytes = SECRET) -> dict[str, str]:
    return {"X-Hub-Signature-256": "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest(), "Content-Type": "application/json"}


def use(desk: Desk, relay: Relay | None) -> None:
    """As if dicode.yaml said so."""
    desk.write((Config(hooks_listen="127.0.0.1:0", relay=relay, epoch=str(wall_ms())), "dicode.yaml"))


def home_of(relay: RelayProcess, name: str = "home") -> Relay:
    return Relay(url=relay.url, name=name, token_env="RELAY_TOKEN")


def stands(desk: Desk, reason: str, name: str = "home") -> Route:
    def so() -> Route | None:
        route = desk.get(Route, f"relay:{name}")
        return route if route is not None and route.conditions[0].reason == reason else None

    route = wait_for(so, f"the relay's route says {reason}")
    assert route is not None
    return route


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    """Shared: it knows `home`, which is the desk's, and `other` and `third`, which tests play."""
    relay = RelayProcess(tmp_path_factory.mktemp("relay"), home=TOKEN, other="other-" + TOKEN, third="third-" + TOKEN, away="away-" + TOKEN)
    yield relay
    relay.close()


@pytest.fixture(scope="module")
def desk(relay: RelayProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    desk = Desk(tmp_path_factory.mktemp("home"), {"HOOK_SECRET": SECRET.decode(), "RELAY_TOKEN": TOKEN})
    desk.start("store", "trigger-engine")
    use(desk, home_of(relay))
    desk.register("signed", Trigger(webhook="/hooks/signed", webhook_secret="${HOOK_SECRET}"))
    desk.register("local", Trigger(webhook="/hooks/local"))
    desk.register("anyone", Trigger(webhook="/hooks/anyone", auth=False, methods=("GET", "POST")))
    desk.write(
        (
            Source(name="infra", spec=ConfigSource(name="infra", type="git", url="https://h/x", branch="main", webhook_secret_env="HOOK_SECRET")),
            "infra",
        )
    )
    desk.serves("/hooks/anyone")
    stands(desk, "Connected")
    yield desk
    desk.close()


# ── from a stranger to a run ──


def test_a_signed_webhook_through_the_relay_starts_a_run_and_gets_its_result(desk: Desk, relay: RelayProcess) -> None:
    body = b'{"ref":  "refs/heads/main"}'
    headers = {**sign(body), "X-GitHub-Delivery": "relayed-1", "X-Forwarded-For": "1.2.3.4, 203.0.113.7", "Connection": "close, X-Hop", "X-Hop": "1"}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(relay.call, "/home/hooks/signed", body, "POST", headers)
        run = desk.finish_next(result=Result('{"answer":42}'))
        answered = waiting.result()
    assert (answered.status, answered.json(), answered.headers["x-run-id"]) == (200, {"answer": 42}, run.id)
    assert run.input == body.decode()  # to the byte, or the signature would not hold
    record = wait_for(lambda: desk.get(Delivery, "signed:relayed-1"), "the delivery is recorded")
    assert record.remote == "203.0.113.7"  # said by the proxy beside the relay; here the test, on loopback, is that proxy


def test_a_push_through_the_relay_asks_for_a_sync(desk: Desk, relay: RelayProcess) -> None:
    body = b'{"ref": "refs/heads/main"}'
    answered = relay.call("/home/hooks/git/infra", body, headers={**sign(body), "X-GitHub-Event": "push"})
    assert answered.status == 202 and desk.get(Request, answered.json()["request"])


def test_a_wrong_signature_cannot_be_told_from_an_unknown_hook(desk: Desk, relay: RelayProcess) -> None:
    before = len(desk.all(Run))
    unknown = relay.call("/home/hooks/none", b"{}", headers=sign(b"{}"))
    wrong = relay.call("/home/hooks/signed", b"{}", headers=sign(b"{}", b"guess"))
    assert unknown.status == wrong.status == 404 and unknown.body == wrong.body and len(desk.all(Run)) == before


def test_what_is_open_because_only_this_machine_reaches_it_is_not_open_to_the_world(desk: Desk, relay: RelayProcess) -> None:
    assert desk.call("/hooks/local?wait=false").status == 202
    desk.finish_next()
    host = f"{relay.address[0]}:{relay.address[1]}"
    for headers in ({}, {"Origin": f"http://{host}"}, {"Host": "127.0.0.1:8080"}):
        assert relay.call("/home/hooks/local?wait=false", headers=headers).status == 404
    assert relay.call("/home/hooks/local", method="GET").status == 404
    assert relay.call("/home/hooks/anyone?wait=false").status == 202  # its author said `auth: false`
    desk.finish_next()


PAGE = b"""<!doctype html><html><head><title>x</title><link rel=stylesheet href="app.css"><script src="lib/a.mjs" type=module></script>
</head><body><img src="./logo.svg"></body></html>"""
FILES = {"index.html": PAGE, "app.css": b"p{}", "lib/a.mjs": b"1", "logo.svg": b"<svg/>", "task.py": b"secret", ".env": b"secret"}
BROWSER = """
globalThis.window = globalThis;
globalThis.document = {baseURI: Deno.args[0]};
(0, eval)(await (await fetch(Deno.args[1])).text());
console.log(JSON.stringify([dicode.hook, await dicode.run({n: 1}), await dicode.run({n: 2}, {wait: false})]));
"""


class Links(HTMLParser):
    """What a browser would fetch for a page, and where its base is."""

    def __init__(self, url: str, page: str) -> None:
        super().__init__()
        self.base, self.urls = url, list[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        link = next((value for name, value in attrs if name in ("src", "href") and value), None)
        if link is not None and tag == "base":
            self.base = urljoin(self.base, link)
        elif link is not None:
            self.urls.append(urljoin(self.base, link))


def test_a_page_finds_its_script_its_assets_and_its_hook_through_the_relay(desk: Desk, relay: RelayProcess, tmp_path: Path) -> None:
    desk.register("page", Trigger(webhook="/hooks/deep/page", auth=False), digest=desk.bundle(FILES))
    desk.serves("/hooks/deep/page")
    for at in ("", "/", "/index.html", "?x=1"):
        url = f"{relay.url}/home/hooks/deep/page{at}"
        links = Links(url, relay.call(url.removeprefix(relay.url), method="GET").body.decode())
        assert links.base == f"{relay.url}/home/hooks/deep/page/"
        fetched = [relay.call(link.removeprefix(relay.url), method="GET") for link in links.urls]
        assert [answered.status for answered in fetched] == [200] * 4
        assert fetched[0].body == desk.call("/dicode.js", method="GET").body
        assert [answered.body for answered in fetched[1:]] == [FILES[name] for name in ("app.css", "lib/a.mjs", "logo.svg")]
    for hidden in ("task.py", ".env", "none.css"):
        assert relay.call(f"/home/hooks/deep/page/{hidden}", method="GET").status == 404
    assert relay.call("/home/dicode.js", method="GET").status == 404, "only hook paths lead home"
    desk.register("local-page", Trigger(webhook="/hooks/local-page"), digest=desk.bundle(FILES))
    desk.serves("/hooks/local-page")
    assert relay.call("/home/hooks/local-page/dicode.js", method="GET").status == 404, "nor is what is open to this machine only"

    (tmp_path / "browser.mjs").write_text(BROWSER)
    words = [DENO, "run", "--no-prompt", "--no-lock", f"--location={url}", "--allow-net=127.0.0.1", str(tmp_path / "browser.mjs")]
    with subprocess.Popen(
        [*words, links.base, links.urls[0]], stdout=subprocess.PIPE, env={"DENO_DIR": str(tmp_path), "HOME": str(tmp_path)}
    ) as browser:
        run = desk.finish_next(result=Result('{"answer":42}'))
        assert browser.stdout is not None
        hook, result, accepted = json.loads(browser.stdout.read())
    assert (hook, result, json.loads(run.input)) == ("/home/hooks/deep/page", {"answer": 42}, {"n": 1})
    assert desk.finish_next().id == accepted["runId"]


def test_methods_and_queries_travel_as_they_are(desk: Desk, relay: RelayProcess) -> None:
    assert relay.call("/home/hooks/anyone", method="PUT").status == 405
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(relay.call, "/home/hooks/anyone?a=1%202&a=3", b"", "GET")
        run = desk.finish_next(result=Result("null", "text/plain", b"hello"))
        answered = waiting.result()
    assert json.loads(run.input) == {"a": ["1 2", "3"]} and (answered.body, answered.headers["content-type"]) == (b"hello", "text/plain")


def test_bodies_are_held_to_the_same_limit(desk: Desk, relay: RelayProcess) -> None:
    for size, status in ((BODY_MAX, 202), (BODY_MAX + 1, 413)):
        assert relay.call("/home/hooks/anyone?wait=false", b"x" * size, headers={"Content-Type": "text/plain"}).status == status
    run = desk.finish_next()
    assert (desk.settings.inputs / run.input_blob).stat().st_size == BODY_MAX + 2
    assert relay.call("/home/hooks/anyone", headers={"Content-Length": "10000000000"}).status == 413
    chunks = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
    head = b"POST /home/hooks/anyone HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert relay.raw(head + chunks * 5 + b"1\r\nx\r\n0\r\n\r\n")[9:12] == b"413"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/home",
        "/home/",
        "/home/hooks",
        "/home/hooks/",
        "/hooks/anyone",
        "/home/dicode.js",
        "/home/admin",
        "/home/../admin",
        "/home/hooks/../dicode.js",
    ]
    + [
        "/home/hooks/../../admin",
        "/home/hooks/%2e%2e/admin",
        "/home/hooks/%2e%2e/hooks/anyone",
        "/home/hooks/..%2f..%2fadmin",
        "/home/%2e%2e/hooks/anyone",
    ]
    + ["/home//hooks/anyone", "//home/hooks/anyone", "/home/hooks//anyone", "/home%2fhooks/anyone", "/ho%6de/hooks/anyone", "/home/hooks%2fanyone"]
    + [
        "/home/HOOKS/anyone",
        "/home/hooks/anyone%00",
        "/home/hooks/%5canyone",
        "/none/hooks/anyone",
        "/.relay",
        "/.relay/hooks/anyone",
        "/home/hooks/%ff",
    ]
    + ["/HOME/hooks/anyone", "/home/hooks/%252e%252e/anyone", "/home/hooks/" + "a" * 8000],
)
def test_only_hook_paths_lead_home(desk: Desk, relay: RelayProcess, path: str) -> None:
    before = len(desk.all(Run))
    assert relay.call(path + "?wait=false", b"x").status == 404
    assert len(desk.all(Run)) == before


HEAD = b"POST /home/hooks/anyone?wait=false HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", b"400"),
        (HEAD + b"X-A: " + b"a" * (17 << 10) + b"\r\n\r\n", b"431"),
        (HEAD + b"X: y\r\n" * 63 + b"\r\n", b"431"),
        (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b", b"415"),
        (HEAD.replace(b"POST", b"TRACE") + b"\r\n", b"405"),
        (HEAD.replace(b"POST", b"CONNECT") + b"\r\n", b"400"),
        (HEAD.replace(b"close", b"Upgrade") + b"Upgrade: websocket\r\n\r\n", b"400"),
        (b"GET /.relay HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"404"),
        (b"GET /.relay HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00", b"400"),
    ],
    ids=["TE and CL", "two lengths", "big header", "many headers", "gzip", "TRACE", "CONNECT", "upgrade elsewhere", "no upgrade", "no key", "tls"],
)
def test_what_is_not_proper_http_ends_at_the_relay(desk: Desk, relay: RelayProcess, request_: bytes, status: bytes) -> None:
    before = len(desk.all(Run))
    assert relay.raw(request_)[9:12] == status
    assert len(desk.all(Run)) == before


# ── homes ──


def test_two_homes_are_kept_apart_by_name(desk: Desk, relay: RelayProcess) -> None:
    with relay.home("other", "other-" + TOKEN) as line, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(relay.call, "/other/hooks/anyone?wait=false", b"body", "POST", {"X-A": "b"})
        call = hear(line)
        assert (call.method, call.target, call.body, call.remote) == ("POST", b"/hooks/anyone?wait=false", b"body", "127.0.0.1")
        headers = dict(call.headers)
        assert headers[b"x-a"] == b"b" and headers[b"x-forwarded-for"] == b"127.0.0.1" and b"connection" not in headers
        answer(line, call, 418, b"short and stout", content_type="text/tea", connection="close", content_length="3", set_cookie="a=b")
        answered = waiting.result()
    assert (answered.status, answered.body, answered.headers["set-cookie"]) == (418, b"short and stout", "a=b")
    assert relay.call("/home/hooks/none").status == 404


def test_an_absent_home_is_a_503_with_a_time_to_come_again(relay: RelayProcess) -> None:
    answered = relay.call("/away/hooks/x", b"x")
    assert answered.status == 503 and int(answered.headers["retry-after"]) > 0


@pytest.mark.parametrize(("name", "given"), [("home", "guess"), ("home", ""), ("nobody", TOKEN), ("other", TOKEN), ("", ""), ("home", TOKEN + "x")])
def test_a_wrong_token_is_refused_and_shown_nowhere(desk: Desk, relay: RelayProcess, name: str, given: str) -> None:
    with pytest.raises(InvalidStatus) as refused, relay.home(name, given):
        pass
    assert refused.value.response.status_code == 401
    relay.hears("unknown name or wrong token")
    assert relay.call("/home/hooks/none").status == 404  # the real one is still there
    assert TOKEN not in relay.said() and TOKEN not in desk.said()


def test_the_newest_connection_of_a_name_wins_and_the_older_hears_why(relay: RelayProcess) -> None:
    with relay.home("third", "third-" + TOKEN) as older, ThreadPoolExecutor(2) as pool:
        under_way = pool.submit(relay.call, "/third/hooks/x")
        hear(older)
        with relay.home("third", "third-" + TOKEN) as newer:
            with pytest.raises(ConnectionClosed) as closed:
                older.recv(15)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == REPLACED
            assert under_way.result().status == 502
            waiting = pool.submit(relay.call, "/third/hooks/x")
            answer(newer, hear(newer), 204)
            assert waiting.result().status == 204
    relay.hears("the newer connection takes the place of the older")


def test_a_silent_home_holds_up_nobody_else_and_its_callers_are_bounded(desk: Desk, relay: RelayProcess) -> None:
    with ThreadPoolExecutor(WAITING_MAX + 1) as pool:
        with relay.home("other", "other-" + TOKEN) as line:
            waiting = [pool.submit(relay.call, "/other/hooks/x", b"y") for _ in range(WAITING_MAX)]
            for _ in waiting:
                hear(line)
            more = relay.call("/other/hooks/x")
            assert more.status == 429 and int(more.headers["retry-after"]) > 0
            assert relay.call("/home/hooks/none", timeout=5).status == 404
        assert {each.result().status for each in waiting} == {502}  # it hung up while it had them


def test_a_home_that_does_not_even_read_costs_bounded_memory(desk: Desk, relay: RelayProcess) -> None:
    assert relay.process is not None
    process = psutil.Process(relay.process.pid)
    before = process.memory_info().rss
    with ThreadPoolExecutor(40) as pool, relay.home("other", "other-" + TOKEN) as line:
        first = pool.submit(relay.call, "/other/hooks/x", b"x" * BODY_MAX)
        call = hear(line)  # from here on nothing is read: the rest stands in the buffers
        waiting = [pool.submit(relay.call, "/other/hooks/x", b"x" * BODY_MAX) for _ in range(30)]
        wait_for(lambda: sum(each.done() for each in waiting) >= 25, "most are told to come again")
        assert {each.result().status for each in waiting if each.done()} <= {429, 503}
        assert process.memory_info().rss - before < 150 << 20
        assert relay.call("/home/hooks/none", timeout=5).status == 404
        answer(line, call, 200)
        assert first.result().status == 200
        line.close()
    assert {each.result().status for each in waiting} <= {429, 502, 503}


def test_a_home_that_talks_nonsense_is_hung_up_on(relay: RelayProcess) -> None:
    for nonsense in (b"", b"\xc1", b"x" * 1000, b"\x94" * 1_000_000, "text", b"\xdd\xff\xff\xff\xff"):
        with relay.home("third", "third-" + TOKEN) as line:
            line.send(nonsense)
            with pytest.raises(ConnectionClosed) as closed:
                line.recv(15)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008
    assert relay.process is not None and relay.process.poll() is None


def test_an_answer_to_nobody_is_passed_over(relay: RelayProcess) -> None:
    with relay.home("third", "third-" + TOKEN) as line, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(relay.call, "/third/hooks/x")
        call = hear(line)
        answer(line, msgspec.structs.replace(call, id=77), 500)
        answer(line, call, 204)
        answer(line, call, 500)
        assert waiting.result().status == 204


def test_a_killed_home_is_told_to_its_callers_at_once_and_is_back_by_itself(desk: Desk, relay: RelayProcess) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(relay.call, "/home/hooks/anyone", b"x")
        wait_for(lambda: [each for each in desk.all(Run) if each.status == "queued"], "the call's run is queued")
        desk.signal("trigger-engine", signal.SIGKILL)
        assert waiting.result().status == 502
    desk.finish_next()
    assert wait_for(lambda: relay.call("/home/hooks/none").status == 404, "the home is back")


# ── changes ──


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[RelayProcess, Desk]]:
    """Both, for a test that breaks one."""
    relay = RelayProcess(tmp_path, home=TOKEN, moved=TOKEN)
    desk = Desk(tmp_path, {"RELAY_TOKEN": TOKEN})
    try:
        desk.start("store", "trigger-engine")
        use(desk, home_of(relay))
        desk.register("anyone", Trigger(webhook="/hooks/anyone", auth=False))
        stands(desk, "Connected")
        yield relay, desk
    finally:
        relay.close()
        desk.close()


def test_a_relay_that_was_killed_is_found_again_and_it_is_said_once(own: tuple[RelayProcess, Desk]) -> None:
    relay, desk = own
    relay.end(signal.SIGKILL)
    route = stands(desk, "Away")
    assert route.conditions[0].type == "Connected" and route.conditions[0].status is False
    relay.start()
    assert stands(desk, "Connected").url == f"{relay.url}/home/hooks/"
    assert wait_for(lambda: relay.call("/home/hooks/anyone?wait=false").status == 202, "calls come through again")
    said = desk.said()
    assert said.count("relay: connected to") == 2 and said.count("connecting again") == 1 and TOKEN not in said


def test_a_relay_that_is_told_to_stop_lets_answers_that_are_under_way_be_given(own: tuple[RelayProcess, Desk]) -> None:
    relay, desk = own
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(relay.call, "/home/hooks/anyone")
        wait_for(lambda: [each for each in desk.all(Run) if each.status == "queued"], "the call's run is queued")
        ending = pool.submit(relay.end)
        desk.finish_next(result=Result('"done"'))
        assert waiting.result().json() == "done"
        assert ending.result() == 0


def test_a_home_that_is_told_to_stop_answers_what_is_under_way(own: tuple[RelayProcess, Desk]) -> None:
    relay, desk = own
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(relay.call, "/home/hooks/anyone")
        run = wait_for(lambda: next((each for each in desk.all(Run) if each.status == "queued"), None), "the call's run is queued")
        desk.signal("trigger-engine", signal.SIGTERM)
        answered = waiting.result()
    assert run is not None and (answered.status, answered.json()) == (202, {"runId": run.id})  # as a direct caller is answered


def test_a_relay_that_knows_us_not_is_a_condition_until_it_does(own: tuple[RelayProcess, Desk]) -> None:
    relay, desk = own
    relay.allow(home=token())
    stands(desk, "Withdrawn")
    route = stands(desk, "Refused")
    assert "token_env" in route.conditions[0].message and relay.call("/home/hooks/anyone").status == 503
    relay.allow(somebody=token())
    wait_for(lambda: relay.call("/home/hooks/anyone").status == 404, "the name is taken out")
    relay.tokens.write_text("home\n")
    relay.hears("tokens kept as they were")
    assert f"{relay.tokens}:1: a line is `name token`" in relay.said()
    relay.allow(home=TOKEN)
    stands(desk, "Connected")


def test_the_config_connects_moves_and_disconnects(own: tuple[RelayProcess, Desk]) -> None:
    relay, desk = own
    use(desk, home_of(relay, "moved"))
    stands(desk, "Connected", "moved")
    wait_for(lambda: desk.get(Route, "relay:home") is None, "the old name's route is gone")
    assert relay.call("/home/hooks/anyone").status == 503 and relay.call("/moved/hooks/anyone?wait=false").status == 202
    use(desk, None)
    wait_for(lambda: desk.get(Route, "relay:moved") is None, "there is no relay any more")
    wait_for(lambda: relay.call("/moved/hooks/anyone").status == 503, "the home is away")
    use(desk, Relay(url=relay.url, name="home", token_env="NOT_SET"))
    assert "NOT_SET" in stands(desk, "NoToken").conditions[0].message
    use(desk, home_of(relay))
    stands(desk, "Connected")


@pytest.fixture
def home_of_a_bad_relay(tmp_path: Path) -> Iterator[tuple[Desk, ServerConnection]]:
    """A real home, and in place of the relay a test that holds its line."""
    lines: queue.Queue[ServerConnection] = queue.Queue()
    done = threading.Event()

    def hold(line: ServerConnection) -> None:
        lines.put(line)
        done.wait()

    with serve(hold, "127.0.0.1", 0, max_size=MESSAGE_MAX, compression=None) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        desk = Desk(tmp_path, {"RELAY_TOKEN": TOKEN, "HOOK_SECRET": SECRET.decode()})
        try:
            desk.start("store", "trigger-engine")
            host, port = server.socket.getsockname()
            use(desk, Relay(url=f"http://{host}:{port}", name="home", token_env="RELAY_TOKEN"))
            desk.register("local", Trigger(webhook="/hooks/local", methods=("GET", "POST")), digest=desk.bundle({"index.html": b"<p>secret"}))
            desk.register("signed", Trigger(webhook="/hooks/signed", webhook_secret="${HOOK_SECRET}"))
            desk.serves("/hooks/signed")
            yield desk, lines.get(timeout=15)
        finally:
            done.set()
            desk.close()
            server.shutdown()
            serving.join()


def test_a_relay_that_means_ill_gets_no_further_than_a_stranger(home_of_a_bad_relay: tuple[Desk, ServerConnection]) -> None:
    desk, line = home_of_a_bad_relay
    targets = [
        b"/dicode.js",
        b"/",
        b"",
        b"/hooks",
        b"/hooks/../dicode.js",
        b"/hooks/%2e%2e/dicode.js",
        b"/hooks/local",
        b"/hooks/local/",
        b"http://127.0.0.1/hooks/local",
    ]
    targets += [
        b"/hooks/signed",
        b"hooks/local",
        b"/hooks/local?wait=false",
        b"/hooks/\xff\x00",
        b"/hooks/git/../local",
        b"//hooks/local",
        b"?",
        b"/hooks/local#x",
    ]
    lies = ((b"host", b"127.0.0.1:8080"), (b"origin", b"http://127.0.0.1:8080"), (b"x-forwarded-for", b"127.0.0.1"), (b"dicode.relayed", b""))
    for method in ("GET", "POST", "TRACE", "G\r\nT"):
        for target in targets:
            line.send(encode(Call(7, method, target, lies, b"{}", "127.0.0.1")))
            message = line.recv(15)
            assert isinstance(message, bytes)
            assert read_reply(message).status in (404, 405), (method, target)
    line.send(encode(Call(8, "POST", b"/hooks/signed", ((b"content-length", b"many"),), b"", "x")))
    message = line.recv(15)
    assert isinstance(message, bytes) and read_reply(message).status == 404
    assert desk.all(Run) == []


def test_two_homes_of_one_name_do_not_fight_all_day(own: tuple[RelayProcess, Desk]) -> None:
    relay, desk = own
    with relay.home("home", TOKEN) as thief:
        stands(desk, "Replaced")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(relay.call, "/home/hooks/x")
            answer(thief, hear(thief), 204)
            assert waiting.result().status == 204
    assert "give each its own name" in desk.said()


def test_from_dicode_yaml_to_a_run_and_back_out_of_it(tmp_path: Path, system: System) -> None:
    """Everything real: `relay:` is written, a task is called through it, `relay:` is taken out again."""
    relay = RelayProcess(tmp_path, home=TOKEN)
    hook = "name: hi\nruntime: shell\ntrigger: {webhook: /hooks/hi, webhook_secret: '${HOOK_SECRET}'}\n"
    try:
        system.write_task("hi", hook, task_sh='#!/bin/sh\necho "{\\"token\\": \\"$RELAY_TOKEN\\"}" > "$DICODE_RESULT"\n')
        system.up(RELAY_TOKEN=TOKEN, HOOK_SECRET=SECRET.decode())
        system.hears("ready: 1 task")
        line = f'relay: {{url: "{relay.url}", name: home, token_env: RELAY_TOKEN}}\n'
        system.write_config(line)
        system.hears(f"relay: connected to {relay.url} as home")
        answered = relay.call("/home/hooks/hi", b"{}", headers=sign(b"{}"))
        assert (answered.status, answered.json()) == (200, {"token": ""})  # and the task knows nothing of it
        assert relay.call("/home/hooks/hi", b"{}", headers=sign(b"{}", b"guess")).status == 404
        routes = {route["task"]: route for route in system.get("routes")}
        assert routes["relay:home"]["url"] == f"{relay.url}/home/hooks/"
        system.write_config(line.replace(relay.url, "http://relay.example.org"))
        system.hears("'url' must be like https://")
        assert relay.call("/home/hooks/hi", b"{}", headers=sign(b"{}")).status == 200  # the last good config stays
        system.write_config()
        system.hears("relay: disconnected")
        assert relay.call("/home/hooks/hi").status == 503 and TOKEN not in system.said()
    finally:
        relay.close()


# ── the command ──


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("home\n", ":1: a line is `name token`, two words, not 1"),
        ("# x\nhome a b\n", ":2: a line is `name token`, two words, not 3"),
        ("a t\nhome s3cr3t-1\n\nhome s3cr3t-2\n", ":4: 'home' has a token in line 2 already"),
        ("../x s3cr3t\n", ":1: the first word must be a home's name"),
        ("home s3cr3t\x01\n", ":1: the token of 'home' must be printable"),
        ("# nobody\n", ": no line says `name token`"),
    ],
)
def test_a_bad_tokens_file_is_a_line_and_exit_2(tmp_path: Path, text: str, told: str) -> None:
    import subprocess
    import sys

    file = tmp_path / "tokens"
    file.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "dicode", "relay", "serve", "--listen", "127.0.0.1:0", "--tokens", str(file)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2 and f"{file}{told}" in done.stderr and done.stderr.count("\n") == 1 and "s3cr3t" not in done.stderr
    bad = subprocess.run(
        [sys.executable, "-m", "dicode", "relay", "serve", "--listen", "8090", "--tokens", str(file)], capture_output=True, text=True, timeout=30
    )
    assert bad.returncode == 2 and "--listen: '8090' is no address" in bad.stderr
