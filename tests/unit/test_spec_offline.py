"""`render`, `validate` and `schema` without a running system."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dicode.admin import offline
from dicode.messages.task import TaskSpec
from dicode.spec.taskset import Overrides

MANUAL = "trigger: {manual: true}\n"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "b/task.yaml", f'name: B\n{MANUAL}params: {{here: "${{TASK_DIR}}", other: "${{X}}"}}\nretry: {{backoff: 1500ms}}\n')
    put(tmp_path / "b/task.py", "pass\n")
    put(tmp_path / "g/a/task.yaml", f"name: A\n{MANUAL}")
    put(tmp_path / "g/a/task.sh", "true\n")
    yield tmp_path


def put(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def rendered(capsys: pytest.CaptureFixture[str], path: Path, code: int = 0, **options: Any) -> list[dict[str, Any]]:
    assert offline.render(path, **options) == code
    items: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return items


def test_a_source_is_shown_by_id_for_a_reader(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    b, a = rendered(capsys, source)
    assert (b["id"], a["id"]) == ("b", "g/a")
    assert b["dir"] == str(source / "b")
    assert b["spec"]["params"] == [{"name": "here", "default": str(source / "b")}, {"name": "other", "default": "${X}"}]
    assert (b["spec"]["timeout"], b["spec"]["runtime"], b["spec"]["retry"]) == (60, "python", {"backoff": 1.5})


def test_errors_stand_beside_the_tasks_that_are_fine(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(source / "bad/task.yaml", f"name: X\n{MANUAL}tiemout: 5s\n")
    put(source / "bad id/task.yaml", f"name: X\n{MANUAL}")
    items = {item["id"]: item for item in rendered(capsys, source, code=1)}
    assert list(items) == ["b", "bad", "bad id", "g/a"]
    assert items["bad"]["error"] == {"file": "bad/task.yaml", "line": 3, "column": 1, "message": "unknown field 'tiemout', did you mean 'timeout'?"}
    assert "cannot be part of an id" in items["bad id"]["error"]["message"]


def test_the_manifest_hashes_to_the_digest_and_the_spec_to_its_line(source: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert offline.render(source) == 0
    digest = json.loads(capfdbinary.readouterr().out)[0]["digest"]
    assert offline.render(source, manifest="b") == 0
    manifest = capfdbinary.readouterr().out
    assert sha256(manifest).hexdigest() == digest
    assert offline.render(source, spec="b") == 0
    spec = capfdbinary.readouterr().out.rstrip(b"\n")
    assert manifest.split(b"\n")[1] == b"spec " + sha256(spec).hexdigest().encode()
    assert msgspec.json.decode(spec, type=TaskSpec).name == "B"


def test_an_unknown_id_is_bad_input_with_a_suggestion(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert offline.render(source, manifest="g/aa") == 2
    assert "no task g/aa here, did you mean g/a?" in capsys.readouterr().err
    put(source / "b/task.yaml", "name: B\n")
    assert offline.render(source, spec="b") == 1
    assert "b/task.yaml:1:1: 'trigger' is missing" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["b", "b/task.yaml"])
def test_a_single_task_can_be_rendered(source: Path, capsys: pytest.CaptureFixture[str], path: str) -> None:
    assert [item["id"] for item in rendered(capsys, source / path)] == ["b"]


def test_an_include_reaches_to_the_root_or_the_work_tree(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(source / "src/t/task.yaml", f"name: T\n{MANUAL}include: [../../lib.py]\n")
    put(source / "src/t/task.py", "")
    put(source / "lib.py", "")
    assert "leaves the root" in rendered(capsys, source / "src", code=1)[0]["error"]["message"]
    assert rendered(capsys, source / "src", root=source)[0]["id"] == "t"
    (source / ".git").mkdir()
    assert rendered(capsys, source / "src")[0]["id"] == "t"


def test_a_taskset_is_rendered_from_its_folder_or_its_file(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(source / "set/taskset.yaml", "kind: TaskSet\nspec: {entries: {k: {inline: {name: K, trigger: {manual: true}}}, b: {ref: {path: ../b}}}}\n")
    put(source / "set/k.sh", "true\n")
    put(source / "b/task.yaml", f'kind: Task\nname: B\n{MANUAL}params: {{lib: "${{TASK_SET_DIR}}/lib"}}\n')
    (source / ".git").mkdir()
    for path, name in ((source / "set", ""), (source / "set/taskset.yaml", "set"), (Path("set"), "")):
        b, k = rendered(capsys, path, source_name=name)
        assert (b["id"], b["dir"], k["id"], k["dir"]) == ("set/b", str(source / "b"), "set/k", str(source / "set"))
        assert b["spec"]["params"] == [{"name": "lib", "default": str(source / "set/lib")}]
    assert [item["id"] for item in rendered(capsys, source / "set", source_name="infra")] == ["infra/b", "infra/k"]


def test_a_set_may_not_lead_out_of_its_root(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(source / "set/taskset.yaml", "kind: TaskSet\nspec: {entries: {b: {ref: {path: ../b}}}}\n")
    (item,) = rendered(capsys, source / "set", code=1)
    assert (item["id"], item["error"]["file"]) == ("set/b", "taskset.yaml")
    assert "outside" in item["error"]["message"]
    (item,) = rendered(capsys, source / "set", code=1, root=source / "b")
    assert (item["id"], item["error"]["message"]) == ("", f"lies outside the root {source / 'b'}")


def test_what_is_in_another_repository_is_a_fault_of_render_and_left_out_by_validate(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(
        source / "taskset.yaml",
        "kind: TaskSet\nspec:\n  entries:\n    a: {ref: {url: 'https://host/x', path: y}}\n    k: {inline: {name: K, trigger: {manual: true}}}\n",
    )
    put(source / "k.sh", "true\n")
    away, fine = rendered(capsys, source, code=1, source_name="s")
    assert (away["id"], away["error"]["line"], fine["id"]) == ("s/a", 4, "s/k")
    assert "cannot be read offline" in away["error"]["message"]
    assert offline.validate(source) == 0
    assert capsys.readouterr().out == "1 task, no faults; not checked: 1 in other repositories\n"


def test_a_set_under_any_name_is_known_by_its_kind(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(source / "staging.yaml", "kind: TaskSet\nspec: {entries: {b: {reff: {}}}}\n")
    assert offline.validate(Path("staging.yaml")) == 2
    assert "did you mean 'ref'?" in capsys.readouterr().out
    assert offline.render(source / "staging.yaml") == 1


def test_a_fault_of_a_set_that_many_lead_to_is_said_once(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(source / "taskset.yaml", "kind: TaskSet\nspec: {entries: {a: {ref: {path: n}}, b: {ref: {path: n}}}}\n")
    put(source / "n/taskset.yaml", "kind: TaskSet\n")
    assert offline.validate(source) == 2
    assert capsys.readouterr().out == "n/taskset.yaml:1:1: 'spec' is missing\n"


def test_an_empty_folder_has_no_tasks_and_a_missing_one_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rendered(capsys, tmp_path) == []
    assert offline.render(tmp_path / "gone") == 2
    assert "no such folder" in capsys.readouterr().err


def test_validate_shows_every_fault_and_ends_with_2(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert offline.validate(source) == 0
    assert capsys.readouterr().out == "2 tasks, no faults\n"
    put(source / "b/task.yaml", "nam: B\ntrigger: {}\ntimeout: 5\n")
    put(source / "dicode.yaml", "sorces: []\n")
    assert offline.validate(source) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["dicode.yaml:1:1", "b/task.yaml:1:1", "b/task.yaml:2:1", "b/task.yaml:3:1"]
    assert offline.validate(Path("b/task.yaml")) == 2
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert offline.validate(Path("dicode.yaml")) == 2
    assert "did you mean 'sources'?" in capsys.readouterr().out


def test_what_a_file_says_cannot_play_tricks_on_the_screen(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(source / "b/task.yaml", f'name: B\n{MANUAL}"\\e[31m\\n": 1\n')
    offline.validate(source)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert len(out.splitlines()) == 1


def test_the_schema_names_every_field_and_closes_the_door_on_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert offline.schema() == 0
    schema = json.loads(capsys.readouterr().out)
    assert set(schema["properties"]) == {"apiVersion", "kind", *(field.encode_name for field in msgspec.structs.fields(TaskSpec))}
    assert schema["required"] == ["name", "trigger"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["trigger"]["properties"]["chain"]["required"] == ["from"]
    assert "js" in schema["properties"]["runtime"]["enum"]


@pytest.mark.parametrize(
    ("kind", "required", "some"),
    [("task", ["name", "trigger"], "retry"), ("taskset", ["kind", "spec"], "metadata"), ("config", None, "credentials")],
)
def test_there_is_a_schema_for_every_kind_of_file(capsys: pytest.CaptureFixture[str], kind: str, required: list[str] | None, some: str) -> None:
    assert offline.schema(kind) == 0
    schema = json.loads(capsys.readouterr().out)
    assert (schema.get("required"), schema["additionalProperties"], schema["$schema"][:19]) == (required, False, "https://json-schema")
    assert some in schema["properties"]


def test_the_schema_of_a_set_knows_patches_within_patches_and_one_dev_ref(capsys: pytest.CaptureFixture[str]) -> None:
    offline.schema("taskset")
    schema = json.loads(capsys.readouterr().out)
    entry = schema["properties"]["spec"]["properties"]["entries"]["additionalProperties"]
    assert entry["properties"]["overrides"] == {"$ref": "#/$defs/overrides"}
    patch = schema["$defs"]["overrides"]
    assert set(patch["properties"]) == set(Overrides.__struct_fields__)
    assert patch["properties"]["entries"]["additionalProperties"] == {"$ref": "#/$defs/overrides"}
    assert "dev_ref" not in entry["properties"]["ref"]["properties"]["dev_ref"]["properties"]
    assert entry["properties"]["inline"]["required"] == ["name", "trigger"]
