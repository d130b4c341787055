"""Which files of a webhook's folder a browser may see, and the page with our script in it. Pure."""

from __future__ import annotations

import html
import re

TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".mjs": b"text/javascript; charset=utf-8",
    ".json": b"application/json",
    ".svg": b"image/svg+xml",
    ".png": b"image/png",
    ".jpg": b"image/jpeg",
    ".jpeg": b"image/jpeg",
    ".gif": b"image/gif",
    ".webp": b"image/webp",
    ".ico": b"image/x-icon",
    ".woff": b"font/woff",
    ".woff2": b"font/woff2",
    ".txt": b"text/plain; charset=utf-8",
}
_SEGMENT = re.compile(r"[A-Za-z0-9_@~-][A-Za-z0-9_@~.-]{0,120}", re.ASCII)  # never a dotfile, never `..`
_LOCK = re.compile(r"(^|[._-])lock(\.|$)|npm-shrinkwrap", re.IGNORECASE)
_BEGINS = tuple(re.compile(tag, re.IGNORECASE) for tag in (rb"<head(\s[^>]*)?>", rb"<html(\s[^>]*)?>", rb"<!doctype[^>]*>"))


def asset_type(path: str, key: str = "") -> bytes | None:
    """The content type of this path in the folder; None when it is not for browsers. `key`: what the files of an inline task are called."""
    *folders, name = path.split("/")
    if not all(_SEGMENT.fullmatch(part) for part in (*folders, name)):
        return None
    if name.lower().startswith(("task.", f"{key.lower() or 'task'}.")) or _LOCK.search(name):
        return None
    return TYPES.get("." + name.rpartition(".")[2].lower()) if "." in name else None


def base_of(path: str, below: str) -> str:
    """From the page at the URL path `path` to the folder of its hook, as a relative link. `below`: what of the path lies below the hook.

    Relative, for by a relay or a proxy the page stands at a path nobody here knows.
    """
    return "./" if below or path.endswith("/") else f"./{path.rpartition('/')[2]}/"


def with_script(page: bytes, base: str) -> bytes:
    """index.html with the base its relative links need, and our script."""
    injected = f'<base href="{html.escape(base, quote=True)}"><script src="./{SCRIPT_NAME}"></script>'.encode()
    found = next((found for found in (tag.search(page) for tag in _BEGINS) if found is not None), None)
    at = found.end() if found is not None else 0
    return page[:at] + injected + page[at:]


SCRIPT_NAME = "dicode.js"  # beside each page; a file of this name in the folder is not seen
SCRIPT = b"""// The page's way to its task: dicode.run({param: value}) resolves to the result, or throws with the run's error.
(() => {
  const hook = new URL(document.baseURI).pathname.replace(/[/]$/, "");
  async function run(input = {}, {wait = true} = {}) {
    const answer = await fetch(hook + (wait ? "" : "?wait=false"), {
      method: "POST",
      headers: {"content-type": "application/json"},
      body: JSON.stringify(input),
    });
    const type = answer.headers.get("content-type") || "";
    const result = type.startsWith("application/json") ? await answer.json() : type.startsWith("text/") ? await answer.text() : await answer.blob();
    if (!answer.ok) throw Object.assign(new Error((result && result.error) || answer.statusText), {status: answer.status, result});
    return result;
  }
  window.dicode = {hook, run, execute: run};
})();
"""
