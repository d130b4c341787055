"""Which files of a hook's folder a browser may see."""

from __future__ import annotations

from urllib.parse import urljoin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicode.trigger.page import asset_type, base_of, with_script


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


SCRIPT = b'<script src="./dicode.js"></script>'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"<!doctype html><html><HEAD lang=x>", b"<title>"),
        (b"<!doctype html>\n<html lang='en'>", b"<p>hi"),
        (b"\xef\xbb\xbf<!DOCTYPE html>", b"\n<header>hi"),  # before it, the browser would fall into quirks
        (b"", b"<p>hi"),
    ],
)
def test_the_script_comes_first_in_the_head_and_never_before_the_doctype(before: bytes, after: bytes) -> None:
    assert with_script(before + after, "./x/") == before + b'<base href="./x/">' + SCRIPT + after


@pytest.mark.parametrize("prefix", ["", "/home", "/deep/er/home"])
@pytest.mark.parametrize("hook", ["/hooks/x", "/hooks/a/b.c"])
@pytest.mark.parametrize("at", ["", "/", "/index.html"])
def test_links_of_a_page_lead_to_its_hook_wherever_it_stands(prefix: str, hook: str, at: str) -> None:
    base = urljoin(f"https://relay.example{prefix}{hook}{at}?q=a/b", base_of(hook + at, at.strip("/")))
    assert urljoin(base, "app.css") == f"https://relay.example{prefix}{hook}/app.css"


def test_a_path_cannot_write_html() -> None:
    assert b"<script>alert" not in with_script(b"<head>", base_of('/hooks/"><script>alert(1)<b>', ""))


def test_the_script_of_an_inline_task_is_no_asset() -> None:
    assert asset_type("deploy.js", "deploy") is None
    assert asset_type("page.js", "deploy") is not None
    assert asset_type("deploy.js") is not None
