"""The hooks listener from the outside: a real store, a real keeper, real sockets."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.support.trigger_desk import Desk
from tests.support.waiting import wait_for

from dicode.messages.kinds import Delivery, Result, Route, Run, Task
from dicode.messages.task import Param, Trigger
from dicode.process.blobs import Bundles
from dicode.process.inputs import INLINE
from dicode.trigger.webhook import BODY_MAX

pytestmark = pytest.mark.process
SECRET = b"s3cret-of-this-test"
JSON = {"Content-Type": "application/json"}


def sign(body: bytes, secret: bytes = SECRET) -> dict[str, str]:
    return {"X-Hub-Signature-256": "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """Shared: its hooks are /hooks/open, /hooks/signed and /hooks/page."""
    desk = Desk(tmp_path_factory.mktemp("hooks"), {"HOOK_SECRET": SECRET.decode()})
    desk.start("store", "trigger-engine")
    desk.configure()
    desk.register("open", Trigger(webhook="/hooks/open"), params=(Param(name="n", type="number"),))
    desk.register("signed", Trigger(webhook="/hooks/signed", webhook_secret="${HOOK_SECRET}"))
    desk.register("unknown", Trigger(webhook="/hooks/unknown", webhook_secret="${NO_SUCH_VARIABLE}"))
    desk.serves("/hooks/signed")
    yield desk
    desk.close()


def runs(desk: Desk, task: str) -> list[Run]:
    return [run for run in desk.all(Run) if run.task == task]


def test_an_accepted_call_is_a_durable_run(desk: Desk) -> None:
    answer = desk.call("/hooks/open?wait=false", b'{"n": 1, "x": 2}', headers=JSON)
    assert answer.status == 202
    run = desk.get(Run, answer.json()["runId"])
    assert run is not None and run.input == '{"n": 1, "x": 2}' and run.params == {"n": "1"}
    desk.finish_next()


def test_the_caller_gets_the_result_of_its_run(desk: Desk) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(desk.call, "/hooks/open", b"hello", "POST", {"Content-Type": "text/plain"})
        run = desk.finish_next(result=Result('{"answer":42}'))
        answer = waiting.result()
    assert (answer.status, answer.json(), answer.headers["x-run-id"]) == (200, {"answer": 42}, run.id)
    assert run.input == '"hello"'


@pytest.mark.parametrize(("status", "code"), [("failed", 500), ("timed_out", 504)])
def test_a_run_that_failed_says_so_without_its_log(desk: Desk, status: str, code: int) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(desk.call, "/hooks/open")
        run = desk.finish_next(status, error="it broke")  # type: ignore[arg-type]
        answer = waiting.result()
    assert answer.status == code and answer.json() == {"runId": run.id, "status": status, "error": "it broke"}


def test_what_cannot_be_param_or_json_is_refused_before_anything_runs(desk: Desk) -> None:
    before = len(desk.all(Run))
    assert desk.call("/hooks/open", b'{"n": "many"}', headers=JSON).status == 422
    assert desk.call("/hooks/open", b'{"n": ', headers=JSON).status == 400
    assert desk.call("/hooks/open", b"[" * 1_000_000, headers=JSON).status == 400
    assert desk.call("/hooks/open", b"x", headers={"Content-Encoding": "gzip"}).status == 415
    assert desk.call("/hooks/open", method="GET").status == desk.call("/hooks/open", method="PUT").status == 405
    assert len(desk.all(Run)) == before


@pytest.mark.parametrize(
    "path",
    [
        "/hooks/none",
        "/",
        "/hooks",
        "/hooks/unknown",
        "/hooks/signed/../open",
        "/hooks/%2e%2e/open",
        "/hooks/open%00",
        "//hooks/open",
        "/hooks//open",
        "/hooks/" + "a" * 8000,
    ],
)
def test_a_path_that_is_no_hook_is_not_found(desk: Desk, path: str) -> None:
    assert desk.call(path, b"x").status == 404


def test_an_unauthorised_call_cannot_be_told_from_an_unknown_path(desk: Desk) -> None:
    body = b'{"a": 1}'
    good = sign(body)["X-Hub-Signature-256"]
    unknown = desk.call("/hooks/none", body)
    for signature in (
        "",
        good[:-1],
        good.upper(),
        good[7:],
        "sha1=" + good[7:47],
        sign(body, b"other")["X-Hub-Signature-256"],
        sign(body + b"\n")["X-Hub-Signature-256"],
    ):
        assert desk.call("/hooks/signed", body, headers={"X-Hub-Signature-256": signature}) == unknown
        assert desk.call("/hooks/signed", b"no json", headers={**JSON, "X-Hub-Signature-256": signature}) == unknown  # it was not parsed
    twice = f"POST /hooks/signed HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 8\r\nX-Hub-Signature-256: {good}\r\nX-Hub-Signature-256: {good}\r\n\r\n"
    assert desk.raw(twice.encode() + body).startswith(b"HTTP/1.1 404 ")
    assert runs(desk, "signed") == []
    assert desk.call("/hooks/signed?wait=false", body, headers=sign(body)).status == 202
    desk.finish_next()


def test_a_secret_may_name_whatever_a_task_knows(desk: Desk) -> None:
    desk.register("paths", Trigger(webhook="/hooks/paths", webhook_secret="${TASK_DIR}:${TASK_SET_DIR}:${DATADIR}:${HOME}:${HOOK_SECRET}"))
    task = desk.get(Task, "paths")
    assert task is not None
    desk.write((replace(task, set_dir="/sets/infra"), "paths"))
    folder = Bundles(desk.settings.bundles, desk.settings.trees).unpack(task.digest)
    secret = f"{folder}:/sets/infra:{desk.settings.data_dir}:{os.environ['HOME']}:{SECRET.decode()}".encode()
    wait_for(lambda: desk.call("/hooks/paths?wait=false", b"x", headers=sign(b"x", secret)).status == 202, "it is served")
    desk.finish_next()


def test_fifty_times_the_same_delivery_is_one_run(desk: Desk) -> None:
    body = b'{"delivery": true}'
    headers = {**sign(body), **JSON, "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958", "X-GitHub-Event": "push"}
    with ThreadPoolExecutor(25) as pool:
        answers = list(pool.map(lambda _: desk.call("/hooks/signed?wait=false", body, headers=headers), range(50)))
    assert {answer.status for answer in answers} == {202} and len({answer.body for answer in answers}) == 1
    run = answers[0].json()["runId"]
    delivery = wait_for(lambda: desk.get(Delivery, f"signed:{headers['X-GitHub-Delivery']}"), "the delivery is recorded")
    assert (delivery.run, delivery.event, delivery.bytes) == (run, "push", len(body))
    desk.finish_next()
    again = desk.call("/hooks/signed", body, headers=headers)
    assert again.status == 200 and again.headers["x-run-id"] == run


def test_the_body_limit_is_exact(desk: Desk) -> None:
    for size, status in ((BODY_MAX - 1, 202), (BODY_MAX, 202), (BODY_MAX + 1, 413)):
        answer = desk.call("/hooks/open?wait=false", b"x" * size, headers={"Content-Type": "text/plain"})
        assert answer.status == status
        if status == 202:
            run = desk.finish_next()
            assert run.input == "" and (desk.settings.inputs / run.input_blob).stat().st_size == size + 2  # the quotes of JSON text
    assert desk.call("/hooks/open", headers={"Content-Length": "10000000000"}).status == 413


def test_a_chunked_body_is_held_to_the_same_limit(desk: Desk) -> None:
    head = b"POST /hooks/open?wait=false HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
    assert desk.raw(head + chunk * 5 + b"0\r\n\r\n").startswith(b"HTTP/1.1 202 ")
    assert desk.finish_next().input_blob
    assert desk.raw(head + chunk * 5 + b"1\r\nx\r\n0\r\n\r\n").startswith(b"HTTP/1.1 413 ")


def test_a_big_input_travels_as_a_file(desk: Desk) -> None:
    for size, blob in ((INLINE - 2, False), (INLINE - 1, True)):
        desk.call("/hooks/open?wait=false", b"x" * size, headers={"Content-Type": "text/plain"})
        assert bool(desk.finish_next().input_blob) is blob


HEAD = b"POST /hooks/open?wait=false HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", b"400"),
        (HEAD + b"Content-Length: -1\r\n\r\n", b"400"),
        (HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n", b"400"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n", b"400"),
        (HEAD.replace(b"open?wait=false", b"none") + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * (1 << 20) + b"\r\nx\r\n0\r\n\r\n", b"404"),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\nContent-Encoding: gzip\r\n\r\n0\r\n\r\n", b"415"),
        (HEAD + b"X-A: " + b"a" * (17 << 10) + b"\r\n\r\n", b"431"),
        (HEAD + b"X-A: " + b"a" * (1 << 20), b"431"),
        (HEAD + b"X: y\r\n" * 63 + b"\r\n", b"431"),
        (HEAD + b"X: y\r\n" * 10_000 + b"\r\n", b"431"),
        (b"GET /" + b"a" * (20 << 10) + b" HTTP/1.1\r\n\r\n", b"431"),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET /hooks/open HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", b"400"),
        (b"TRACE /hooks/open HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"405"),
        (b"\x16\x03\x01\x02\x00\x01\x00", b"400"),
        (b"EHLO example.org\r\n\r\n", b"400"),
    ],
    ids=lambda value: value[:60].decode("latin-1") if len(value) < 10 else hashlib.sha256(value).hexdigest()[:6],
)
def test_what_is_not_proper_http_is_answered_in_a_line(desk: Desk, request_: bytes, status: bytes) -> None:
    before = len(desk.all(Run))
    assert desk.raw(request_)[9:12] == status
    assert len(desk.all(Run)) == before


def test_the_header_limits_are_exact(desk: Desk) -> None:
    request = HEAD.replace(b"/hooks/open?wait=false", b"/hooks/none")
    assert desk.raw(request + b"X: y\r\n" * 62 + b"\r\n")[9:12] == b"404"
    used = len("/hooks/none") + len("Host") + 5 + len("Connection") + 9
    assert desk.raw(request + b"X: " + b"y" * ((16 << 10) - used - 5) + b"\r\n\r\n")[9:12] == b"404"
    assert desk.raw(request + b"X: " + b"y" * ((16 << 10) - used - 4) + b"\r\n\r\n")[9:12] == b"431"


def test_a_page_of_another_site_cannot_fire_an_open_hook(desk: Desk) -> None:
    host, port = desk.address
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://evil.example:{port}", "Host": f"evil.example:{port}"},  # a name of theirs that leads here
        {"Sec-Fetch-Site": "cross-site"},  # as an image of their page is fetched
        {"Origin": f"http://{host}:{port}", "Sec-Fetch-Site": "same-site"},
    ):
        assert desk.call("/hooks/open?wait=false", headers=headers).status == 404, headers
    for headers in (
        {"Origin": f"http://{host}:{port}", "Sec-Fetch-Site": "same-origin"},
        {"Origin": f"http://localhost:{port}", "Host": f"localhost:{port}"},
        {"Host": "whatever.example"},  # a program says what it likes
    ):
        assert desk.call("/hooks/open?wait=false", headers=headers).status == 202, headers
        desk.finish_next()


def test_silent_and_slow_clients_do_not_keep_others_out(desk: Desk) -> None:
    crowd = [socket.create_connection(desk.address) for _ in range(300)]
    try:
        for client in crowd[::2]:
            client.send(b"POST /hooks/open HTTP/1.1\r\nHost: x\r\n")
        for _ in range(10):
            assert desk.call("/hooks/none", timeout=2).status == 404
    finally:
        for client in crowd:
            client.close()


def test_a_request_must_be_whole_within_ten_seconds(desk: Desk) -> None:
    with socket.create_connection(desk.address, timeout=15) as head, socket.create_connection(desk.address, timeout=15) as body:
        head.send(b"POST /hooks/open HTTP/1.1\r\nHost: x\r\n")
        body.send(b"POST /hooks/open HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
        pause = threading.Event()
        for _ in range(8):
            pause.wait(1)
            body.send(b"x")
        assert head.recv(100).startswith(b"HTTP/1.1 408 ") and body.recv(100).startswith(b"HTTP/1.1 408 ")


def test_a_hook_with_an_index_is_a_page_with_our_script_and_its_assets(desk: Desk) -> None:
    files = {
        "index.html": b"<head><title>x",
        "dicode.js": b"their own",
        "app.css": b"p{}",
        "task.js": b"secret",
        "lib/a.mjs": b"1",
        ".env": b"secret",
        "note.md": b"secret",
    }
    desk.register("page", Trigger(webhook="/hooks/page"), digest=desk.bundle(files))
    desk.serves("/hooks/page")
    page = desk.call("/hooks/page", method="GET")
    assert page.status == 200 and b'<base href="./page/"><script src="./dicode.js">' in page.body
    ours = desk.call("/dicode.js", method="GET")
    assert ours.headers["content-type"].startswith("text/javascript")
    assert desk.call("/hooks/page/dicode.js", method="GET").body == ours.body
    assert desk.call("/hooks/page/app.css", method="GET")[::2] == (200, b"p{}")
    assert desk.call("/hooks/page/lib/a.mjs", method="GET").status == 200
    for hidden in ("task.js", ".env", "note.md", "none.css", "../app.css", "%2e%2e/app.css", "lib/../app.css", "lib"):
        assert desk.call(f"/hooks/page/{hidden}", method="GET").status == 404, hidden
    assert desk.call("/hooks/page?wait=false").status == 202
    desk.finish_next()


# --- each with an installation of its own


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.close()


def test_overlap_and_suspension_are_told_to_the_caller(own: Desk) -> None:
    own.start("store", "trigger-engine")
    own.configure()
    own.register("one", Trigger(webhook="/hooks/one", respond="accepted"), overlap="skip")
    own.register("off", Trigger(webhook="/hooks/off"), suspended=True)
    own.serves("/hooks/off")
    assert own.call("/hooks/one").status == 202  # respond: accepted
    assert own.call("/hooks/one").status == 409
    answer = own.call("/hooks/off")
    assert answer.status == 503 and int(answer.headers["retry-after"]) > 0


def test_a_stopped_store_is_a_503_and_never_a_2xx(own: Desk) -> None:
    own.start("store", "trigger-engine")
    own.configure()
    own.register("h", Trigger(webhook="/hooks/h"))
    own.serves("/hooks/h")
    own.signal("store", signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: own.call("/hooks/h?wait=false"), range(24)))
    finally:
        own.signal("store", signal.SIGCONT)
    assert {answer.status for answer in answers} == {503}
    assert all(answer.headers["retry-after"] for answer in answers)
    assert wait_for(lambda: own.call("/hooks/h?wait=false").status == 202, "accepted again")


def test_killing_the_engine_refuses_no_connection_and_loses_no_accepted_run(own: Desk) -> None:
    own.start("store", "trigger-engine")
    own.configure()
    own.register("h", Trigger(webhook="/hooks/h"))
    own.serves("/hooks/h")
    address = own.address
    accepted: list[str] = []
    refused: list[str] = []
    done = threading.Event()

    def call() -> None:
        while not done.is_set():
            try:
                answer = own.call("/hooks/h?wait=false")
            except ConnectionRefusedError as error:
                refused.append(str(error))
            except (OSError, http.client.HTTPException):
                pass  # one that was under way
            else:
                if answer.status == 202:
                    accepted.append(answer.json()["runId"])

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for _ in range(5):
        seen = len(accepted)
        wait_for(lambda seen=seen: len(accepted) > seen + 20, "calls are accepted")  # type: ignore[misc]  # bound now
        own.signal("trigger-engine", signal.SIGKILL)
    seen = len(accepted)
    wait_for(lambda: len(accepted) > seen + 20, "calls are accepted after the last kill")
    done.set()
    for caller in callers:
        caller.join()
    assert refused == [] and own.address == address
    assert set(accepted) <= {run.id for run in own.all(Run)} and len(set(accepted)) == len(accepted)


def test_a_port_in_use_is_a_condition_and_is_taken_once_it_is_free(own: Desk) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        own.start("store", "trigger-engine")
        own.configure(f"127.0.0.1:{port}")
        own.register("h", Trigger(webhook="/hooks/h"))
        route = wait_for(lambda: own.get(Route, "h"), "there is a route")
        assert route.url == "" and [condition.type for condition in route.conditions] == ["PortInUse"]
    wait_for(lambda: (route := own.get(Route, "h")) and not route.conditions and route.url, "the port is ours", deadline=5)
    assert own.address == ("127.0.0.1", port)


def test_the_listener_moves_with_the_config_and_guards_open_hooks(own: Desk) -> None:
    own.start("store", "trigger-engine")
    own.configure()
    own.register("open", Trigger(webhook="/hooks/open"))
    own.register("anyone", Trigger(webhook="/hooks/anyone", auth=False))
    own.serves("/hooks/open")
    before = own.address
    own.configure("0.0.0.0:0")
    wait_for(lambda: own.address[0] == "0.0.0.0", "it has moved")
    assert own.address != before
    assert own.call("/hooks/open").status == 404 and own.call("/hooks/anyone?wait=false").status == 202
    route = wait_for(lambda: (found := own.get(Route, "open")) and found.conditions and found, "the route says why")
    assert route.conditions[0].type == "OpenHook"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(before, timeout=2)
