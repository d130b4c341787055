"""What a webhook call says and what it is answered. Pure: bytes in, values out; nothing is parsed before its signature was checked."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from urllib.parse import parse_qsl

import msgspec

from dicode.messages.commands import Refused
from dicode.messages.kinds import Run
from dicode.messages.task import Param
from dicode.process.bodies import BODY_MAX as BODY_MAX

DELIVERY_MAX = 200  # characters of a delivery id that are kept as they are
FORM_FIELDS = 1000

JSON = b"application/json"
TEXT = b"text/plain; charset=utf-8"


class Answer(NamedTuple):
    """An HTTP answer. `headers` besides type and length."""

    status: int
    body: bytes = b""
    type: bytes = TEXT
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Malformed(Exception):
    """The body is not what its content type says. Raised after the signature was found good."""


class Call(NamedTuple):
    """What a call gives the run: `input` as JSON text ("" for none), and the declared params it names."""

    input: str
    params: dict[str, str]


NOT_FOUND = Answer(404, b"not found\n")  # for an unknown path and for a bad signature: nobody learns which
_SIGNATURE = b"sha256="


def signed(secret: bytes, body: bytes, signatures: Sequence[bytes]) -> bool:
    """Whether there is exactly one `X-Hub-Signature-256` and it is the HMAC of the raw body. Takes the same time for any wrong one."""
    expected = _SIGNATURE + hmac.digest(secret, body, hashlib.sha256).hex().encode()
    given = signatures[0] if len(signatures) == 1 else b""
    return hmac.compare_digest(expected, given)


def read(body: bytes, content_type: bytes, declared: Sequence[Param]) -> Call:
    """A POST's body as the run's input, and the declared params among its top-level keys. Raises Malformed."""
    if not body:
        return Call("", {})
    kind, _, options = content_type.partition(b";")
    kind = kind.strip().lower()
    if kind == JSON or kind.endswith(b"+json"):
        return _read_json(body, declared)
    if kind == b"application/x-www-form-urlencoded":
        return _read_json(body, declared) if _is_json_after_all(body) else _read_form(body, declared)
    if not kind and _is_json_after_all(body):
        return _read_json(body, declared)
    if not kind or kind.startswith(b"text/"):
        text = _decoded(body, options)
        if text is not None:
            return Call(_encode(text), {})
    return Call(_encode({"content_type": content_type.decode("latin-1"), "base64": base64.b64encode(body).decode()}), {})


def read_query(query: bytes, declared: Sequence[Param]) -> Call:
    """A GET's query as input and params. Raises Malformed."""
    return _read_form(query, declared) if query else Call("", {})


def _read_json(body: bytes, declared: Sequence[Param]) -> Call:
    try:
        value = msgspec.json.decode(body)
        text = body.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise Malformed(f"the body is not JSON: {error}") from None
    return Call(text, _declared(value, declared) if isinstance(value, dict) else {})


def _is_json_after_all(body: bytes) -> bool:
    """`curl -d '{…}'` calls its JSON a form; no form begins with a brace."""
    if body[:1] not in (b"{", b"["):
        return False
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        return False
    return True


def _read_form(body: bytes, declared: Sequence[Param]) -> Call:
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=FORM_FIELDS, errors="strict")
    except ValueError as error:
        raise Malformed(f"the form cannot be read: {error}") from None
    form: dict[str, object] = {}
    for name, value in pairs:
        before = form.get(name)
        form[name] = value if before is None else [*before, value] if isinstance(before, list) else [before, value]
    return Call(_encode(form), _declared(form, declared))


def _declared(values: dict[str, object], declared: Sequence[Param]) -> dict[str, str]:
    """Only keys the task declares become params: a caller cannot set what its author did not offer."""
    return {param.name: _text(values[param.name]) for param in declared if values.get(param.name) is not None}


def _text(value: object) -> str:
    return value if isinstance(value, str) else _encode(value)


def _encode(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _decoded(body: bytes, options: bytes) -> str | None:
    charset = "utf-8"
    for option in options.split(b";"):
        name, _, value = option.strip().partition(b"=")
        if name.lower() == b"charset":
            charset = value.strip(b'"').decode("latin-1")
    try:
        text = body.decode(charset)
        text.encode()  # a charset may give lone surrogates
    except (UnicodeError, LookupError, ValueError):
        return None
    return text


def delivery_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The id under which the caller would repeat this call, "" for none."""
    return key_of(headers, (b"x-github-delivery", b"idempotency-key"))


def key_of(headers: Iterable[tuple[bytes, bytes]], names: Iterable[bytes]) -> str:
    """The value of the first of these headers that is there, "" for none. What cannot stand in a key is hashed."""
    headers = tuple(headers)
    for wanted in names:
        for name, value in headers:
            if name == wanted and value:
                text = value.decode("latin-1")
                plain = len(text) <= DELIVERY_MAX and text.isascii() and text.isprintable() and "/" not in text
                return text if plain else "sha256-" + hashlib.sha256(value).hexdigest()
    return ""


def accepted(run: str) -> Answer:
    """The run is durable; its end is not waited for, or did not come in time."""
    return Answer(202, msgspec.json.encode({"runId": run}), JSON, (_run_id(run),))


def finished(run: Run) -> Answer:
    """The answer to whoever waited for this ended run. Its log is never part of it."""
    if run.status == "succeeded":
        return _succeeded(run)
    status = {"timed_out": 504, "skipped": 409}.get(run.status, 500)
    body = msgspec.json.encode({"runId": run.id, "status": run.status, "error": run.error})
    return Answer(status, body, JSON, (_run_id(run.id),))


def _succeeded(run: Run) -> Answer:
    result = run.result
    if result is not None and result.content_type:
        type = result.content_type.encode("latin-1", "replace")
        if not any(byte < 32 or byte == 127 for byte in type):
            return Answer(200, result.content, type, (_run_id(run.id), _NOSNIFF))
    return Answer(200, ((result and result.value) or "null").encode(), JSON, (_run_id(run.id),))


_NOSNIFF = (b"x-content-type-options", b"nosniff")


def _run_id(run: str) -> tuple[bytes, bytes]:
    return (b"x-run-id", run.encode("latin-1"))


def refused(refusal: Refused) -> Answer:
    """Why the queue did not take the run, in the words of HTTP."""
    match refusal.reason:
        case "unknown":
            return NOT_FOUND
        case "overlap":
            return problem(409, refusal.message)
        case "full":
            return problem(429, refusal.message, retry_after=5)
        case "suspended":
            return problem(503, refusal.message, retry_after=60)
        case _:
            return problem(503, refusal.message, retry_after=5)


def problem(status: int, message: str, *, retry_after: int = 0, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Answer:
    """`{error}` with this status."""
    if retry_after:
        headers = (*headers, (b"retry-after", str(retry_after).encode()))
    return Answer(status, msgspec.json.encode({"error": message}), JSON, headers)
