"""The digest: two trees have the same one exactly when they are the same."""

from __future__ import annotations

import json
from hashlib import sha256

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicode.messages.task import Dst, EnvGrant, Notify, Param, Permissions, Retry, TaskCall, TaskSpec, Trigger
from dicode.spec import digest
from dicode.spec.folder import Folder, FolderFile
from dicode.spec.resolve import Resolved, resolve_folder

SPEC = TaskSpec(name="T", trigger=Trigger(daemon=True))
YAML = b"name: T\ntrigger: {daemon: true}\n"
PY = FolderFile("task.py", "-", b"pass\n")


def resolved(*files: FolderFile, text: bytes = YAML, dir: str = "/s/t", id: str = "t") -> Resolved:
    found = resolve_folder(Folder(dir, (FolderFile("task.yaml", "-", text), *files)), id)
    assert isinstance(found, Resolved), found
    return found


def test_the_manifest_is_the_text_of_the_contract() -> None:
    spec = digest.spec_json(SPEC)
    assert spec == b'{"name":"T","trigger":{"daemon":true}}'
    files = [FolderFile("task.yaml", "-", b"y"), FolderFile("../lib/é.py", "-", b""), FolderFile("a b", "x", b"1"), FolderFile("Z", "l", b"a b")]
    hashes = {content: sha256(content).hexdigest() for content in (spec, b"y", b"", b"1", b"a b")}
    assert digest.manifest(spec, files).decode() == (
        f"dicode-digest/1\nspec {hashes[spec]}\n- {hashes[b'']} 0 ../lib/é.py\nl {hashes[b'a b']} 3 Z\nx {hashes[b'1']} 1 a b\n- {hashes[b'y']} 1 task.yaml\n"
    )


_files = st.dictionaries(
    st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=5).filter(lambda path: "/" not in path),
    st.tuples(st.sampled_from(["x", "-", "l"]), st.binary(max_size=3)),
    max_size=4,
)


def _digest(files: dict[str, tuple[str, bytes]]) -> str:
    rows = [FolderFile(path, kind, content) for path, (kind, content) in files.items()]  # type: ignore[arg-type]
    return digest.digest_of(digest.manifest(b"{}", rows))


@given(_files, _files)
def test_equal_digests_mean_equal_trees(one: dict[str, tuple[str, bytes]], other: dict[str, tuple[str, bytes]]) -> None:
    assert (_digest(one) == _digest(other)) == (one == other)


@given(_files)
def test_the_order_of_reading_does_not_count(files: dict[str, tuple[str, bytes]]) -> None:
    assert _digest(files) == _digest(dict(reversed(files.items())))


def test_bytes_moved_from_one_file_to_the_next_change_the_digest() -> None:
    assert (
        resolved(PY, FolderFile("a", "-", b"ab"), FolderFile("b", "-", b"c")).digest
        != resolved(PY, FolderFile("a", "-", b"a"), FolderFile("b", "-", b"bc")).digest
    )


def test_neither_the_place_nor_the_id_counts() -> None:
    assert resolved(PY).digest == resolved(PY, dir="/elsewhere", id="group/u").digest


def test_defaults_are_not_filled_in_and_variables_not_expanded() -> None:
    found = resolved(PY, text=b'name: T\ntrigger: {manual: true}\nparams: {here: "${TASK_DIR}"}\ntimeout: 1m\n')
    assert json.loads(found.spec_json) == {
        "name": "T",
        "trigger": {"manual": True},
        "params": [{"name": "here", "default": "${TASK_DIR}"}],
        "timeout": 60_000,
    }
    assert found.runtime == "python"


_words = st.text(max_size=6)
_specs = st.builds(
    TaskSpec,
    name=_words,
    description=st.none() | _words,
    trigger=st.builds(Trigger, cron=_words, dst=st.none() | st.just(Dst(gap="skip")), jitter=st.none() | st.integers(0, 10**12)),
    params=st.none() | st.lists(st.builds(Param, name=_words, default=st.none() | _words), max_size=3).map(tuple),
    permissions=st.none()
    | st.builds(Permissions, env=st.none() | st.tuples(st.builds(EnvGrant, name=_words, from_=_words)), net=st.sampled_from([None, (), ("*",)])),
    retry=st.none() | st.builds(Retry, multiplier=st.floats(1, 1000).map(lambda value: float(f"{value:.6f}"))),
    on_failure_chain=st.none() | st.builds(TaskCall, task=_words, params=st.none() | st.dictionaries(_words, _words, max_size=3)),
)


@given(_specs)
def test_the_spec_is_canonical_json_and_comes_back(spec: TaskSpec) -> None:
    text = digest.spec_json(spec)
    assert json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() == text
    assert msgspec.json.decode(text, type=TaskSpec) == spec


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (b"name: Other\ntrigger: {daemon: true}\n", True),
        (b"name: T\ndescription: x\nversion: 2\nauthor: me\ntags: [a]\ntrigger: {daemon: true}\n", True),
        (b"name: T\nnotify: {on_failure: true}\nretry: {attempts: 3}\noverlap: skip\ntrigger: {daemon: true}\n", True),
        (b"name: T   # a comment\ntrigger: {daemon: true}\n", True),
        (b"name: T\ntrigger: {daemon: true, restart: never}\n", False),
        (b"name: T\ntrigger: {daemon: true}\npermissions: {env: [A]}\n", False),
        (b"name: T\ntrigger: {daemon: true}\nparams: {a: b}\n", False),
        (b"name: T\ntrigger: {daemon: true}\ntimeout: 5s\n", False),
    ],
)
def test_what_a_process_cannot_notice_leaves_its_digest_alone(text: bytes, same: bool) -> None:
    before, after = resolved(PY), resolved(PY, text=text)
    assert before.digest != after.digest
    assert (before.process == after.process) == same


def test_a_process_notices_every_file_but_task_yaml() -> None:
    before = resolved(PY)
    assert before.process != resolved(FolderFile("task.py", "x", b"pass\n")).process
    assert before.process != resolved(PY, FolderFile("sub/task.yaml", "-", b"")).process
    assert resolved(PY, FolderFile("a task.yaml", "-", b"1")).process != resolved(PY, FolderFile("a task.yaml", "-", b"2")).process


def test_the_type_of_trigger_does_not_hide_in_the_process() -> None:
    spec = TaskSpec(name="T", trigger=Trigger(cron="@daily", timezone="UTC"), notify=Notify(on_success=True))
    manifest = digest.manifest(digest.spec_json(spec), [PY])
    other = msgspec.structs.replace(spec, trigger=Trigger(cron="@hourly", timezone="UTC"), notify=None)
    assert digest.process_of(spec, manifest) == digest.process_of(other, digest.manifest(digest.spec_json(other), [PY]))


# ── from folder to task ──


def faults(*files: FolderFile, id: str = "t") -> list[str]:
    found = resolve_folder(Folder("/s/t", files), id)
    assert not isinstance(found, Resolved)
    return [str(fault) for fault in found]


def test_what_is_missing_is_said_in_one_line() -> None:
    assert faults() == ["/s/t/task.yaml:1:1: there is no task.yaml"]
    assert faults(FolderFile("task.yaml", "l", b"x")) == ["/s/t/task.yaml:1:1: task.yaml is a link: make it a file"]
    text = FolderFile("task.yaml", "-", b"name: T\nruntime: python\ntrigger: {daemon: true}\n")
    assert faults(text) == ["/s/t/task.yaml:2:1: the script is missing: expected task.py beside task.yaml"]


def test_a_bad_id_is_a_fault_of_the_task() -> None:
    assert "cannot be part of an id" in faults(FolderFile("task.yaml", "-", YAML), PY, id="a b")[0]


def test_a_script_may_be_a_link_to_a_file_of_the_folder() -> None:
    assert resolved(FolderFile("task.py", "l", b"src/main.py"), FolderFile("src/main.py", "-", b"")).script == "task.py"
    assert resolved(FolderFile("task", "l", b"bin/run"), FolderFile("bin/run", "x", b"")).runtime == "shell"
    way = FolderFile("task.py", "l", b"src/now"), FolderFile("src/now", "l", b"v2/main.py"), FolderFile("src/v2/main.py", "-", b"")
    assert resolved(*way).script == "task.py"
    for lost in (FolderFile("task.py", "l", b"gone.py"), FolderFile("task.py", "l", b"task.py")):
        assert "script is missing" in faults(FolderFile("task.yaml", "-", YAML), lost)[0]
