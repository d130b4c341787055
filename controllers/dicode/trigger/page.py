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
_HEAD = re.compile(rb"<head(\s[^>]*)?>", re.IGNORECASE)


def asset_type(path: str, key: str = "") -> bytes | None:
    """The content type of this path in the folder; None when it is not for browsers. `key`: what the files of an inline task are called."""
    *folders, name = path.split("/")
    if not all(_SEGMENT.fullmatch(part) for part in (*folders, name)):
        return None
    if name.lower().startswith(("task.", f"{key.lower() or 'task'}.")) or _LOCK.search(name):
        return None
    return TYPES.get("." + name.rpartition(".")[2].lower()) if "." in name else None


def with_script(page: bytes, path: str) -> bytes:
    """index.html with the base its relative links need, and `/dicode.js`."""
    base = html.escape(path.rstrip("/") + "/", quote=True)
    injected = f'<base href="{base}"><meta name="dicode-hook" content="{html.escape(path, quote=True)}"><script src="/dicode.js"></script>'.encode()
    head = _HEAD.search(page)
    if head is None:
        return injected + page
    return page[: head.end()] + injected + page[head.end() :]


SCRIPT = b"""// The page's way to its task: dicode.run({param: value}) resolves to the result, or throws with the run's error.
(() => {
  const hook = document.querySelector('meta[name="dicode-hook"]').content;
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
