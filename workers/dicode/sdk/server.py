"""Our end of DICODE_SOCKET: what a task may ask, and the answers. No I/O but the task's own key-value file."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dicode.sdk.values import KvFile, KvRefused

MESSAGE_MAX = 1 << 20  # bytes of one message
RESULT_MAX = 640 * 1024  # bytes of result and output together: they travel in one frame, with the input
PROTOCOL = 1
_LENGTH = struct.Struct("<I")


class Hangup(Exception):
    """This peer speaks another language, or has no token: close the connection."""


class Refused(Exception):
    """The task asked for something it cannot have; the text is its answer."""


@dataclass
class Desk:
    """Answers the questions of one run, and remembers what it gave back."""

    task_id: str
    run_id: str
    token: str
    params: Mapping[str, Any]
    input: str  # JSON text, "" for none
    kv: KvFile
    log: Callable[[str, str], None]  # (level, text)
    value: str = ""
    data: str = ""
    content_type: str = ""
    content: bytes = field(default=b"", repr=False)

    @property
    def result(self) -> str:
        """JSON text: what was given as `data` of an output, else what the task returned; "" for nothing."""
        return self.data or self.value

    def answer(self, method: str, args: dict[str, Any]) -> Any:
        """Raises Refused."""
        match method:
            case "params":
                return dict(self.params)
            case "input":
                return json.loads(self.input) if self.input else None
            case "log":
                self.log(str(args.get("level", "info")), str(args.get("message", "")))
                return None
            case "return":
                self.value = self._fitting(_text(args, "value"), len(self.content))
                return None
            case "output":
                return self._output(args)
            case "kv.get" | "kv.set" | "kv.delete" | "kv.list":
                return self._keep(method.removeprefix("kv."), args)
        if method.startswith(("dicode.", "mcp.")):
            raise Refused(f"{method} is not built in this release")
        raise Refused(f"there is no {method!r}")

    def _output(self, args: dict[str, Any]) -> None:
        try:
            content = base64.b64decode(_text(args, "content"), validate=True)
        except binascii.Error:
            raise Refused("output: content is not base64") from None
        data = json.dumps(args["data"], ensure_ascii=False) if "data" in args else ""
        self._fitting(data or self.value, len(content))
        self.content_type, self.content, self.data = _text(args, "content_type"), content, data

    def _keep(self, verb: str, args: dict[str, Any]) -> Any:
        try:
            match verb:
                case "get":
                    return self.kv.get(_text(args, "key"))
                case "set":
                    return self.kv.set(_text(args, "key"), args.get("value"))
                case "delete":
                    return self.kv.delete(_text(args, "key"))
                case _:
                    return self.kv.list(_text(args, "prefix"))
        except (KvRefused, OSError) as error:
            raise Refused(f"kv.{verb}: {error}") from None

    def _fitting(self, text: str, beside: int) -> str:
        size = len(_encoded(text, "the result")) + beside
        if size > RESULT_MAX:
            raise Refused(f"the result has {size} bytes, {RESULT_MAX} are allowed: write it to a file and return its name")
        return text


def _text(args: dict[str, Any], name: str) -> str:
    value = args.get(name)
    if not isinstance(value, str):
        raise Refused(f"{name} must be text")
    _encoded(value, name)
    return value


def _encoded(text: str, name: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise Refused(f"{name} holds half a character (a lone surrogate)") from None


class Conversation:
    """One connection: bytes in, bytes out. The first message must be the token."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._buffer = bytearray()
        self._known = False

    def feed(self, data: bytes) -> bytes:
        """The answers to what is complete now. Raises Hangup."""
        self._buffer += data
        answers = bytearray()
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MESSAGE_MAX:
                raise Hangup(f"a message of {length} bytes")
            if len(self._buffer) < _LENGTH.size + length:
                break
            body = bytes(self._buffer[_LENGTH.size : _LENGTH.size + length])
            del self._buffer[: _LENGTH.size + length]
            answers += _packed(self._answer(body))
        return bytes(answers)

    def _answer(self, body: bytes) -> dict[str, Any]:
        try:
            message = json.loads(body)
        except (ValueError, RecursionError):
            raise Hangup("no JSON") from None
        if not isinstance(message, dict):
            raise Hangup("no object")
        if not self._known:
            given = message.get("token")
            if not isinstance(given, str) or not hmac.compare_digest(given.encode(errors="replace"), self._desk.token.encode()):
                raise Hangup("wrong token")
            self._known = True
            return {"proto": PROTOCOL, "task_id": self._desk.task_id, "run_id": self._desk.run_id}
        marks = {"id": message["id"]} if "id" in message else {}
        args = message.get("args")
        try:
            return {**marks, "result": self._desk.answer(str(message.get("method")), args if isinstance(args, dict) else {})}
        except Refused as refusal:
            return {**marks, "error": str(refusal)}
        except (ValueError, RecursionError) as error:  # JSON that can be read and not be written
            return {**marks, "error": f"{message.get('method')}: {error}"}


def _packed(answer: dict[str, Any]) -> bytes:
    body = json.dumps(answer, ensure_ascii=False).encode(errors="replace")
    return _LENGTH.pack(len(body)) + body
