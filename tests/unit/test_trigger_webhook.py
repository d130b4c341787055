"""What a webhook call says, and what it is answered."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicode.messages.commands import Refused
from dicode.messages.kinds import Result, Run, RunStatus, RunTrigger
from dicode.messages.task import Param
from dicode.trigger.webhook import NOT_FOUND, Call, Malformed, accepted, delivery_id, finished, read, read_query, refused, signed

SECRET = b"It's a Secret to Everybody"
BODY = b"Hello, World!"
GOOD = b"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"  # GitHub's own example


def test_githubs_example_is_signed() -> None:
    assert signed(SECRET, BODY, [GOOD])


@pytest.mark.parametrize(
    "signatures",
    [
        [],
        [b""],
        [b"sha256="],
        [GOOD[:-1]],
        [GOOD + b"0"],
        [GOOD[7:]],
        [b"sha256=sha256=" + GOOD[7:]],
        [b"SHA256=" + GOOD[7:]],
        [b"sha256=" + GOOD[7:].upper()],
        [b" " + GOOD],
        [GOOD + b" "],
        [b"sha1=" + hmac.new(SECRET, BODY, "sha1").hexdigest().encode()],
        [b"sha256=" + b"0" * 64],
        [b"sha256=" + "é".encode() * 32],
        [GOOD, b"sha256=" + b"0" * 64],
        [b"sha256=" + b"0" * 64, GOOD],
        [GOOD, GOOD],
    ],
)
def test_only_one_exact_signature_counts(signatures: list[bytes]) -> None:
    assert not signed(SECRET, BODY, signatures)


@pytest.mark.parametrize("body", [BODY + b"\n", BODY + b"x", BODY[:-1], b"", json.dumps(BODY.decode()).encode(), BODY.decode().encode("utf-16")])
def test_the_signature_is_over_the_raw_bytes(body: bytes) -> None:
    assert not signed(SECRET, body, [GOOD])


def test_another_tasks_secret_does_not_open_this_one() -> None:
    assert not signed(b"another", BODY, [GOOD])
    assert signed(b"", b"", [b"sha256=" + hmac.new(b"", b"", hashlib.sha256).hexdigest().encode()])  # an empty secret is refused before, by hook_of


N = (Param(name="name"), Param(name="count"))


def test_json_becomes_the_input_word_for_word_and_declared_keys_become_params() -> None:
    body = b'{"name": "x", "count": 3, "other": "y"}'
    assert read(body, b"application/json", N) == Call(body.decode(), {"name": "x", "count": "3"})


@pytest.mark.parametrize(("value", "text"), [("true", "true"), ("1.5", "1.5"), ('{"a":[1]}', '{"a":[1]}'), ('""', "")])
def test_params_are_text(value: str, text: str) -> None:
    assert read(b'{"name":' + value.encode() + b"}", b"application/json", N).params == {"name": text}


def test_null_is_no_param_and_an_undeclared_key_never_is_one() -> None:
    assert read(b'{"name": null, "secret": "1"}', b"application/json; charset=utf-8", N).params == {}
    assert read(b'{"name": "1"}', b"application/json", ()).params == {}


def test_a_form_becomes_an_object() -> None:
    assert read(b"name=a+b&x=1&x=2&count=", b"application/x-www-form-urlencoded", N) == Call(
        '{"name":"a b","x":["1","2"],"count":""}', {"name": "a b", "count": ""}
    )


def test_json_that_curl_calls_a_form_is_json() -> None:
    assert read(b'{"name":"a=b"}', b"application/x-www-form-urlencoded", N).params == {"name": "a=b"}


def test_text_and_bytes_become_the_input_and_no_params() -> None:
    assert read("grüß".encode(), b"text/plain", N) == Call('"grüß"', {})
    assert read("grüß".encode("latin-1"), b"text/plain; charset=latin-1", N) == Call('"grüß"', {})
    assert read(b"\xff\0", b"application/octet-stream", N) == Call('{"content_type":"application/octet-stream","base64":"/wA="}', {})
    assert read(b"\xff", b"text/plain", N).input == '{"content_type":"text/plain","base64":"/w=="}'
    assert read(b"", b"application/json", N) == Call("", {})


def test_a_body_without_a_type_is_json_if_it_is_json() -> None:
    assert read(b'{"name":"x"}', b"", N).params == {"name": "x"}
    assert read(b"{name", b"", N).input == '"{name"'


@pytest.mark.parametrize("body", [b"{", b'{"a":1}x', b"nul", b"\xff", b'"\xff"', b"[" * 1_000_000, b"{'a':1}", b"NaN", b"\xef\xbb\xbf{}"])
def test_what_is_not_json_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        read(body, b"application/json", N)


def test_a_query_becomes_input_and_declared_params() -> None:
    assert read_query(b"name=x&wait=false", N) == Call('{"name":"x","wait":"false"}', {"name": "x"})
    with pytest.raises(Malformed):
        read_query(b"&".join(b"a=1" for _ in range(2000)), N)


@given(
    st.binary(max_size=200),
    st.sampled_from(
        [
            b"application/json",
            b"application/x-www-form-urlencoded",
            b"text/plain",
            b"text/x; charset=utf-16",
            b"",
            b"image/png",
            b"text/x; charset=\xff",
        ]
    ),
)
def test_any_bytes_become_json_text_or_malformed(body: bytes, content_type: bytes) -> None:
    try:
        call = read(body, content_type, N)
    except Malformed:
        return
    assert call.input == "" or json.dumps(json.loads(call.input))
    assert set(call.params) <= {"name", "count"}


def test_a_delivery_id_is_found_under_either_name_and_is_fit_for_a_key() -> None:
    assert delivery_id([(b"x-github-delivery", b"72d3162e-cc78")]) == "72d3162e-cc78"
    assert delivery_id([(b"idempotency-key", b"a"), (b"x-github-delivery", b"b")]) == "b"
    assert delivery_id([(b"content-type", b"x")]) == ""
    for odd in (b"a/b", b"\xff", b"x" * 201, b"a\tb"):
        assert delivery_id([(b"idempotency-key", odd)]) == "sha256-" + hashlib.sha256(odd).hexdigest()


def ended(status: RunStatus, **fields: object) -> Run:
    return Run(id="r1", task="t", trigger=RunTrigger("webhook"), status=status, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "code"), [("succeeded", 200), ("failed", 500), ("lost", 500), ("cancelled", 500), ("timed_out", 504), ("skipped", 409)]
)
def test_each_end_of_a_run_has_its_status_and_names_the_run(status: RunStatus, code: int) -> None:
    answer = finished(ended(status, error="boom"))
    assert answer.status == code and (b"x-run-id", b"r1") in answer.headers
    if code != 200:
        assert json.loads(answer.body) == {"runId": "r1", "status": status, "error": "boom"}


def test_the_answer_is_the_output_or_the_result() -> None:
    output = finished(ended("succeeded", result=Result('{"a":1}', "text/html", b"<p>")))
    assert (output.status, output.type, output.body) == (200, b"text/html", b"<p>")
    value = finished(ended("succeeded", result=Result('{"a":1}')))
    assert (value.type, value.body) == (b"application/json", b'{"a":1}')
    assert finished(ended("succeeded")).body == b"null"


def test_an_output_cannot_add_headers() -> None:
    answer = finished(ended("succeeded", result=Result("1", "text/html\r\nset-cookie: a=b", b"<p>")))
    assert answer.type == b"application/json" and answer.body == b"1"


def test_accepted_names_the_run() -> None:
    assert accepted("r1")[:2] == (202, b'{"runId":"r1"}')


@pytest.mark.parametrize(("reason", "code"), [("overlap", 409), ("full", 429), ("suspended", 503), ("not_ready", 503), ("unknown", 404)])
def test_each_refusal_has_its_status(reason: str, code: int) -> None:
    answer = refused(Refused(reason=reason, message="why"))
    assert answer.status == code
    assert (code in (429, 503)) == any(name == b"retry-after" for name, _ in answer.headers)
    assert (code == 404) == (answer == NOT_FOUND)
