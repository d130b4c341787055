"""diff: what differs between two versions of a task, so that nothing that made another digest stays unseen."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from dicode.admin.difference import Files, files_diff, spec_diff
from dicode.admin.trace import _before
from dicode.messages.task import EnvGrant, Param, Permissions, TaskSpec, Trigger

SPEC = TaskSpec(
    name="Backup",
    trigger=Trigger(cron="0 3 * * *"),
    params=(Param(name="who", default="Ada"), Param(name="to")),
    permissions=Permissions(env=(EnvGrant(name="HOME"),), net=("example.org",)),
)


def shown(old: bytes | None, new: bytes | None) -> list[str]:
    files: list[Files] = [{} if content is None else {"f": ("-", content)} for content in (old, new)]
    return files_diff(files[0], files[1], "aaa", "bbb")


def test_lines_new_files_and_binaries() -> None:
    old: Files = {"task.py": ("-", b"one\ntwo\n"), "data": ("-", b"\0a")}
    new: Files = {"task.py": ("-", b"one\nthree\n"), "data": ("-", b"\0b"), "new": ("-", b"x\n")}
    assert files_diff(old, new, "aaa", "bbb") == [
        "binary file data differs",
        "--- /dev/null",
        "+++ bbb/new",
        "@@ -0,0 +1 @@",
        "+x",
        "--- aaa/task.py",
        "+++ bbb/task.py",
        "@@ -1,2 +1,2 @@",
        " one",
        "-two",
        "+three",
    ]


def test_a_newline_at_the_end_and_line_ends_are_differences() -> None:
    assert shown(b"a\n", b"a")[-1] == "+\\ No newline at end of file"
    assert shown(b"a\r\n", b"a\n")[-2:] == ["-a\r", "+a"]


def test_a_program_that_becomes_a_file_is_told() -> None:
    assert files_diff({"task": ("-", b"x")}, {"task": ("x", b"x")}, "a", "b") == ["task: was a file, is a program"]


def test_bytes_that_are_no_text_are_one_line() -> None:
    assert shown(b"\xff\xfe", b"a\n") == ["binary file f differs"]
    assert shown(None, b"\0") == ["binary file f was added"]
    assert shown(b"\0", None) == ["binary file f was removed"]
    assert shown(None, b"") == ["--- /dev/null", "+++ bbb/f"]


def test_the_spec_is_told_field_by_field_under_the_names_of_task_yaml() -> None:
    new = replace(
        SPEC,
        trigger=Trigger(cron="0 4 * * *", timezone="UTC"),
        params=(Param(name="to"), Param(name="who", default="Eve")),
        permissions=Permissions(env=(EnvGrant(name="HOME"), EnvGrant(name="TOKEN", from_="GITHUB")), net=()),
        timeout=30_000,
        description="Nightly",
    )
    assert spec_diff(SPEC, new) == [
        '+ description: "Nightly"',
        "~ params (order): who, to → to, who",
        '~ params[who].default: "Ada" → "Eve"',
        "~ permissions.env (order): HOME → HOME, TOKEN",
        '+ permissions.env[TOKEN].from: "GITHUB"',
        '~ permissions.net: ["example.org"] → []',
        "+ timeout: 30",
        '~ trigger.cron: "0 3 * * *" → "0 4 * * *"',
        '+ trigger.timezone: "UTC"',
    ]
    assert spec_diff(SPEC, SPEC) == []
    assert spec_diff(SPEC, replace(SPEC, runtime="python")) == ['+ runtime: "python"']


CONTENT = st.none() | st.binary(max_size=12) | st.sampled_from([b"a\n", b"a", b"a\nb", b"a\r\n", b"\n", b"\n\n"])


@given(st.sampled_from("-xl"), CONTENT, st.sampled_from("-xl"), CONTENT)
def test_whatever_changes_the_digest_is_seen(old_kind: str, old: bytes | None, new_kind: str, new: bytes | None) -> None:
    before: Files = {} if old is None else {"f": (old_kind, old)}
    after: Files = {} if new is None else {"f": (new_kind, new)}
    assert bool(files_diff(before, after, "a", "b")) == (before != after)


def test_the_digest_before_is_the_next_older_one_that_differs() -> None:
    known = ["c", "c", "a", "b", "a"]
    assert [_before(known, digest) for digest in "cab"] == ["a", "b", "a"]
    assert _before(["a"], "a") is None
