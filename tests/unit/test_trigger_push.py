"""What a push webhook says, whether it is to be believed, and whom it concerns."""

from __future__ import annotations

import hashlib
import hmac
import json
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicode.messages.kinds import Condition, ConfigSource, Resolution, Source
from dicode.spec.trees import Repo
from dicode.trigger.decide import Bound
from dicode.trigger.push import RATE, Minute, Push, accepted, concerns, delivery_of, idle, read, route_of_pushes, secret_of, sync_of, verified
from dicode.trigger.webhook import Malformed

SECRET = b"It's a Secret to Everybody"
BODY = b"Hello, World!"
HEX = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"  # GitHub's own example
URL = "https://github.com/acme/tasks"


def headers(**given: str) -> list[tuple[bytes, bytes]]:
    return [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in given.items()]


HUB, GITEA, GITLAB = ("x-hub-signature-256", f"sha256={HEX}"), ("x-gitea-signature", HEX), ("x-gitlab-token", SECRET.decode())
OLD = ("x-hub-signature", "sha1=" + hmac.new(SECRET, BODY, "sha1").hexdigest())


def pairs(*given: tuple[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in given]


@pytest.mark.parametrize(
    "given",
    [[HUB], [GITEA], [GITLAB], [HUB, OLD], [GITEA, HUB, OLD]],  # the last is what Gitea and Forgejo really send
    ids=["github", "gitea before 1.14", "gitlab", "github with its old header", "gitea"],
)
def test_each_git_host_is_believed_in_its_own_way(given: list[tuple[str, str]]) -> None:
    assert verified(SECRET, BODY, pairs(*given))


@pytest.mark.parametrize(
    "given",
    [
        [],
        [OLD],
        [("x-hub-signature", f"sha256={HEX}")],
        *([(HUB[0], bad)] for bad in ("", "sha256=", HEX, f"sha256={HEX[:-1]}", f"sha256={HEX}0", f"sha256={HEX.upper()}", f"SHA256={HEX}")),
        *([(HUB[0], bad)] for bad in (f"sha256=sha256={HEX}", f" sha256={HEX}", f"sha256={HEX},sha256={HEX}", "sha256=" + "0" * 64)),
        *([(GITEA[0], bad)] for bad in ("", HEX[:-1], HEX.upper(), f"sha256={HEX}", HEX + " ", "é" * 64, "0" * 64)),
        *([(GITLAB[0], bad)] for bad in ("", "it's a secret to everybody", SECRET.decode() + " ", SECRET.decode()[:-1], HEX)),
        [HUB, HUB],
        [HUB, (HUB[0], "sha256=" + "0" * 64)],
        [(HUB[0], "sha256=" + "0" * 64), HUB],
        [HUB, (GITEA[0], "0" * 64)],
        [GITEA, (HUB[0], "")],
        [HUB, (GITLAB[0], "guess")],
        [GITLAB, GITLAB],
        [GITLAB, (HUB[0], "sha256=" + "0" * 64)],
    ],
)
def test_nothing_less_and_nothing_besides_is_believed(given: list[tuple[str, str]]) -> None:
    assert not verified(SECRET, BODY, pairs(*given))


@pytest.mark.parametrize("body", [BODY + b"\n", BODY + b"x", BODY[:-1], b"", BODY.decode().encode("utf-16")])
def test_a_signature_is_over_the_raw_bytes(body: bytes) -> None:
    assert not verified(SECRET, body, pairs(HUB)) and not verified(SECRET, body, pairs(GITEA))


def test_a_body_that_was_parsed_and_written_again_is_another_body() -> None:
    body = b'{"ref": "refs/heads/main",  "a": 1}'
    again = json.dumps(json.loads(body)).encode()
    good = pairs((HUB[0], "sha256=" + hmac.new(SECRET, again, hashlib.sha256).hexdigest()))
    assert verified(SECRET, again, good) and not verified(SECRET, body, good)


@given(st.binary(min_size=1, max_size=40), st.binary(max_size=40), st.lists(st.tuples(st.sampled_from([HUB[0], GITEA[0], GITLAB[0]]), st.binary())))
def test_any_headers_are_answered_yes_or_no(secret: bytes, body: bytes, given: list[tuple[str, bytes]]) -> None:
    assert verified(secret, body, [(name.encode(), value) for name, value in given]) in (True, False)


# ── what it says ──

GITHUB_PUSH = {
    "ref": "refs/heads/main",
    "before": "6113728f27ae82c7b1a177c8d03f9e96e0adf246",
    "after": "59b20b8d5c6ff8d09518454d4dd8b7b30f095ab5",
    "repository": {"id": 1, "full_name": "acme/tasks", "clone_url": URL + ".git"},
    "pusher": {"name": "mona", "email": "mona@acme.example"},
    "commits": [{"id": "59b20b8d", "message": "one\ntwo", "added": [], "modified": ["a/task.yaml"]}],
    "deleted": False,
}
GITLAB_PUSH = {"object_kind": "push", "event_name": "push", "ref": "refs/heads/main", "checkout_sha": "da1560886d4f", "project_id": 15, "commits": []}
GITLAB_TAG = {"object_kind": "tag_push", "event_name": "tag_push", "ref": "refs/tags/v1.0.0", "checkout_sha": "82b3d5ae55f7"}
GITEA_PUSH = {"ref": "refs/heads/develop", "before": "28e1", "after": "bffe", "compare_url": "http://gitea.example/x", "commits": [{"id": "bffe"}]}


@pytest.mark.parametrize(
    ("given", "payload", "told"),
    [
        (headers(x_github_event="push"), GITHUB_PUSH, Push(True, "refs/heads/main", "push")),
        (headers(x_gitea_event="push", x_github_event="push"), GITEA_PUSH, Push(True, "refs/heads/develop", "push")),
        (headers(x_gitlab_event="Push Hook"), GITLAB_PUSH, Push(True, "refs/heads/main", "Push Hook")),
        (headers(x_gitlab_event="Tag Push Hook"), GITLAB_TAG, Push(True, "refs/tags/v1.0.0", "Tag Push Hook")),
        (headers(x_gitlab_event="System Hook"), GITLAB_PUSH, Push(True, "refs/heads/main", "System Hook")),
        (headers(x_gitlab_event="System Hook"), {"event_name": "user_create"}, Push(False, "", "System Hook")),
        (headers(x_github_event="ping"), {"zen": "Encourage flow.", "hook_id": 1}, Push(False, "", "ping")),
        (headers(x_github_event="issues"), {"ref": "refs/heads/main"}, Push(False, "", "issues")),
        (headers(), {"ref": "refs/heads/main"}, Push(True, "refs/heads/main")),
        (headers(), {}, Push(True)),
        (headers(x_github_event="push\x1b[31m"), GITHUB_PUSH, Push(False, "", "?")),
        (headers(x_github_event="x" * 41), GITHUB_PUSH, Push(False, "", "?")),
    ],
)
def test_each_git_host_is_understood(given: list[tuple[bytes, bytes]], payload: object, told: Push) -> None:
    assert read(given, json.dumps(payload).encode()) == told


def test_githubs_form_holds_the_same_json() -> None:
    form = b"payload=" + quote_plus(json.dumps(GITHUB_PUSH)).encode()
    given = headers(x_github_event="push", content_type="application/x-www-form-urlencoded")
    assert read(given, form).ref == "refs/heads/main"
    assert read(given, json.dumps(GITHUB_PUSH).encode()).ref == "refs/heads/main"  # what curl calls a form
    with pytest.raises(Malformed):
        read(given, b"other=1")
    with pytest.raises(Malformed):
        read(given, b"&".join(b"a=1" for _ in range(5000)))


def test_a_signed_call_that_says_nothing_asks_for_a_look() -> None:
    assert read(headers(), b"") == Push(True)


@pytest.mark.parametrize("event", ["push", ""])
@pytest.mark.parametrize(
    "body",
    [b"null", b"[]", b'"x"', b"1", b"{", b'{"ref":1}', b'{"ref":null}', b'{"ref":"\\ud800"}', b"\xff\xfe{}", b'{"ref":["refs/heads/main"]}']
    + [b'{"x":' + b"[" * 1_000_000, b'{"x":' + b'{"a":' * 200_000 + b"1" + b"}" * 200_001, b"\xef\xbb\xbf{}", b"payload={}"],
    ids=lambda body: body[:12].decode("latin-1") if isinstance(body, bytes) else body,
)
def test_a_payload_that_is_none_is_malformed_and_its_words_stay_out_of_the_answer(event: str, body: bytes) -> None:
    with pytest.raises(Malformed) as refused:
        read(headers(**({"x_github_event": event} if event else {})), body)
    assert str(refused.value) == "the body is not the JSON of a push: an object with `ref`"


def test_a_push_without_a_ref_is_malformed_where_the_host_names_the_event() -> None:
    with pytest.raises(Malformed):
        read(headers(x_github_event="push"), b"{}")


def test_a_number_of_a_megabyte_and_a_key_said_twice_do_no_harm() -> None:
    assert read(headers(), b'{"x":' + b"9" * 1_000_000 + b',"ref":"refs/heads/main"}').ref == "refs/heads/main"
    assert read(headers(), b'{"ref":"refs/heads/other","ref":"refs/heads/main"}').ref == "refs/heads/main"


@given(
    st.binary(max_size=300), st.sampled_from(["push", "Push Hook", "System Hook", "ping", ""]), st.sampled_from(["application/json", "", "text/x"])
)
def test_any_bytes_are_a_push_or_malformed(body: bytes, event: str, type: str) -> None:
    try:
        told = read(headers(x_github_event=event, content_type=type), body)
    except Malformed:
        return
    assert isinstance(told.asks, bool)


def test_a_delivery_is_named_by_what_its_host_would_repeat() -> None:
    assert delivery_of(headers(x_github_delivery="g", x_gitea_delivery="t")) == "t"
    assert delivery_of(headers(x_gitlab_event_uuid="shared-by-recursive-hooks", idempotency_key="i")) == "i"
    assert delivery_of(headers(x_gitlab_event_uuid="u")) == "u"
    assert delivery_of(headers(x_request_id="r")) == ""
    assert delivery_of(headers(x_github_delivery="a/b")).startswith("sha256-")


# ── whom it concerns ──


def git(name: str = "infra", url: str = URL, dev: str = "", revisions: tuple[Repo, ...] = (), **spec: object) -> Source:
    branch = "" if "ref" in spec else "main"
    last = (Resolution(1, {repo.key: "abc" for repo in revisions}),) if revisions else ()
    return Source(name=name, type="git", dev=dev, resolutions=last, spec=ConfigSource(name=name, type="git", url=url, **{"branch": branch, **spec}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "ref", "yes"),
    [
        (git(), "refs/heads/main", True),
        (git(), "refs/heads/other", False),
        (git(), "refs/heads/main2", False),
        (git(), "refs/heads/feature/main", False),
        (git(), "refs/tags/main", False),
        (git(), "main", True),
        (git(), "refs/notes/main", False),
        (git(), "", True),
        (git(ref={"branch": "x"}, branch="x"), "refs/heads/x", True),
        (git(ref={"tag": "v1"}), "refs/tags/v1", True),
        (git(ref={"tag": "v1"}), "refs/tags/v2", False),
        (git(ref={"tag": "v1"}), "refs/heads/v1", False),
        (git(ref={"semver": "^1"}), "refs/tags/v1.4", True),
        (git(ref={"semver": "^1"}), "refs/heads/main", False),
        (git(ref={"commit": "abc"}), "refs/heads/any", True),
        (git(dev="branch:trial"), "refs/heads/trial", True),
        (git(dev="branch:trial"), "refs/heads/other", False),
        (Source(name="here", spec=ConfigSource(name="here", path="/x")), "refs/heads/any", True),
    ],
)
def test_a_push_concerns_a_source_that_follows_what_was_pushed(source: Source, ref: str, yes: bool) -> None:
    assert concerns(source, ref, [source]) is yes


def test_a_push_concerns_every_source_of_that_url_and_every_taskset_that_draws_from_it() -> None:
    other = git("staging", branch="staging")
    assert concerns(git(), "refs/heads/staging", [git(), other])
    assert not concerns(git(), "refs/heads/staging", [git(), git("elsewhere", url=URL + "2", branch="staging")])
    for repo in (Repo(URL, "branch", "lib"), Repo(URL, "branch", "lib", token_env="T"), Repo(URL, "branch", "lib", trusted=True)):
        far = git("far", url="https://other.example/x", revisions=(repo,))
        assert concerns(git(), "refs/heads/lib", [git(), far]), repo.key
        assert not concerns(git(), "refs/heads/li", [git(), far]) and not concerns(git(), "refs/heads/library", [git(), far])
        assert not concerns(git(), "refs/tags/lib", [git(), far])
    wide = git("wide", url="https://other.example/x", revisions=(Repo(URL, "semver", "^2"),))
    assert concerns(git(), "refs/tags/v2.1", [git(), wide]) and not concerns(git(), "refs/heads/v2", [git(), wide])


def test_a_push_to_a_repository_that_the_set_of_a_source_draws_from_may_come_to_its_hook() -> None:
    drawn = (Repo("https://other.example/lib", "branch", "release"), Repo("https://other.example/tools", "semver", "^2"))
    fleet = git("fleet", revisions=drawn)
    assert concerns(fleet, "refs/heads/release", [fleet]) and concerns(fleet, "refs/tags/v2.1", [fleet])
    assert not concerns(fleet, "refs/heads/releases", [fleet]) and not concerns(git(), "refs/heads/release", [git(), fleet])


# ── what comes of it ──


def test_a_delivery_has_one_request_and_calls_without_an_id_have_one_each() -> None:
    first = sync_of("infra", "d1", "salt", 10.25)
    assert first.token == sync_of("infra", "d1", "pepper", 99.0).token
    assert (first.verb, first.target, first.args, first.who, first.when) == (
        "source.sync", "infra", {"pushed_at": 10.25, "delivery": "d1"}, "push", 10_250,
    )  # fmt: skip
    tokens = {sync_of(source, delivery, salt, 1.0).token for source in "ab" for delivery in ("", "d1", "d2") for salt in ("s", "t")}
    assert len(tokens) == 8


def test_answers_name_the_request_or_say_that_there_is_none() -> None:
    assert accepted("push-1")[:2] == (202, b'{"request":"push-1"}')
    ping, other = idle(Push(False, "", "ping")), idle(Push(True, "refs/heads/<script>"))
    assert ping.status == other.status == 202
    assert json.loads(ping.body) == {"request": "", "message": "no sync: nothing was pushed"}
    assert json.loads(other.body)["request"] == "" and b"script" not in other.body


def test_a_missing_secret_is_a_condition_that_names_the_variable_and_the_cure() -> None:
    source = git(webhook_secret_env="HOOK")
    assert secret_of(git(), {"HOOK": "x"}) is None
    assert secret_of(source, {"HOOK": "x"}) == b"x"
    for environ, reason in (({}, "UnknownVariable"), ({"HOOK": ""}, "Empty")):
        missing = secret_of(source, environ)
        assert isinstance(missing, Condition) and missing.reason == reason
        assert "HOOK" in missing.message and "restart" in missing.message
        route = route_of_pushes(source, None, missing, Bound("http://127.0.0.1:1"), 7)
        assert [(each.type, each.since) for each in route.conditions] == [("BadSecret", 7)]
        assert route_of_pushes(source, route, missing, Bound("http://127.0.0.1:1"), 8) == route
    good = route_of_pushes(source, None, None, Bound("http://127.0.0.1:1"), 7)
    assert (good.task, good.url, good.methods, good.conditions) == ("source:infra", "http://127.0.0.1:1/hooks/git/infra", ("POST",), ())


def test_sixty_a_minute_and_not_one_more() -> None:
    minute = Minute()
    assert [minute.take(100.0 + at / 100) for at in range(RATE)] == [0.0] * RATE
    assert minute.take(101.0) == pytest.approx(59.0)
    assert minute.take(159.99) > 0 and minute.take(160.0) == 0.0
    assert minute.take(160.0) > 0
    minute.give_back()
    assert minute.take(160.0) == 0.0
