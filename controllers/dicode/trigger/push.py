"""What a push webhook says and whether it concerns us. Pure: bytes in, values out; nothing is parsed before it was verified.

GitHub signs with `X-Hub-Signature-256`; Gitea and Forgejo with `X-Gitea-Signature` *and* GitHub's header; GitLab sends the
secret itself as `X-Gitlab-Token`. The rest of a payload is never believed and never repeated: a push only hurries a look
at the remote.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from urllib.parse import parse_qs

import msgspec

from dicode.messages.kinds import Condition, Delivery, Request, Route, Source
from dicode.spec.condition import carried
from dicode.trigger.decide import Bound
from dicode.trigger.webhook import FORM_FIELDS, JSON, Answer, Malformed, key_of

PATH = "/hooks/git/"
PUSHES = "source:"  # before a source's name, in keys of Route and Delivery: no task id holds a colon
VERB = "source.sync"
WHO = "push"
RATE = 60  # pushes a minute and source that may ask for a sync; SPEC 7
MINUTE = 60.0
EVENT_MAX = 40  # characters

Headers = Sequence[tuple[bytes, bytes]]
_HUB, _GITEA, _GITLAB = b"x-hub-signature-256", b"x-gitea-signature", b"x-gitlab-token"
_EVENTS = (b"x-gitea-event", b"x-github-event", b"x-gitlab-event")
# GitLab's event id is shared by all that one event led to, its idempotency key by the attempts of one delivery: that one first
_DELIVERIES = (b"x-gitea-delivery", b"x-github-delivery", b"idempotency-key", b"x-gitlab-event-uuid")


# ── is it ours to believe ──


def verified(secret: bytes, body: bytes, headers: Headers) -> bool:
    """Whether the caller knows the secret. At least one of the three headers is there, none twice, and each that is there is right."""
    expected = hmac.digest(secret, body, hashlib.sha256).hex().encode()
    good = _matches(headers, _HUB, b"sha256=" + expected), _matches(headers, _GITEA, expected), _matches(headers, _GITLAB, secret)
    return False not in good and True in good


def _matches(headers: Headers, wanted: bytes, expected: bytes) -> bool | None:
    """None when this header is not there. Takes the same time for any wrong value."""
    given = [value for name, value in headers if name == wanted]
    if not given:
        return None
    return hmac.compare_digest(expected, given[0] if len(given) == 1 else b"")


# ── what it says ──


class Push(NamedTuple):
    """What was told. `asks`: something was pushed. `ref`: what, "" where the caller names nothing. `event`: for people."""

    asks: bool
    ref: str = ""
    event: str = ""


class _Payload(msgspec.Struct):
    """The only parts of a payload that are looked at."""

    ref: str = ""
    event_name: str = ""  # of GitLab's system hooks


_read_payload = msgspec.json.Decoder(_Payload).decode


def read(headers: Headers, body: bytes) -> Push:
    """What a verified call says. Raises Malformed."""
    event = event_of(headers)
    match event.lower():
        case "push" | "push hook" | "tag push hook":
            payload = _payload(headers, body)
            if not payload.ref:
                raise Malformed("a push names what was pushed in `ref`")
            return Push(True, payload.ref, event)
        case "system hook":
            payload = _payload(headers, body)
            return Push(payload.event_name in ("push", "tag_push"), payload.ref, event)
        case "":
            return Push(True, _payload(headers, body).ref if body else "")
        case _:
            return Push(False, event=event)


def _payload(headers: Headers, body: bytes) -> _Payload:
    type = next((value for name, value in headers if name == b"content-type"), b"")
    if type.partition(b";")[0].strip().lower() == b"application/x-www-form-urlencoded" and not body.startswith(b"{"):
        body = _form_payload(body)
    try:
        return _read_payload(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        raise Malformed("the body is not the JSON of a push: an object with `ref`") from None


def _form_payload(body: bytes) -> bytes:
    """GitHub's other content type: the JSON is a form's field."""
    try:
        return parse_qs(body, max_num_fields=FORM_FIELDS).get(b"payload", [b""])[0]
    except ValueError:
        return b""


def event_of(headers: Headers) -> str:
    """The event as the git host names it, "" when it does not, or not in a way one could show."""
    for wanted in _EVENTS:
        for name, value in headers:
            if name == wanted and value:
                text = value.decode("latin-1")
                return text if text.isascii() and text.isprintable() and len(text) <= EVENT_MAX else "?"
    return ""


def delivery_of(headers: Headers) -> str:
    """The id under which the git host would repeat this call, "" for none."""
    return key_of(headers, _DELIVERIES)


# ── whom it concerns ──


def concerns(source: Source, ref: str, sources: Iterable[Source]) -> bool:
    """Whether someone who draws from this source's repository follows what was pushed there.

    That is the source itself, another one of the same URL, or a TaskSet with a ref to it: one push syncs them all. Nor is it
    believed which repository was pushed to: another one that this source's own TaskSet draws from may call here, too.
    """
    url = source.spec.url
    if not ref or not url:
        return True  # there is nothing to choose by
    pushed = _pushed(ref)
    every = [source, *(other for other in sources if other.name != source.name)]
    own = any(_follows(each, pushed) for each in every if each.spec.url == url)
    drawn = any(_names(key, url, pushed) for each in every for last in each.resolutions[:1] for key in last.revisions)
    return own or drawn or any(_names(key, key.partition("#")[0], pushed) for last in source.resolutions[:1] for key in last.revisions)


def _pushed(ref: str) -> dict[str, str]:
    """Kind of ref → name: `refs/heads/x` is a branch, `refs/tags/x` a tag, a bare `x` may be both."""
    if ref.startswith("refs/heads/"):
        return {"branch": ref.removeprefix("refs/heads/")}
    if ref.startswith("refs/tags/"):
        return {"tag": ref.removeprefix("refs/tags/")}
    return {} if ref.startswith("refs/") else {"branch": ref, "tag": ref}


def _follows(source: Source, pushed: dict[str, str]) -> bool:
    ref = source.spec.ref or {"branch": source.spec.branch}
    if source.dev.startswith("branch:") and source.dev.removeprefix("branch:") == pushed.get("branch"):
        return True
    match ref:
        case {"branch": name}:
            return pushed.get("branch") == name
        case {"tag": name}:
            return pushed.get("tag") == name
        case {"semver": _}:
            return "tag" in pushed
        case _:
            return bool(pushed)  # a commit: it may only be there since this push


def _names(key: str, url: str, pushed: dict[str, str]) -> bool:
    """Whether `key`, that of a Repo (spec.trees), is of this URL and follows what was pushed."""
    if not key.startswith(f"{url}#"):
        return False
    if "tag" in pushed and key.startswith(f"{url}#semver="):
        return True
    for kind, name in pushed.items():
        start = f"{url}#{kind}={name}"
        if key.startswith(start) and key[len(start) : len(start) + 1] in ("", "@", "!"):
            return True
    return False


# ── what is written, and answered ──


def sync_of(source: str, delivery: str, salt: str, pushed_at: float) -> Request:
    """The request for a sync. Delivered again it is the same one; `salt` stands for a delivery that has no id. `pushed_at` in seconds."""
    token = hashlib.sha256(f"{source}\n{delivery or salt}".encode()).hexdigest()[:16]
    return Request(
        token=f"push-{token}",
        verb=VERB,
        target=source,
        args={"pushed_at": pushed_at, "delivery": delivery},
        who=WHO,
        when=int(pushed_at * 1000),
    )


def record_of(source: str, delivery: str, event: str, *, request: str, remote: str, size: int, now: int) -> Delivery:
    """For people, and for 72 h the memory of what this delivery was answered. `run` is the token of the request, "" without one."""
    return Delivery(task=PUSHES + source, id=delivery, run=request, at=now, remote=remote, event=event, bytes=size)


def accepted(request: str) -> Answer:
    """The request for a sync is durable."""
    return Answer(202, msgspec.json.encode({"request": request}), JSON)


def idle(push: Push) -> Answer:
    """Verified, and there is nothing to do. The payload's own words are not repeated."""
    why = "no source of this repository follows what was pushed" if push.asks else "nothing was pushed"
    return Answer(202, msgspec.json.encode({"request": "", "message": f"no sync: {why}"}), JSON)


def secret_of(source: Source, environ: dict[str, str]) -> bytes | Condition | None:
    """The secret pushes are verified with; the condition that says why there is none; None when nobody asked for pushes."""
    variable = source.spec.webhook_secret_env
    if not variable:
        return None
    secret = environ.get(variable, "")
    if secret:
        return secret.encode()
    found = "empty" if variable in environ else "not set"
    message = f"webhook_secret_env: {variable} is {found} where dicode runs: pushes are answered 404; set it and restart dicode"
    return Condition("BadSecret", True, "Empty" if variable in environ else "UnknownVariable", message)


def route_of_pushes(source: Source, known: Route | None, why_not: Condition | None, bound: Bound, now: int) -> Route:
    """What to say of a source's push hook."""
    found = [why_not] if why_not is not None else []
    if bound.why:
        found.append(Condition("PortInUse", True, "NotListening", bound.why))
    path = PATH + source.name
    conditions = carried(known.conditions if known else (), found, 0, now)
    return Route(task=PUSHES + source.name, path=path, url=f"{bound.url}{path}" if bound.url else "", methods=("POST",), conditions=conditions)


class Minute:
    """At most RATE takings in any 60 s. `now` in seconds of a clock that never steps back."""

    def __init__(self) -> None:
        self._taken: deque[float] = deque()

    def take(self, now: float) -> float:
        """0.0 when one was taken, else the seconds until there is one."""
        while self._taken and self._taken[0] <= now - MINUTE:
            self._taken.popleft()
        if len(self._taken) >= RATE:
            return self._taken[0] + MINUTE - now
        self._taken.append(now)
        return 0.0

    def give_back(self) -> None:
        """The last taking came to nothing."""
        if self._taken:
            self._taken.pop()
