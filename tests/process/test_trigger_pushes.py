"""Push webhooks from the outside: a real store, a real trigger-engine, real sockets. The abuse is RELIABILITY 4.5 F 77-96."""

from __future__ import annotations

import hashlib
import hmac
import json
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import psutil
import pytest
from tests.support.strangers import Answered
from tests.support.trigger_desk import Desk
from tests.support.waiting import wait_for

from dicode.messages.kinds import ConfigSource, Delivery, Request, Route, Source
from dicode.messages.task import Trigger
from dicode.process.clock import wall
from dicode.trigger.push import RATE
from dicode.trigger.webhook import BODY_MAX

pytestmark = pytest.mark.process
SECRET = b"s3cret-of-the-pushes"
URL = "https://git.example/acme/tasks"
MAIN = json.dumps({"ref": "refs/heads/main", "after": "59b20b8d", "commits": [{"message": "say <nothing> of this"}]}).encode()
ids = count(1)


def hub(body: bytes, secret: bytes = SECRET) -> str:
    return "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()


def github(body: bytes = MAIN, delivery: str = "", event: str = "push") -> dict[str, str]:
    return {
        "X-Hub-Signature-256": hub(body),
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": delivery or f"delivery-{next(ids)}",
        "Content-Type": "application/json",
    }


def follow(desk: Desk, *names: str, **spec: object) -> None:
    """Sources that may be pushed to."""
    for name in names:
        given = {"branch": "main", "webhook_secret_env": "PUSH_SECRET", **spec}
        written = ConfigSource(name=name, type="git", url=f"{URL}-{name}", **given)  # type: ignore[arg-type]
        desk.write((Source(name=name, type="git", spec=written), name))
        wait_for(lambda name=name: desk.get(Route, f"source:{name}"), f"pushes for {name} are served")  # type: ignore[misc]  # bound now


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """Shared: pushes to `infra` are believed, `mute` has no secret, `quiet` asks for none; a neighbour answers at /hooks/next."""
    desk = Desk(tmp_path_factory.mktemp("pushes"), {"PUSH_SECRET": SECRET.decode(), "PUSH_EMPTY": ""})
    desk.start("store", "trigger-engine")
    desk.configure()
    follow(desk, "infra", "burst", "minute", "abuse")
    follow(desk, "mute", webhook_secret_env="PUSH_UNSET")
    desk.write((Source(name="quiet", spec=ConfigSource(name="quiet", type="git", url=URL)), "quiet"))
    desk.register("next", Trigger(webhook="/hooks/next"))
    desk.serves("/hooks/next")
    yield desk
    desk.close()


def requests(desk: Desk, source: str = "") -> list[Request]:
    return [request for request in desk.all(Request) if not source or request.target == source]


def neighbour_answers(desk: Desk) -> bool:
    return desk.call("/hooks/next", method="PUT", timeout=3).status == 405


def test_a_push_is_a_durable_request_for_a_sync(desk: Desk) -> None:
    before = wall()
    answer = desk.call("/hooks/git/infra", MAIN, headers=github(delivery="72d3162e-cc78"))
    assert answer.status == 202 and list(answer.json()) == ["request"]
    request = desk.get(Request, answer.json()["request"])
    assert request is not None and (request.verb, request.target, request.who) == ("source.sync", "infra", "push")
    assert request.args["delivery"] == "72d3162e-cc78" and before <= request.args["pushed_at"] <= wall() and request.answer is None
    record = desk.get(Delivery, "source:infra:72d3162e-cc78")
    assert record is not None and (record.run, record.event, record.bytes) == (request.token, "push", len(MAIN))


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Gitea-Signature": hub(MAIN)[7:], "X-Hub-Signature-256": hub(MAIN), "X-Gitea-Event": "push", "X-Gitea-Delivery": "gitea-1"},
        {"X-Gitea-Signature": hub(MAIN)[7:], "X-Gitea-Event": "push", "X-Gitea-Delivery": "gitea-2"},
        {"X-Gitlab-Token": SECRET.decode(), "X-Gitlab-Event": "Push Hook", "Idempotency-Key": "gitlab-1", "X-Gitlab-Event-UUID": "e"},
        {"X-Hub-Signature-256": hub(MAIN)},
    ],
    ids=["gitea", "old gitea", "gitlab", "generic"],
)
def test_every_git_host_may_push(desk: Desk, headers: dict[str, str]) -> None:
    answer = desk.call("/hooks/git/infra", MAIN, headers=headers)
    assert answer.status == 202 and desk.get(Request, answer.json()["request"])


def test_a_ping_and_a_push_elsewhere_are_fine_and_nothing_comes_of_them(desk: Desk) -> None:
    before = len(requests(desk))
    elsewhere = b'{"ref": "refs/heads/secret-branch"}'
    ping = desk.call("/hooks/git/infra", b'{"zen": "x"}', headers=github(b'{"zen": "x"}', "ping-1", "ping"))
    other = desk.call("/hooks/git/infra", elsewhere, headers=github(elsewhere))
    assert ping.status == other.status == 202
    assert ping.json()["request"] == other.json()["request"] == "" and b"secret-branch" not in other.body
    record = wait_for(lambda: desk.get(Delivery, "source:infra:ping-1"), "the ping is recorded")
    assert (record.run, record.event) == ("", "ping") and len(requests(desk)) == before


def test_a_delivery_that_came_to_nothing_may_come_to_something_later(desk: Desk) -> None:
    body = b'{"ref": "refs/heads/later"}'
    headers = github(body, "later-1")
    assert desk.call("/hooks/git/infra", body, headers=headers).json()["request"] == ""
    wait_for(lambda: desk.get(Delivery, "source:infra:later-1"), "it is recorded")
    follow(desk, "infra", branch="later")
    token = wait_for(lambda: desk.call("/hooks/git/infra", body, headers=headers).json()["request"], "the new branch is followed")
    assert desk.get(Request, token) and desk.call("/hooks/git/infra", body, headers=headers).json() == {"request": token}
    follow(desk, "infra")
    wait_for(lambda: desk.call("/hooks/git/infra", MAIN, headers=github()).json()["request"], "the old branch is followed again")


def test_one_push_reaches_another_source_of_the_same_url_by_either_hook(desk: Desk) -> None:
    staging = ConfigSource(name="staging", type="git", url=f"{URL}-infra", branch="staging")
    desk.write((Source(name="staging", type="git", spec=staging), "staging"))
    body = b'{"ref": "refs/heads/staging"}'
    assert wait_for(lambda: desk.call("/hooks/git/infra", body, headers=github(body)).json()["request"], "staging is followed")
    assert desk.call("/hooks/git/staging", body, headers=github(body)).status == 404  # it asked for no pushes of its own


def test_fifty_times_the_same_delivery_is_one_request(desk: Desk) -> None:
    headers = github(delivery="fifty")
    with ThreadPoolExecutor(25) as pool:
        answers = list(pool.map(lambda _: desk.call("/hooks/git/burst", MAIN, headers=headers), range(50)))
    assert {answer.status for answer in answers} == {202} and len({answer.body for answer in answers}) == 1
    assert [request.token for request in requests(desk, "burst")] == [answers[0].json()["request"]]
    again = desk.call("/hooks/git/burst", MAIN, headers=headers)
    assert again.body == answers[0].body and len(requests(desk, "burst")) == 1


def test_a_delivery_is_known_when_its_request_is_long_forgotten_and_across_a_restart(desk: Desk) -> None:
    headers = github(delivery="known")
    first = desk.call("/hooks/git/burst", MAIN, headers=headers)
    desk.delete("Request", first.json()["request"])
    assert desk.call("/hooks/git/burst", MAIN, headers=headers).body == first.body
    desk.signal("trigger-engine", signal.SIGKILL)
    assert wait_for(lambda: _or_none(desk, headers), "it answers again").body == first.body
    assert desk.get(Request, first.json()["request"]) is None


def _or_none(desk: Desk, headers: dict[str, str]) -> Answered | None:
    try:
        answer = desk.call("/hooks/git/burst", MAIN, headers=headers)
    except OSError:
        return None
    return answer if answer.status == 202 else None


def test_sixty_a_minute_pass_and_the_next_hears_when_to_come_again(desk: Desk) -> None:
    wrong = {**github(), "X-Hub-Signature-256": hub(MAIN, b"guess")}
    elsewhere = b'{"ref": "refs/heads/other"}'
    for _ in range(RATE + 10):
        assert desk.call("/hooks/git/minute", MAIN, headers=wrong).status == 404
    assert desk.call("/hooks/git/minute", elsewhere, headers=github(elsewhere)).status == 202
    headers = [github() for _ in range(RATE)]
    answers = [desk.call("/hooks/git/minute", MAIN, headers=each) for each in headers]
    assert {answer.status for answer in answers} == {202} and len({answer.body for answer in answers}) == RATE
    late = desk.call("/hooks/git/minute", MAIN, headers={**github(), "X-Forwarded-For": "203.0.113.9"})
    assert late.status == 429 and 0 < int(late.headers["retry-after"]) <= 60
    assert desk.call("/hooks/git/minute", MAIN, headers=headers[0]).body == answers[0].body  # what is known is no burden
    assert desk.call("/hooks/git/minute", elsewhere, headers=github(elsewhere)).status == 202
    assert desk.call("/hooks/git/burst", MAIN, headers=github()).status == 202  # a source of its own
    assert len(requests(desk, "minute")) == RATE


def test_a_missing_secret_is_said_once_and_answered_like_nothing_at_all(desk: Desk) -> None:
    unknown = desk.call("/hooks/git/none", MAIN, headers=github())
    assert desk.call("/hooks/git/mute", MAIN, headers=github()) == unknown and unknown.status == 404
    route = desk.get(Route, "source:mute")
    assert route is not None and [(each.type, each.reason) for each in route.conditions] == [("BadSecret", "UnknownVariable")]
    assert "PUSH_UNSET" in route.conditions[0].message
    follow(desk, "mute", webhook_secret_env="PUSH_UNSET", poll_interval=60_000)
    assert desk.said().count("source/mute: webhook_secret_env: PUSH_UNSET is not set") == 1


def test_a_route_comes_and_goes_with_the_wish_for_pushes(desk: Desk) -> None:
    follow(desk, "fleeting")
    host, port = desk.address
    route = desk.get(Route, "source:fleeting")
    assert route is not None and (route.url, route.methods) == (f"http://{host}:{port}/hooks/git/fleeting", ("POST",))
    assert desk.call("/hooks/git/fleeting/", MAIN, headers=github()).status == 202
    desk.write((Source(name="fleeting", type="git", spec=ConfigSource(name="fleeting", type="git", url=URL, branch="main")), "fleeting"))
    wait_for(lambda: desk.get(Route, "source:fleeting") is None, "the route is gone")
    assert desk.call("/hooks/git/fleeting", MAIN, headers=github()).status == 404


# ── abuse: F 77-96 ──


def bad_signatures() -> list[dict[str, str]]:
    good = hub(MAIN)
    hub_values = ["", "sha256=", good[:-1], good.upper(), good[7:], "sha256=" + good, good[:-1] + "g", hub(MAIN, b"of another task")]
    hub_values += [hub(MAIN + b"\n"), hub(MAIN + b"x"), hub(json.dumps(json.loads(MAIN), indent=1).encode()), hub(MAIN.decode().encode("utf-16"))]
    return [
        {},
        {"X-Hub-Signature": "sha1=" + hmac.new(SECRET, MAIN, "sha1").hexdigest()},
        *({"X-Hub-Signature-256": value} for value in hub_values),
        {"X-Gitea-Signature": good},
        {"X-Gitea-Signature": good[7:].upper()},
        {"X-Gitlab-Token": "guess"},
        {"X-Gitlab-Token": ""},
        {"X-Hub-Signature-256": good, "X-Gitea-Signature": "0" * 64},
        {"X-Hub-Signature-256": good, "X-Gitlab-Token": "guess"},
        {"X-Dicode-Timestamp": "1", "X-Hub-Signature-256": hub(b"1." + MAIN)},
    ]


def test_an_unauthorised_push_cannot_be_told_from_one_to_nowhere(desk: Desk) -> None:
    before = len(requests(desk))
    unknown = desk.call("/hooks/git/none", MAIN, headers=github())
    assert unknown.status == 404
    for bad in bad_signatures():
        headers = {**github(), **dict.fromkeys(("X-Hub-Signature-256",), ""), **bad}
        if "X-Hub-Signature-256" not in bad:
            del headers["X-Hub-Signature-256"]
        assert desk.call("/hooks/git/abuse", MAIN, headers=headers) == unknown, bad
    good = f"X-Hub-Signature-256: {hub(MAIN)}\r\n"
    for twice in (good + good, good + "X-Hub-Signature-256: sha256=0\r\n", "X-Hub-Signature-256: sha256=0\r\n" + good):
        head = f"POST /hooks/git/abuse HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(MAIN)}\r\n{twice}\r\n"
        assert desk.raw(head.encode() + MAIN)[9:12] == b"404"
    assert len(requests(desk)) == before
    # B2: a delivery id that was used, with a fresh timestamp that nobody signed, is the old one still
    first = desk.call("/hooks/git/abuse", MAIN, headers=github(delivery="old"))
    again = desk.call("/hooks/git/abuse", MAIN, headers={**github(delivery="old"), "X-Dicode-Timestamp": "9999999999"})
    assert again.body == first.body and len(requests(desk)) == before + 1


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("source", ["abuse", "none"])
def test_only_post_pushes_whether_the_source_exists_or_not(desk: Desk, method: str, source: str) -> None:
    answer = desk.call(f"/hooks/git/{source}", method=method)
    assert answer.status == 405 and answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "path",
    ["/hooks/git", "/hooks/git/", "/hooks/git//abuse", "//hooks/git/abuse", "/hooks/git/abuse/x", "/hooks/git/../git/abuse", "/hooks/git/./abuse"]
    + ["/hooks/git/%2e%2e/abuse", "/hooks/git/abuse%00", "/hooks/git/abuse%0a", "/hooks/git/abuse%2f..%2fquiet", "/hooks/git/..", "/hooks/GIT/abuse"]
    + [
        "/hooks/../admin",
        "/hooks/git/%2e%2e/%2e%2e/admin",
        "/hooks/git/" + "a" * 8000,
        "/hooks/git/%252e%252e",
        "/hooks/git/\\abuse",
        "/hooks/git/quiet",
    ],
)
def test_other_paths_are_not_found(desk: Desk, path: str) -> None:
    before = len(requests(desk))
    assert desk.call(path, MAIN, headers=github()).status == 404
    assert len(requests(desk)) == before


HEAD = b"POST /hooks/git/abuse HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (HEAD + b"Content-Length: 10000000000\r\n\r\n", b"413"),
        (HEAD + b"Content-Length: -1\r\n\r\n", b"400"),
        (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", b"400"),
        (HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (HEAD + b"\r\n", b"404"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n", b"400"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * (1 << 20) + b"\r\nx\r\n0\r\n\r\n", b"404"),
        (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b", b"415"),
        (HEAD + b"X-A: " + b"a" * (1 << 20) + b"\r\n\r\n", b"431"),
        (HEAD + b"X: y\r\n" * 10_000 + b"\r\n", b"431"),
        (HEAD.replace(b"POST", b"CONNECT") + b"\r\n", b"400"),
        (HEAD + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n", b"400"),
        (b"POST http://evil.example/hooks/git/abuse HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", b"404"),
    ],
    ids=["10 GB", "negative", "two lengths", "TE and CL", "no length", "huge chunk", "chunk extension", "gzip", "1 MB header", "10,000 headers"]
    + ["CONNECT", "upgrade", "wrong host"],
)
def test_what_is_not_a_proper_push_is_answered_in_a_line(desk: Desk, request_: bytes, status: bytes) -> None:
    before = len(requests(desk))
    assert desk.raw(request_)[9:12] == status
    assert neighbour_answers(desk) and len(requests(desk)) == before


@pytest.mark.parametrize(
    "body",
    [b"null", b"[]", b'"x"', b"{", b'{"ref":7}', b'{"ref":"\\ud800"}', b'{"x":' + b"[" * 1_000_000, b'{"x":' + b'{"a":' * 400_000, b"\xff\xfe"]
    + [b'{"x":' + b"9" * (BODY_MAX - 10)],
    ids=lambda body: body[:10].decode("latin-1"),
)
def test_signed_nonsense_is_told_so_and_asks_for_nothing(desk: Desk, body: bytes) -> None:
    before = len(requests(desk))
    answer = desk.call("/hooks/git/abuse", body, headers=github(body))
    assert answer.status == 400 and answer.json()["error"].startswith("the body is not the JSON of a push")
    assert neighbour_answers(desk) and len(requests(desk)) == before


def test_signed_bodies_are_held_to_the_limit(desk: Desk) -> None:
    for size, status in ((BODY_MAX, 202), (BODY_MAX + 1, 413)):
        body = MAIN[:-1] + b', "x": "' + b"y" * (size - len(MAIN) - 9) + b'"}'
        assert len(body) == size
        assert desk.call("/hooks/git/abuse", body, headers=github(body)).status == status


def test_a_flood_of_big_bodies_takes_a_bounded_part_of_the_memory_and_small_pushes_still_pass(desk: Desk) -> None:
    role = psutil.Process(desk.role_pid("trigger-engine"))
    before = role.memory_info().rss
    head = HEAD + f"Content-Length: {BODY_MAX}\r\n\r\n".encode()
    crowd = [socket.create_connection(desk.address, timeout=10) for _ in range(60)]
    try:
        for client in crowd:
            client.setblocking(False)
        left = {client: memoryview(head + b"x" * (BODY_MAX - 1)) for client in crowd}  # one byte short: each would be held
        moving = True
        while moving:
            moving = False
            for client in crowd:
                try:
                    sent = client.send(left[client][: 1 << 18])
                except (BlockingIOError, ConnectionError):
                    continue
                left[client] = left[client][sent:]
                moving = moving or sent > 0
            assert neighbour_answers(desk)
        assert desk.call("/hooks/git/abuse", MAIN, headers=github(), timeout=5).status == 202
        assert role.memory_info().rss - before < 80 << 20  # 60 whole bodies are 300 MiB
    finally:
        for client in crowd:
            client.close()
    body = MAIN[:-1] + b', "x": "' + b"y" * (4 << 20) + b'"}'
    assert wait_for(lambda: desk.call("/hooks/git/abuse", body, headers=github(body)).status == 202, "big ones pass again")
    assert role.is_running() and role.pid == desk.role_pid("trigger-engine")


def test_silent_and_slow_callers_do_not_keep_a_push_out(desk: Desk) -> None:
    crowd = [socket.create_connection(desk.address) for _ in range(500)]
    try:
        for client in crowd[::2]:
            client.send(HEAD + b"Content-Length: 300\r\n\r\n" + b"x")
        assert desk.call("/hooks/git/abuse", MAIN, headers=github(), timeout=5).status == 202
    finally:
        for client in crowd:
            client.close()


def test_no_task_can_take_the_place_of_the_pushes(desk: Desk) -> None:
    """spec.task refuses such a path; even one that got past it is not served there."""
    desk.register("thief", Trigger(webhook="/hooks/git/abuse"))
    desk.register("root", Trigger(webhook="/hooks"))
    desk.serves("/hooks/other")
    assert desk.call("/hooks/git/abuse", MAIN).status == 404
    assert desk.call("/hooks/git/abuse", MAIN, headers=github()).json()["request"].startswith("push-")
    assert desk.call("/hooks/git/none", MAIN).status == 404


# ── with an installation of its own ──


def test_a_stopped_store_is_a_503_and_never_a_2xx(tmp_path: Path) -> None:
    own = Desk(tmp_path, {"PUSH_SECRET": SECRET.decode()})
    try:
        own.start("store", "trigger-engine")
        own.configure()
        follow(own, "infra")
        own.signal("store", signal.SIGSTOP)
        done = threading.Event()
        answers: list[Answered] = []

        def call() -> None:
            while not done.is_set():
                answers.append(own.call("/hooks/git/infra", MAIN, headers=github()))

        callers = [threading.Thread(target=call) for _ in range(8)]
        try:
            for caller in callers:
                caller.start()
            wait_for(lambda: len(answers) > 100, "a hundred were answered", deadline=40)
        finally:
            done.set()
            own.signal("store", signal.SIGCONT)
            for caller in callers:
                caller.join()
        stopped = answers[:100]
        assert {answer.status for answer in stopped} == {503} and all(answer.headers["retry-after"] for answer in stopped)
        again = wait_for(lambda: (a := own.call("/hooks/git/infra", MAIN, headers=github())).status == 202 and a, "accepted again")
        assert own.get(Request, again.json()["request"])
    finally:
        own.close()
