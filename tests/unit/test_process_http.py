"""Who a caller is."""

from __future__ import annotations

import pytest

from dicode.process.http import remote_of


@pytest.mark.parametrize(
    ("peer", "forwarded", "remote"),
    [
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", ["127.0.0.1"], "203.0.113.9"),  # a stranger may say what he likes
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["1.2.3.4, 203.0.113.7"], "203.0.113.7"),  # a proxy of this machine appends what it saw
        ("::1", ["1.2.3.4", "2001:db8::1"], "2001:db8::1"),
        ("127.0.0.1", ["1.2.3.4, <script>"], "127.0.0.1"),
        ("127.0.0.1", [""], "127.0.0.1"),
        ("127.0.0.1", ["\xff" * 500], "127.0.0.1"),
        ("not an address", ["1.2.3.4"], ""),
        ("", [], ""),
    ],
)
def test_only_a_proxy_of_this_machine_is_believed(peer: str, forwarded: list[str], remote: str) -> None:
    headers = [(b"X-Forwarded-For", value.encode("latin-1")) for value in forwarded]
    assert remote_of({"client": (peer, 1), "headers": headers}) == remote


def test_a_caller_without_an_address_has_none() -> None:
    assert remote_of({"client": None, "headers": []}) == ""
