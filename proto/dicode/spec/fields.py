"""From YAML nodes to structs. How a field is read follows from its annotation in the struct, so the two cannot drift.

A field that is written in a form of its own, and rules over several fields, are given to the `Schema` beside it.
What is wrong becomes a fault at the key whose value is wrong; reading goes on, so that all faults are found at once.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Protocol, Union, get_args, get_origin, get_type_hints

import msgspec

from dicode.messages.fault import Fault
from dicode.messages.task import Millis
from dicode.spec import duration, yaml
from dicode.spec.yaml import Node, Scalar, Sequence, shown


class At(Protocol):
    """Something with a place in the file."""

    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...


class _Bad:
    """Stands for a value that could not be read; its fault has been noted."""


BAD = _Bad()
SECRETS = ("auth", "credentials")  # where people write a secret itself instead of fields: what stands there is never shown


class Faults:
    """What was found wrong in one file. Unknown keys come first, then by position (SPEC 1)."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._unknown: list[Fault] = []
        self._others: list[Fault] = []

    def add(self, at: At, message: str) -> _Bad:
        self._others.append(Fault(self.file, at.line, at.column, message))
        return BAD

    def unknown(self, at: At, message: str) -> None:
        self._unknown.append(Fault(self.file, at.line, at.column, message))

    def __bool__(self) -> bool:
        return bool(self._unknown or self._others)

    def sorted(self) -> tuple[Fault, ...]:
        return (*sorted(self._unknown, key=_position), *sorted(self._others, key=_position))


def _position(fault: Fault) -> tuple[int, int]:
    return fault.line, fault.column


#: Reads one value: the node, where faults go, the key (or list item) to blame, and its name for messages.
Take = Callable[[Node, Faults, At, str], Any]
#: A rule over the fields of one mapping: its node, the values that could be read, where faults go, the key it stands under.
Check = Callable[[yaml.Mapping, dict[str, Any], Faults, At], None]


class Field(NamedTuple):
    attribute: str
    take: Take
    required: bool


class Schema:
    """Readers for structs. `special`: how a field in a form of its own is read; `checks`: rules over a whole struct;
    `hints`: what to say beside a required field that is missing."""

    def __init__(
        self,
        special: Mapping[tuple[type[msgspec.Struct], str], Take] | None = None,
        checks: Mapping[type[msgspec.Struct], Check] | None = None,
        hints: Mapping[str, str] | None = None,
    ) -> None:
        self._special = special or {}
        self._checks = checks or {}
        self._hints = hints or {}
        self._readers: dict[type[msgspec.Struct], StructReader] = {}

    def reader(self, struct: type[msgspec.Struct], accepted: frozenset[str] = frozenset()) -> StructReader:
        """How a mapping is read as this struct; `accepted` keys may stand in it as well and are left to the caller."""
        if struct not in self._readers:
            hints = get_type_hints(struct, include_extras=True)
            fields = {
                field.encode_name: Field(
                    field.name,
                    self._special.get((struct, field.encode_name)) or self.take(hints[field.name]),
                    field.required,
                )
                for field in msgspec.structs.fields(struct)
            }
            self._readers[struct] = StructReader(struct, fields, accepted, self._checks.get(struct), self._hints)
        return self._readers[struct]

    def take(self, annotation: Any) -> Take:
        """How a value of this annotation is read."""
        annotation = without_none(annotation)
        if annotation == Millis:
            return millis
        if get_origin(annotation) is Annotated:
            meta = next(extra for extra in annotation.__metadata__ if isinstance(extra, msgspec.Meta))
            low, high = meta.ge, meta.le
            return whole(None if low is None else int(low), None if high is None else int(high))
        if annotation in _PLAIN:
            return _PLAIN[annotation]
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin is Literal:
            return one_of(arguments)
        if origin is tuple:
            return many(self.take(arguments[0]))
        if origin is dict:
            return table(self.take(arguments[1]))
        if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
            return self.reader(annotation)
        raise TypeError(f"no reader for {annotation}")


class StructReader:
    """Reads a mapping as a struct. Called like any `Take`."""

    def __init__(
        self, struct: type[msgspec.Struct], fields: dict[str, Field], accepted: frozenset[str], check: Check | None, hints: Mapping[str, str]
    ) -> None:
        self.struct = struct
        self.fields = fields
        self._accepted = accepted
        self._check = check
        self._hints = hints
        self._required = [(name, field.attribute) for name, field in fields.items() if field.required]

    def __call__(self, node: Node, faults: Faults, at: At, label: str) -> Any:
        if not isinstance(node, yaml.Mapping):
            found = "" if label in SECRETS else f", not {_kind(node)}"
            return faults.add(at, f"'{label}' must be a mapping of fields{found}")
        values: dict[str, Any] = {}
        meant: set[str] = set()
        bad = False
        fields = self.fields
        for key, child in node.items.items():
            field = fields.get(key)
            if field is None:
                if key not in self._accepted:
                    meant.add(self._unknown(key, node.keys[key], faults))
                    bad = True
            elif child.__class__ is not Scalar or not child.is_null:  # a key without a value is as good as absent
                value = field.take(child, faults, node.keys[key], key)
                if value is BAD:
                    bad = True
                else:
                    values[field.attribute] = value
        for key, attribute in self._required:
            if attribute not in values:
                bad = True
                if key not in meant and (key not in node.items or _is_null(node.items[key])):
                    faults.add(node.keys.get(key, at), f"'{key}' is missing" + self._hints.get(key, ""))
        if self._check is not None:
            self._check(node, values, faults, at)
        return BAD if bad else self.struct(**values)

    def _unknown(self, key: str, at: At, faults: Faults) -> str:
        """Note the fault; gives the field that was probably meant."""
        inner = [name for name, field in self.fields.items() if isinstance(field.take, StructReader) and key in field.take.fields]
        near = [f"{inner[0]}.{key}"] if inner else difflib.get_close_matches(key, [*self.fields, *self._accepted], 1)
        advice = f", did you mean '{near[0]}'?" if near else f"; known are {', '.join(self.fields)}"
        faults.unknown(at, f"unknown field '{shown(key)}'{advice}")
        return near[0] if near else ""


def text(node: Node, faults: Faults, at: At, label: str) -> Any:
    """Any scalar, as it was written."""
    if node.__class__ is Scalar:
        return node.text
    return faults.add(at, f"'{label}' must be text, not {_kind(node)}")


def boolean(node: Node, faults: Faults, at: At, label: str) -> Any:
    if isinstance(node, Scalar) and node.plain:
        if node.text == "true":
            return True
        if node.text == "false":
            return False
    return faults.add(at, f"'{label}' must be true or false, not {_kind(node)}")


def millis(node: Node, faults: Faults, at: At, label: str) -> Any:
    if not isinstance(node, Scalar):
        return faults.add(at, f"'{label}' must be a duration such as 30s, not {_kind(node)}")
    try:
        return duration.parse(node.text)
    except ValueError as error:
        return faults.add(at, f"'{label}': {error}")


_WHOLE = re.compile(r"[-+]?[0-9]{1,15}")
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,15}(?:\.[0-9]{0,15})?|\.[0-9]{1,15})")


def whole(low: int | None = None, high: int | None = None) -> Take:
    """A whole number between the two."""

    def take(node: Node, faults: Faults, at: At, label: str) -> Any:
        if not isinstance(node, Scalar) or not node.plain or not _WHOLE.fullmatch(node.text):
            return faults.add(at, f"'{label}' must be a whole number, not {_kind(node)}")
        value = int(node.text)
        if (low is not None and value < low) or (high is not None and value > high):
            return faults.add(at, f"'{label}' must be {_range(low, high)}, not {value}")
        return value

    return take


def number(low: float | None = None, high: float | None = None) -> Take:
    """A finite number between the two, without an exponent."""

    def take(node: Node, faults: Faults, at: At, label: str) -> Any:
        if not isinstance(node, Scalar) or not node.plain or not _NUMBER.fullmatch(node.text):
            return faults.add(at, f"'{label}' must be a number, not {_kind(node)}")
        value = float(node.text)
        if (low is not None and value < low) or (high is not None and value > high):
            return faults.add(at, f"'{label}' must be {_range(low, high)}, not {node.text}")
        return value

    return take


def _range(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"between {low} and {high}"
    return f"at least {low}" if low is not None else f"at most {high}"


def one_of(values: tuple[str, ...]) -> Take:
    """One of these words."""
    known = frozenset(values)

    def take(node: Node, faults: Faults, at: At, label: str) -> Any:
        if isinstance(node, Scalar) and node.text in known:
            return node.text
        near = difflib.get_close_matches(node.text, values, 1) if isinstance(node, Scalar) else []
        meant = f", did you mean '{near[0]}'?" if near else ""
        return faults.add(at, f"'{label}' must be one of {', '.join(values)}, not {_kind(node)}{meant}")

    return take


def many(item: Take) -> Take:
    """A list, as a tuple. What is wrong with an item is placed at the item."""

    def take(node: Node, faults: Faults, at: At, label: str) -> Any:
        if not isinstance(node, Sequence):
            return faults.add(at, f"'{label}' must be a list, not {_kind(node)}")
        values = tuple(_item(item, each, faults, label) for each in node.items)
        return BAD if BAD in values else values

    return take


def _item(item: Take, node: Node, faults: Faults, label: str) -> Any:
    return faults.add(node, f"an item of '{label}' is empty") if _is_null(node) else item(node, faults, node, label)


def table(value: Take) -> Take:
    """A mapping of any names to values, as a dict."""

    def take(node: Node, faults: Faults, at: At, label: str) -> Any:
        if not isinstance(node, yaml.Mapping):
            return faults.add(at, f"'{label}' must be a mapping of names to values, not {_kind(node)}")
        values = {key: value(child, faults, node.keys[key], f"{label}.{shown(key)}") for key, child in node.items.items()}
        return BAD if any(each is BAD for each in values.values()) else values

    return take


_PLAIN: dict[Any, Take] = {str: text, bool: boolean, int: whole(), float: number()}


def without_none(annotation: Any) -> Any:
    """The annotation of a field that may be absent, without the None."""
    if get_origin(annotation) in (Union, UnionType):
        left = [each for each in get_args(annotation) if each is not NoneType]
        if len(left) == 1:
            return left[0]
    return annotation


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.is_null


def _kind(node: Node) -> str:
    """What stands there, for a message."""
    match node:
        case yaml.Mapping():
            return "a mapping"
        case Sequence():
            return "a list"
        case Scalar(plain=True):
            return f"{shown(node.text) or 'nothing'}"
        case Scalar():
            return f'"{shown(node.text)}"'
