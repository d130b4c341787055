"""Secrets are compared by `hmac.compare_digest` and nothing else: its verdict is ours, for the right one, too. How long it takes is its promise."""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from dicode.relay.tokens import parse
from dicode.sdk.server import Conversation, Desk, Hangup
from dicode.sdk.values import KvFile
from dicode.trigger import push, webhook

SECRET, BODY = b"it is a secret", b'{"ref": "refs/heads/main"}'
HEX = hmac.digest(SECRET, BODY, hashlib.sha256).hex().encode()


def opens_a_socket() -> bool:
    """The socket of a run, to who has its token."""
    body = json.dumps({"token": SECRET.decode()}).encode()
    desk = Desk("t", "r", SECRET.decode(), {}, "", KvFile(Path("/nowhere/kv")), lambda level, text: None)
    try:
        return bool(Conversation(desk).feed(struct.pack("<I", len(body)) + body))
    except Hangup:
        return False


CHECKS: dict[str, Callable[[], bool]] = {
    "a webhook's signature": lambda: webhook.signed(SECRET, BODY, [b"sha256=" + HEX]),
    "GitHub's": lambda: push.verified(SECRET, BODY, [(b"x-hub-signature-256", b"sha256=" + HEX)]),
    "Gitea's": lambda: push.verified(SECRET, BODY, [(b"x-gitea-signature", HEX)]),
    "GitLab's token": lambda: push.verified(SECRET, BODY, [(b"x-gitlab-token", SECRET)]),
    "a relay's token": lambda: parse(b"home " + b"x" * 64, "tokens").admit("home", b"x" * 64),
    "a run's token": opens_a_socket,
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_a_secret_is_compared_in_constant_time(check: Callable[[], bool], monkeypatch: pytest.MonkeyPatch) -> None:
    assert check()
    monkeypatch.setattr(hmac, "compare_digest", lambda one, other: False)
    assert not check()
