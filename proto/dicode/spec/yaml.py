"""YAML as a tree of nodes with positions, read from parser events in one pass.

Nothing is guessed: every scalar stays the text that was written, and what it means is decided by the field it stands in.
Refused with their line: anchors, aliases, merge keys, tags, second documents, duplicate keys, and what is over the limits,
which are checked on the way (PyYAML's own composer overflows the C stack at 50,000 `[`).
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from yaml import MarkedYAMLError, YAMLError
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from yaml.reader import ReaderError

from dicode.messages.fault import Fault

try:
    from yaml._yaml import CParser as _Parser
except ImportError:  # PyYAML built without libyaml: ten times slower, the same events
    from yaml import SafeLoader as _Parser  # type: ignore[assignment]  # it has the one method we use

MAX_DEPTH = 32
MAX_FAULTS = 100  # of one file; who has more will look again anyway


class Place(NamedTuple):
    """Where something stands; both count from 1."""

    line: int
    column: int


TOP = Place(1, 1)


class Scalar:
    """Text as it was written. `plain`: without quotes, so that `true`, `null` and numbers may be meant."""

    __slots__ = ("column", "line", "plain", "text")

    def __init__(self, text: str, plain: bool, line: int, column: int) -> None:
        self.text = text
        self.plain = plain
        self.line = line
        self.column = column

    @property
    def is_null(self) -> bool:
        return self.plain and self.text in ("", "~", "null", "Null", "NULL")


class Mapping:
    """Keys in their order, each once. `keys` has the key's own scalar, for its place."""

    __slots__ = ("column", "items", "keys", "line")

    def __init__(self, line: int, column: int) -> None:
        self.items: dict[str, Node] = {}
        self.keys: dict[str, Scalar] = {}
        self.line = line
        self.column = column

    def place(self, key: str) -> Place | None:
        """Where this key stands."""
        found = self.keys.get(key)
        return None if found is None else Place(found.line, found.column)


class Sequence:
    __slots__ = ("column", "items", "line")

    def __init__(self, line: int, column: int) -> None:
        self.items: list[Node] = []
        self.line = line
        self.column = column


Node = Scalar | Mapping | Sequence


class Limits(NamedTuple):
    bytes: int
    nodes: int


TASK = Limits(64 * 1024, 2_000)
CONFIG = Limits(1024 * 1024, 200_000)


class Document(NamedTuple):
    """`root` is None when there are faults, or when the file holds nothing."""

    root: Node | None
    faults: tuple[Fault, ...]


class _Stop(Exception):
    """No use in reading on."""


def read(data: bytes, file: str, limits: Limits) -> Document:
    """The one document in `data`. Never raises."""
    faults: list[Fault] = []
    root: Node | None = None
    try:
        root = _Reader(_text(data, file, limits, faults), file, limits, faults).document()
    except _Stop:
        pass
    except YAMLError as error:
        faults.append(_syntax(error, data, file))
    return Document(None if faults else root, tuple(faults))


def _text(data: bytes, file: str, limits: Limits, faults: list[Fault]) -> bytes:
    wrong: tuple[int, str] | None = None
    if len(data) > limits.bytes:
        faults.append(Fault(file, 1, 1, f"larger than {limits.bytes // 1024} KiB: put data into files beside it"))
        raise _Stop
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        wrong = 0, "is UTF-16: save it as UTF-8"
    elif (at := data.find(0)) >= 0:
        wrong = at, "holds a NUL byte: save it as UTF-8 text"
    elif not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError as error:
            wrong = error.start, "is not UTF-8: save it as UTF-8"
    if wrong is not None:
        faults.append(Fault(file, *_place_of(data, wrong[0]), f"the file {wrong[1]}"))
        raise _Stop
    return data


class _Reader:
    """One pass over the events; an explicit stack, so that depth costs no recursion."""

    def __init__(self, data: bytes, file: str, limits: Limits, faults: list[Fault]) -> None:
        self._next: Any = _Parser(data).get_event
        self._file = file
        self._limits = limits
        self._faults = faults

    def document(self) -> Node | None:
        root: Node | None = None
        while True:
            event = self._next()
            kind = event.__class__
            if kind is StreamEndEvent:
                return root
            if kind is DocumentStartEvent:
                if root is not None:
                    self._refuse(event.start_mark, "a second document: keep one file to one document")
                    raise _Stop
                root = self._tree()

    def _tree(self) -> Node:
        """The node that begins with the next event, and all in it."""
        stack: list[Mapping | Sequence] = []
        keys: list[Scalar | None] = []  # of the mappings in `stack`: the key whose value comes next
        nodes = 0
        get = self._next
        while True:
            event = get()
            kind = event.__class__
            if kind is MappingEndEvent or kind is SequenceEndEvent:
                done = stack.pop()
                keys.pop()
                if not stack:
                    return done
                continue
            nodes += 1
            mark = event.start_mark
            line, column = mark.line + 1, mark.column + 1
            if nodes > self._limits.nodes:
                self._refuse(mark, f"more than {self._limits.nodes:,} nodes: put data into files beside it")
                raise _Stop
            node: Node
            if kind is ScalarEvent:
                if event.anchor is not None or event.tag is not None:
                    self._refuse_marks(event)
                text = event.value
                if "\0" in text:
                    self._refuse(mark, "a NUL character in the text")
                node = Scalar(text, event.implicit[0], line, column)
            elif kind is MappingStartEvent or kind is SequenceStartEvent:
                if event.anchor is not None or event.tag is not None:
                    self._refuse_marks(event)
                node = Mapping(line, column) if kind is MappingStartEvent else Sequence(line, column)
            elif kind is AliasEvent:
                self._refuse(mark, f"alias *{event.anchor}: aliases are not supported, write the value out")
                node = Scalar("", False, line, column)
            else:  # the document ended where a node was expected: nothing else can come here
                raise _Stop
            if stack:
                top = stack[-1]
                if isinstance(top, Sequence):
                    top.items.append(node)
                else:
                    self._into_mapping(top, keys, node)
            if kind is MappingStartEvent or kind is SequenceStartEvent:
                stack.append(node)  # type: ignore[arg-type]  # one of the two it is
                keys.append(None)
                if len(stack) > MAX_DEPTH:
                    self._refuse(mark, f"nested deeper than {MAX_DEPTH}")
                    raise _Stop
            elif not stack:
                return node

    def _into_mapping(self, mapping: Mapping, keys: list[Scalar | None], node: Node) -> None:
        key = keys[-1]
        if key is not None:
            keys[-1] = None
            mapping.items[key.text] = node
            mapping.keys[key.text] = key
            return
        if not isinstance(node, Scalar):
            self._fault(node.line, node.column, "a key must be plain text")
            keys[-1] = Scalar("", False, node.line, node.column)
            return
        keys[-1] = node
        if node.text in mapping.keys:
            self._fault(node.line, node.column, f"duplicate key '{shown(node.text)}', first in line {mapping.keys[node.text].line}")
        elif node.text == "<<" and node.plain:
            self._fault(node.line, node.column, "merge key '<<': merge keys are not supported, write the fields out")

    def _refuse_marks(self, event: Any) -> None:
        if event.anchor is not None:
            self._refuse(event.start_mark, f"anchor &{event.anchor}: anchors are not supported, write the value out")
        if event.tag is not None:
            self._refuse(event.start_mark, f"tag {shown(event.tag)}: tags are not supported, write the plain value")

    def _refuse(self, mark: Any, message: str) -> None:
        self._fault(mark.line + 1, mark.column + 1, message)

    def _fault(self, line: int, column: int, message: str) -> None:
        self._faults.append(Fault(self._file, line, column, message))
        if len(self._faults) >= MAX_FAULTS:
            raise _Stop


_PASSWORD = re.compile(r"(?<=://)(?:[^/@\s:]*:[^/@\s]*|[^/@\s]{33,})(?=@)")  # a user of this length is rather a token


def shown(text: str) -> str:
    """Text from a file, short enough and clean enough for a message, and without the password of a URL."""
    text = _PASSWORD.sub("…", text[:2_000])
    short = text if len(text) <= 60 else text[:60] + "…"
    return short if short.isprintable() else ascii(short)[1:-1]


def _syntax(error: YAMLError, data: bytes, file: str) -> Fault:
    if isinstance(error, MarkedYAMLError) and (mark := error.problem_mark or error.context_mark) is not None:
        line, column = mark.line + 1, mark.column + 1
        words = [error.context, error.problem]
        message = ": ".join(word for word in words if word)
        there = b"".join(data.split(b"\n")[line - 1 : line])  # nothing where YAML counts more line breaks than these
        if "cannot start any token" in message and there.lstrip(b" ").startswith(b"\t"):
            message = "a tab in the indentation: indent with spaces"
        return Fault(file, line, column, f"not YAML: {message}")
    if isinstance(error, ReaderError):
        line, column = _place_of(data, error.position)
        return Fault(file, line, column, f"not YAML: {error.reason}")
    return Fault(file, 1, 1, "not YAML")


def _place_of(data: bytes, offset: int) -> Place:
    """Line and column of a byte; columns count characters."""
    before = data[:offset]
    start = before.rfind(b"\n") + 1
    return Place(before.count(b"\n") + 1, len(before[start:].decode(errors="replace")) + 1)
