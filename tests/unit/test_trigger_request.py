"""Which Host needs nobody's DNS."""

from __future__ import annotations

import pytest

from dicode.trigger.request import is_of_this_machine


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8080", "127.0.0.1", "[::1]:8080", "[::1]", "192.168.1.7:80", "localhost", "LOCALHOST:1", "app.localhost:8080"]
)
def test_an_address_or_localhost(host: str) -> None:
    assert is_of_this_machine(host.encode())


@pytest.mark.parametrize(
    "host", ["", ":80", "evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "[evil]:80", "\xff:1"]
)
def test_no_other_name(host: str) -> None:
    assert not is_of_this_machine(host.encode("latin-1"))
