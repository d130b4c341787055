"""taskset.yaml: what is read, what is refused, where the fault stands, and whom it concerns."""

from __future__ import annotations

import pytest

from dicode.spec.taskset import Entry, ParsedSet, parse_set
from dicode.spec.yaml import CONFIG, MAX_DEPTH

HEAD = "kind: TaskSet\n"
TASK = "inline: {name: X, trigger: {manual: true}}"


def parsed(text: str) -> ParsedSet:
    return parse_set(text.encode(), "f")


def entries(text: str) -> dict[str, Entry]:
    """Those of a set whose `entries:` begin in line 3, four blanks in."""
    found = parsed(f"{HEAD}spec: {{entries:\n  {{{text}}}}}\n")
    assert found.faults == ()
    return dict(found.entries)


def fault(text: str) -> str:
    """The one fault of the entry `e`."""
    (found,) = entries(text)["e"].faults
    return f"{found.line}:{found.column} {found.message}"


def test_a_set_says_what_its_entries_are() -> None:
    found = parsed(
        "apiVersion: dicode/v1\nkind: TaskSet\nmetadata: {name: infra}\nspec:\n  defaults: {timeout: 5s, env: [A=1]}\n  entries:\n"
        "    a: {ref: {path: ./a, dev_ref: {path: ./b}}}\n"
        "    b: {ref: {url: 'https://host/x', path: t, branch: dev, poll_interval: 1m, auth: {token_env: T}}}\n"
        f"    c: {{{TASK}}}\n"
    )
    a, b, c = found.entries.values()
    assert (found.faults, found.defaults and found.defaults.text) == ((), b'{"env":[{"name":"A","value":"1"}],"timeout":5000}')
    assert a.ref is not None and a.dev_ref is not None and b.ref is not None and c.inline is not None
    assert (a.ref.path, a.ref.url, a.dev_ref.path, a.place) == ("./a", "", "./b", (7, 5))
    assert b.ref[:5] == ("t", "https://host/x", "dev", "T", 60_000)
    assert c.inline.spec.name == "X"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "f:1:1: the file is empty"),
        ("[]", "f:1:1: the file must be a mapping of fields, beginning with `kind: TaskSet`"),
        ("spec: {entries: {}}", "f:1:1: 'kind' is missing"),
        ("a: 1\nkind: Task\nname: x\n", "f:2:1: this is a Task: call the file task.yaml, in a folder of its own"),
        ("kind: Taskset\n", "f:1:1: 'kind' must be TaskSet"),
        ("apiVersion: v1\nkind: TaskSet\nspec: {entries: {}}\n", "f:1:1: 'apiVersion' must be dicode/v1"),
        (HEAD, "f:1:1: 'spec' is missing"),
        (HEAD + "spec: {}\n", "f:2:1: 'entries' is missing"),
        (HEAD + "spec:\n  entries: []\n", "f:3:3: 'entries' must be a mapping"),
        (HEAD + "spec:\n  entrys: {}\n", "f:3:3: unknown field 'entrys', did you mean 'entries'?"),
        (HEAD + "entries: {}\n", "f:2:1: unknown field 'entries', did you mean 'spec.entries'?"),
        (HEAD + "spec:\n  defaults: {timeout: soon}\n  entries: {}\n", "f:3:14: 'timeout': 'soon' is not a duration"),
        (HEAD + "spec:\n  defaults: {net: []}\n  entries: {}\n", "f:3:14: unknown field 'net'; known are timeout"),
        (HEAD + "spec:\n  entries: {a: 1, a: 2}\n", "f:3:19: duplicate key 'a'"),
        (HEAD + "spec: &x {entries: *x}\n", "f:2:7: anchor &x"),
    ],
)
def test_what_concerns_all_entries_is_wrong_with_the_file(text: str, said: str) -> None:
    found = parsed(text)
    assert str(found.faults[0]).startswith(said)
    assert (found.entries, found.defaults) == ({}, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("e: ", "3:4 'e' says nothing: exactly one of ref and inline is needed"),
        ("e: {}", "3:4 exactly one of ref and inline is needed, found neither"),
        ("e: {ref: {path: a}, " + TASK + "}", "3:4 exactly one of ref and inline is needed, found both"),
        ("e: ./a", "3:4 'e' must be a mapping of fields, not ./a"),
        ("e: {ref: ./a}", "3:8 'ref' must be a mapping of fields"),
        ("e: {reff: {path: a}, ref: {path: a}}", "3:8 unknown field 'reff', did you mean 'ref'?"),
        ("e: {ref: {}}", "3:8 'path' is missing"),
        ("e: {ref: {path: ''}}", "3:14 'path' must lead to"),
        ("e: {ref: {path: a, branch: x}}", "3:23 'branch' has no meaning without a url"),
        ("e: {ref: {path: a, dev_ref: {path: b, dev_ref: {path: c}}}}", "3:42 a dev_ref has no dev_ref of its own"),
        ("e: {ref: {url: /etc, path: a}}", "3:14 'url' must be like https://host/path"),
        ("e: {ref: {url: 'file://host/etc', path: a}}", "3:14 'url' must be like"),
        ("e: {ref: {url: 'ext::sh -c x', path: a}}", "3:14 'url' must be like"),
        ("e: {ref: {url: 'git@-oProxyCommand=x:y', path: a}}", "3:14 'url' must be like"),
        ("e: {ref: {url: 'https://h/a/../b', path: a}}", "3:14 'url' must be like"),
        ("e: {ref: {url: 'https://me:pw@h/a', path: a}}", "3:14 'url' holds a user, a password or a query"),
        ("e: {ref: {url: 'https://h/a', branch: '-x'}}", "3:34 'branch' must be the name of a branch, not -x"),
        ("e: {ref: {url: 'https://h/a', branch: 'a..b'}}", "3:34 'branch' must be"),
        ("e: {ref: {url: 'https://h/a', auth: {}}}", "3:34 'token_env' is missing"),
        ("e: {ref: {url: 'https://h/a', auth: {token_env: A B}}}", "3:41 'token_env' must be the name of an environment variable"),
        ("e: {ref: {url: 'https://h/a', auth: {ssh_key: /home/ada/.ssh/id}}}", "3:41 a key file cannot be named in a ref"),
        ("e: {ref: {path: a}, overrides: {tiemout: 5s}}", "3:36 unknown field 'tiemout', did you mean 'timeout'?"),
        ("e: {ref: {path: a}, overrides: {trigger: {cron: '99 * * * *'}}}", "3:46 'cron': "),
        ("e: {ref: {path: a}, overrides: {trigger: {cron: '@daily', manual: true}}}", "3:36 only one trigger is allowed"),
        ("e: {ref: {path: a}, overrides: {net: }}", "3:36 'net' has no value: write []"),
        ("e: {ref: {path: a}, overrides: {params: {n: {type: number, default: x}}}}", "3:63 the default of param 'n' must be a number"),
        ("e: {ref: {path: a}, overrides: {entries: {k: {entries: {l: {enabled: 1}}}}}}", "3:64 'enabled' must be true or false"),
        ("e: {inline: {name: X}}", "3:8 'trigger' is missing"),
        ("e: {inline: {name: X, trigger: {restart: never}}}", "3:26 exactly one trigger must be given"),
        ("e: {inline: {name: X, kind: TaskSet, trigger: {manual: true}}}", "3:26 'kind' must be Task"),
        ("e: {inline: {name: X, include: [/etc], trigger: {manual: true}}}", "3:36 'include' must hold paths relative"),
    ],
)
def test_what_is_wrong_with_an_entry_concerns_only_that_entry(text: str, said: str) -> None:
    assert fault(f"{text}, good: {{{TASK}}}").startswith(said)
    assert entries(f"{text}, good: {{{TASK}}}")["good"].faults == ()


@pytest.mark.parametrize("key", ["a b", "../x", "a/b", "-a", "é", "''", "x" * 64, ".git"])
def test_a_key_must_be_able_to_stand_in_an_id(key: str) -> None:
    found = next(iter(entries(f"{key}: {{{TASK}}}").values()))
    assert "cannot be part of an id" in found.faults[0].message


def test_keys_may_be_twins_in_all_but_case() -> None:
    assert [found.faults for found in entries(f"a: {{{TASK}}}, A: {{{TASK}}}").values()] == [(), ()]


@pytest.mark.parametrize("url", ["https://h/a.git", "ssh://git@h:2222/a", "git@h:a/b.git", "http://127.0.0.1:1/a", "file:///srv/a"])
def test_what_looks_like_a_url_is_taken_and_judged_when_it_is_reached(url: str) -> None:
    assert entries(f"e: {{ref: {{url: '{url}'}}}}")["e"].faults == ()


def test_a_broken_entry_can_still_be_off() -> None:
    assert entries("e: {ref: {}, overrides: {enabled: false, timeout: x}}")["e"].enabled is False
    assert entries("e: {ref: {}, overrides: {enabled: 'false'}}")["e"].enabled is None


def test_the_order_of_keys_is_not_the_order_of_params() -> None:
    one, other = (entries(f"e: {{ref: {{path: a}}, overrides: {{params: {{{params}}}}}}}")["e"] for params in ("b: 1, a: 2", "a: 2, b: 1"))
    assert one.overrides is not None and other.overrides is not None
    assert one.overrides.text == other.overrides.text
    assert one.overrides.mark != other.overrides.mark


def test_a_layer_that_moved_says_the_same_from_another_place() -> None:
    text = "e: {ref: {path: a}, overrides: {timeout: 5s, entries: {k: {timeout: %s}}}}"
    one, moved, other = (parsed(f"{more}{HEAD}spec: {{entries: {{{text % inner}}}}}").entries["e"].overrides for more, inner in _MOVES)
    assert one is not None and moved is not None and other is not None
    assert one.text == moved.text == other.text
    assert len({one.mark, moved.mark, other.mark}) == 3


_MOVES = (("", "5s"), ("# more\n", "5s"), ("", "6s"))


# ── limits ──


def _of_size(size: int) -> bytes:
    text = f"{HEAD}spec: {{entries: {{}}}}\n#".encode()
    return text + b"x" * (size - len(text))


def test_a_file_of_one_mebibyte_is_read_and_one_byte_more_is_not() -> None:
    assert parse_set(_of_size(CONFIG.bytes - 1), "f").faults == ()
    assert parse_set(_of_size(CONFIG.bytes), "f").faults == ()
    assert "larger than 1024 KiB" in parse_set(_of_size(CONFIG.bytes + 1), "f").faults[0].message


def _of_nodes(nodes: int) -> bytes:
    """A file of this many nodes, of which nine are none of the list."""
    return f"{HEAD}spec:\n  entries:\n    e: [{'a,' * (nodes - 9)}]\n".encode()


def test_a_file_of_200000_nodes_is_read_and_one_more_is_not() -> None:
    assert parse_set(_of_nodes(CONFIG.nodes - 1), "f").faults == ()
    assert parse_set(_of_nodes(CONFIG.nodes), "f").faults == ()
    assert "more than 200,000 nodes" in parse_set(_of_nodes(CONFIG.nodes + 1), "f").faults[0].message


def test_overrides_reach_as_deep_as_yaml_may() -> None:
    """Each `{k: {entries: …` costs two levels, and what leads there five."""

    def nested(levels: int) -> str:
        return f"{HEAD}spec: {{entries: {{e: {{ref: {{path: a}}, overrides: {'{entries: {k: ' * levels}{{}}{'}}' * levels}}}}}}}"

    most = (MAX_DEPTH - 5) // 2
    assert parsed(nested(most)).entries["e"].faults == ()
    assert "nested deeper than 32" in parsed(nested(most + 1)).faults[0].message


@pytest.mark.parametrize(
    "text",
    ["[" * 50_000, "{a: " * 50_000, f"{HEAD}spec: {{entries: &a {{k: *a}}}}", f"{HEAD}spec: !!python/object/apply:os.system [x]", "\0", "\ufeff"],
)
def test_bombs_are_faults(text: str) -> None:
    assert parsed(text).faults
