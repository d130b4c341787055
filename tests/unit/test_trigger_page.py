"""Which files of a hook's folder a browser may see."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicode.trigger.page import asset_type, with_script


@pytest.mark.parametrize("path", ["a.css", "js/app.mjs", "img/x-1.min.js", "A.PNG", "deep/er/font.woff2", "read.txt"])
def test_assets_are_served_with_their_type(path: str) -> None:
    assert asset_type(path) is not None


@pytest.mark.parametrize(
    "path",
    [
        "", "a", "task.py", "task.js", "TASK.json", "sub/task.html", ".env", ".git/config.json", "a/.hidden.css", "../a.css", "a/../b.css",
        "a//b.css", "/etc/a.css", "package-lock.json", "deno.lock", "npm-shrinkwrap.json", "a.lock.json", "x.ts", "x.py", "x.yaml", "x.sh", "a.css/", "a\\b.css",
        "a%2fb.css", "a\0.css", "a.css\n", "x.", "é.css", "a." + "c" * 300,
    ],
)  # fmt: skip
def test_everything_else_is_not(path: str) -> None:
    assert asset_type(path) is None


@given(st.text(max_size=40))
def test_no_path_leads_out_of_the_folder(path: str) -> None:
    if asset_type(path) is not None:
        assert not path.startswith("/") and all(part not in ("", ".", "..") for part in path.split("/")) and path.isprintable()


def test_the_script_comes_first_in_the_head() -> None:
    page = with_script(b"<!doctype html><html><HEAD lang=x><title>", "/hooks/x")
    assert b'<HEAD lang=x><base href="/hooks/x/">' in page and b'<script src="/dicode.js"></script><title>' in page
    assert with_script(b"<p>hi", "/hooks/x").endswith(b"</script><p>hi")


def test_a_path_cannot_write_html() -> None:
    assert b"<script>alert" not in with_script(b"<head>", '/hooks/"><script>alert(1)</script>')


def test_the_script_of_an_inline_task_is_no_asset() -> None:
    assert asset_type("deploy.js", "deploy") is None
    assert asset_type("page.js", "deploy") is not None
    assert asset_type("deploy.js") is not None
