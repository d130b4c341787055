"""Run conformance cases against any `dicode` command, black box. Needs only PyYAML."""

from __future__ import annotations

import argparse, hashlib, json, os, re, shlex, subprocess, sys, tempfile
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent


def write(root: Path, files: dict, executable: list[str] = ()) -> None:
    for name, content in files.items():
        path = root / name
        if content is None:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict) and "link" in content:
            path.symlink_to(content["link"])
        else:
            path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    for name in executable:
        (root / name).chmod(0o755)


def call(cli: list[str], root: Path, case: dict, *more: str) -> subprocess.CompletedProcess:
    target = str(root / case["render"]) if case.get("render") else str(root)
    command = [*cli, "render", target, "--source-name", case["source"], "--root", str(root), *more, *case.get("args", [])]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert b"Traceback" not in done.stderr, done.stderr[-600:].decode(errors="replace")
    return done


LINE = re.compile(r"([-xl]) ([0-9a-f]{64}) (\d+) (.+)")
CASE = {"name", "source", "files", "executable", "render", "args", "then", "then_executable", "move", "expect"}
EXPECT = {"tasks", "errors", "same_digest", "different_digest", "same_process", "different_process"}


def render(cli: list[str], root: Path, case: dict) -> dict[str, dict]:
    done = call(cli, root, case, "-o", "json")
    try:
        items = json.loads(done.stdout)
    except ValueError:
        raise AssertionError(f"no JSON on stdout (exit {done.returncode}): {done.stdout[:200]!r} {done.stderr[-400:]!r}") from None
    ids = [item["id"] for item in items]
    assert ids == sorted(set(ids)), f"ids not sorted or not unique: {ids}"
    failed = any("error" in item for item in items)
    assert done.returncode == (1 if failed else 0), f"exit {done.returncode} with{'' if failed else 'out'} errors"
    for item in items:
        if "error" in item:
            error = item["error"]
            assert isinstance(error["file"], str) and isinstance(error["message"], str) and error["line"] >= 1 and error["column"] >= 1, (
                f"{item['id']}: {error}"
            )
        else:
            text = call(cli, root, case, "--manifest", item["id"]).stdout
            spec = call(cli, root, case, "--spec", item["id"]).stdout.rstrip(b"\n")
            assert hashlib.sha256(text).hexdigest() == item["digest"], f"{item['id']}: digest is not sha256 of its manifest"
            try:
                canonical(spec)
                manifest(text.decode(), spec, Path(item["dir"]))
            except (AssertionError, ValueError, OSError) as error:
                raise AssertionError(f"{item['id']}: {error}") from None
    return {item["id"]: item for item in items}


def canonical(spec: bytes) -> None:
    """--spec is JSON with sorted keys, no spaces, UTF-8."""
    again = json.dumps(json.loads(spec), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert again == spec, f"--spec is not canonical JSON: {spec[:200]!r}"


def manifest(text: str, spec: bytes, folder: Path) -> None:
    """Each line says of a file in the folder what is true of it."""
    head, second, *rest = text.split("\n")
    assert head == "dicode-digest/1", f"manifest begins with {head!r}"
    assert second == "spec " + hashlib.sha256(spec).hexdigest(), "manifest's spec line is not sha256 of --spec"
    assert rest and rest[-1] == "", "manifest has no final newline"
    rows = [LINE.fullmatch(line) for line in rest[:-1]]
    assert rows and all(rows), f"manifest lines: {rest}"
    names = [row[4].encode() for row in rows]
    assert names == sorted(set(names)), f"manifest not sorted by path bytes, or not unique: {names}"
    for kind, digest, size, name in (row.groups() for row in rows):
        path = folder / name
        data = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        true = "l" if path.is_symlink() else "x" if path.stat().st_mode & 0o100 else "-"
        assert (kind, digest, int(size)) == (true, hashlib.sha256(data).hexdigest(), len(data)), f"manifest is wrong about {name}"


def look(value, path: str):
    """The value at a dotted path; [NAME] picks the list item with that name; * maps over a list; a missing key is None."""
    for step in re.findall(r"\[[^\]]+\]|[^.\[]+", path):
        if value is None:
            return None
        if step == "*":
            return [look(v, path.split("*.", 1)[1]) for v in value]
        if step.startswith("["):
            value = next((v for v in value if v.get("name") == step[1:-1]), None)
        elif isinstance(value, list):
            value = value[int(step)]
        else:
            value = value.get(step)
    return value


def fill(value, root: Path):
    return value.replace("$DIR", str(root)) if isinstance(value, str) else value


def check(cli: list[str], case: dict) -> list[str]:
    wrong: list[str] = []
    unknown = (set(case) - CASE) | (set(case["expect"]) - EXPECT)
    assert not unknown, f"the case itself is wrong: {unknown}"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(os.path.realpath(folder))
        write(root, case["files"], case.get("executable", ()))
        first = render(cli, root, case)
        if "move" in case:
            target = root / case["move"]
            target.mkdir()
            for entry in [e for e in root.iterdir() if e != target]:
                entry.rename(target / entry.name)
            items = render(cli, root := target, case)
        elif "then" in case:
            write(root, case["then"], case.get("then_executable", ()))
            items = render(cli, root, case)
        else:
            items = first
        expect = case["expect"]
        tasks = {k: v for k, v in items.items() if "error" not in v}
        errors = {k: v["error"] for k, v in items.items() if "error" in v}
        if set(tasks) != set(expect["tasks"]):
            wrong.append(f"tasks {sorted(tasks)}, expected {sorted(expect['tasks'])}")
        for key, fields in expect["tasks"].items():
            for path, want in fields.items():
                got = look(tasks.get(key), path)
                if got != fill(want, root) and not (want is None and not got):
                    wrong.append(f"{key}: {path} is {got!r}, expected {fill(want, root)!r}")
        if set(errors) != set(expect.get("errors", {})):
            wrong.append(f"errors {sorted(errors)}, expected {sorted(expect.get('errors', {}))}")
        for key, want in expect.get("errors", {}).items():
            got = errors.get(key, {})
            if "file" in want and got.get("file") != want["file"]:
                wrong.append(f"{key}: error in {got.get('file')!r}, expected {want['file']!r}")
            if "line" in want and got.get("line") != want["line"]:
                wrong.append(f"{key}: error at line {got.get('line')}, expected {want['line']}")
            if want.get("contains", "").lower() not in str(got.get("message", "")).lower():
                wrong.append(f"{key}: message {got.get('message')!r} lacks {want['contains']!r}")
        for rule in ("same_digest", "different_digest", "same_process", "different_process"):
            for key in expect.get(rule, []):
                field = rule.split("_")[1]
                before, after = first.get(key, {}).get(field), items.get(key, {}).get(field)
                proper = all(re.fullmatch("[0-9a-f]{64}", str(x)) for x in (before, after))
                if not proper or (before == after) != rule.startswith("same"):
                    wrong.append(f"{key}: {rule} does not hold ({before!r} → {after!r})")
    return wrong


def main() -> int:
    options = argparse.ArgumentParser()
    options.add_argument("--cli", default="dicode")
    options.add_argument("--source", help="only the cases of this source name: `plain` needs no TaskSet")
    options.add_argument("files", nargs="*", type=Path)
    args = options.parse_args()
    passed = failed = 0
    for file in args.files or sorted(HERE.glob("*.yaml")):
        for case in yaml.safe_load_all(file.read_text()):
            if args.source not in (None, case["source"]):
                continue
            try:
                wrong = check(shlex.split(args.cli), case)
            except Exception as error:  # a case that cannot run has failed
                wrong = [str(error)]
            passed, failed = passed + (not wrong), failed + bool(wrong)
            if wrong:
                print(f"FAIL {file.name}: {case['name']}\n     " + "\n     ".join(wrong))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
