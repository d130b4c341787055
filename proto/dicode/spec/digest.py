"""The digest of a task, as SPEC 5 defines it: anyone can recompute it with sha256sum."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

import msgspec

from dicode.messages.task import TaskSpec
from dicode.spec.folder import FolderFile

HEAD = "dicode-digest/1"
#: What no process can notice.
COSMETIC = ("name", "description", "version", "author", "tags", "notify", "retry", "overlap")
FIRING = ("cron", "webhook", "chain")

_encoder = msgspec.json.Encoder(order="sorted")


def spec_json(spec: TaskSpec) -> bytes:
    """The fields that are set, as JSON: keys sorted, no spaces, UTF-8, not ASCII-escaped."""
    return _encoder.encode(spec)


def manifest(spec: bytes, files: Iterable[FolderFile]) -> bytes:
    """The text whose SHA-256 is the digest. `spec` as `spec_json` gives it."""
    rows = sorted([(file.path.encode(), file) for file in files], key=_path)
    lines = [f"{HEAD}\nspec {sha256(spec).hexdigest()}\n".encode()]
    lines += [b"%s %s %d %s\n" % (file.kind.encode(), sha256(file.content).hexdigest().encode(), len(file.content), path) for path, file in rows]
    return b"".join(lines)


def _path(row: tuple[bytes, FolderFile]) -> bytes:
    return row[0]


def digest_of(manifest: bytes) -> str:
    """The SHA-256 of a manifest, in hex."""
    return sha256(manifest).hexdigest()


def process_of(spec: TaskSpec, manifest: bytes) -> str:
    """The same over what a process can notice. `manifest` is the task's whole one."""
    noticed = _encoder.encode(_noticed(spec))
    files = b"".join(line for line in manifest.splitlines(keepends=True)[2:] if line.split(b" ", 3)[3] != b"task.yaml\n")
    return sha256(f"{HEAD}\nspec {sha256(noticed).hexdigest()}\n".encode() + files).hexdigest()


def _noticed(spec: TaskSpec) -> dict[str, object]:
    fields: dict[str, object] = {
        name: value for name in spec.__struct_fields__ if name not in COSMETIC and (value := getattr(spec, name)) is not None
    }
    fields["trigger"] = msgspec.structs.replace(spec.trigger, cron=None, webhook=None, chain=None)
    return fields
