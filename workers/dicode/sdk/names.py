"""The names a python task has: params, input, output, log, env, kv, mcp, dicode. Standard library only."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from dicode.sdk.session import SdkError, Session


class Params(dict):  # type: ignore[type-arg]  # names and values as the task declared them
    """The run's params: `params.get("name")`, `params["name"]`, `params.all()`."""

    def all(self) -> dict[str, Any]:
        return dict(self)

    async def get_async(self, name: str, default: Any = None) -> Any:
        return self.get(name, default)

    async def all_async(self) -> dict[str, Any]:
        return self.all()


class Log:
    """`log.info("…")`: debug and info go to stdout, warn and error to stderr, one line each, in order with what is printed."""

    def debug(self, *words: object) -> None:
        print(*words, file=sys.stdout, flush=True)

    def info(self, *words: object) -> None:
        print(*words, file=sys.stdout, flush=True)

    def warn(self, *words: object) -> None:
        print(*words, file=sys.stderr, flush=True)

    warning = warn

    def error(self, *words: object) -> None:
        print(*words, file=sys.stderr, flush=True)

    async def debug_async(self, *words: object) -> None:
        self.debug(*words)

    async def info_async(self, *words: object) -> None:
        self.info(*words)

    async def warn_async(self, *words: object) -> None:
        self.warn(*words)

    async def error_async(self, *words: object) -> None:
        self.error(*words)


class Output:
    """What the webhook answers. `data`, if given, is the run's result in place of what the task returns."""

    def __init__(self, session: Callable[[], Session]) -> None:
        self._session = session

    def html(self, content: str, data: Any = None) -> None:
        self._set("text/html; charset=utf-8", content, data)

    def text(self, content: str, data: Any = None) -> None:
        self._set("text/plain; charset=utf-8", content, data)

    def image(self, content: bytes | str, content_type: str = "image/png", data: Any = None) -> None:
        """`content`: the image's bytes, or base64 text."""
        self._set(content_type, base64.b64decode(content) if isinstance(content, str) else content, data)

    def file(self, content: bytes | str, content_type: str = "application/octet-stream", data: Any = None) -> None:
        self._set(content_type, content, data)

    async def html_async(self, content: str, data: Any = None) -> None:
        await asyncio.to_thread(self.html, content, data)

    async def text_async(self, content: str, data: Any = None) -> None:
        await asyncio.to_thread(self.text, content, data)

    async def image_async(self, content: bytes | str, content_type: str = "image/png", data: Any = None) -> None:
        await asyncio.to_thread(self.image, content, content_type, data)

    async def file_async(self, content: bytes | str, content_type: str = "application/octet-stream", data: Any = None) -> None:
        await asyncio.to_thread(self.file, content, content_type, data)

    def _set(self, content_type: str, content: bytes | str, data: Any) -> None:
        raw = content.encode() if isinstance(content, str) else bytes(content)
        args: dict[str, Any] = {"content_type": content_type, "content": base64.b64encode(raw).decode()}
        if data is not None:
            args["data"] = data
        self._session().call("output", **args)


class Kv:
    """Small values that this task keeps from run to run; any JSON."""

    def __init__(self, session: Callable[[], Session]) -> None:
        self._session = session

    def get(self, key: str, default: Any = None) -> Any:
        value = self._session().call("kv.get", key=key)
        return default if value is None else value

    def set(self, key: str, value: Any) -> None:
        self._session().call("kv.set", key=key, value=value)

    def delete(self, key: str) -> None:
        self._session().call("kv.delete", key=key)

    def list(self, prefix: str = "") -> list[str]:
        keys: list[str] = self._session().call("kv.list", prefix=prefix)
        return keys

    async def get_async(self, key: str, default: Any = None) -> Any:
        return await asyncio.to_thread(self.get, key, default)

    async def set_async(self, key: str, value: Any) -> None:
        await asyncio.to_thread(self.set, key, value)

    async def delete_async(self, key: str) -> None:
        await asyncio.to_thread(self.delete, key)

    async def list_async(self, prefix: str = "") -> Any:
        return await asyncio.to_thread(self.list, prefix)


class Remote:
    """Methods of dicode itself by name, `dicode.run_task("x")`; each has an `_async` form. What dicode refuses raises SdkError."""

    def __init__(self, prefix: str, session: Callable[[], Session]) -> None:
        self._prefix = prefix
        self._session = session

    @property
    def task_id(self) -> str:
        return os.environ.get("DICODE_TASK_ID", "")  # noqa: TID251  # of the task itself

    @property
    def run_id(self) -> str:
        return os.environ.get("DICODE_RUN_ID", "")  # noqa: TID251  # of the task itself

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        method = f"{self._prefix}.{name.removesuffix('_async')}"

        def call(*args: Any, **named: Any) -> Any:
            return self._session().call(method, args=list(args), **named)

        async def call_async(*args: Any, **named: Any) -> Any:
            return await asyncio.to_thread(call, *args, **named)

        return call_async if name.endswith("_async") else call


class Names:
    """Makes each name when it is first used. `begin` is for whoever knows params and input already."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._session: Session | None = None

    def begin(self, params: dict[str, Any], given: Any) -> None:
        self._session = None
        self._values = {"params": Params(params), "input": given}

    def ask(self) -> None:
        """Learn params and input from dicode; a daemon has no DICODE_SOCKET and its params in DICODE_PARAMS."""
        environ = os.environ  # noqa: TID251  # of the task itself
        if not environ.get("DICODE_SOCKET"):
            self.begin(json.loads(environ.get("DICODE_PARAMS", "{}")), None)
            return
        session = self.session()
        self._values = {"params": Params(session.call("params")), "input": session.call("input")}
        session.close()

    def session(self) -> Session:
        if self._session is None:
            environ = os.environ  # noqa: TID251  # of the task itself
            self._session = Session(environ.get("DICODE_SOCKET", ""), environ.get("DICODE_TOKEN", ""))
        return self._session

    def value(self, name: str) -> Any:
        if name in ("params", "input") and "params" not in self._values:
            self.ask()
        if name not in self._values:
            self._values[name] = self._make(name)
        return self._values[name]

    def _make(self, name: str) -> Any:
        if name == "output":
            return Output(self.session)
        if name == "kv":
            return Kv(self.session)
        if name == "log":
            return Log()
        if name == "env":
            return os.environ  # noqa: TID251  # of the task itself
        if name in ("dicode", "mcp"):
            return Remote(name, self.session)
        raise SdkError(f"there is no {name}")


NAMES = Names()
ALL = ("params", "input", "output", "log", "env", "kv", "mcp", "dicode")
