"""From the set at the root to the tasks: refs, layers, what is switched off, and where a fault stays."""

from __future__ import annotations

import posixpath
import random
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicode.messages.fault import Fault
from dicode.messages.kinds import Credential
from dicode.spec import expand as module
from dicode.spec.access import Rules, place_of_repo
from dicode.spec.digest import spec_json
from dicode.spec.expand import Away, Expansion, Leaf, Memo, Nothing, Seen, SetAt, TaskAt, changes, expand, name_of, told
from dicode.spec.folder import Folder, FolderFile
from dicode.spec.names import MAX_SEGMENTS
from dicode.spec.resolve import MAX_SPEC, Resolved, resolve_leaf, want_of
from dicode.spec.taskset import parse_set
from dicode.spec.trees import At, Repo, Want

ROOT = At("", "")
TASK = b"kind: Task\nname: T\ntrigger: {manual: true}\n"


class Trees:
    """What stands where: in each tree a path to the text of a set, or to None for a task folder."""

    def __init__(self, files: Mapping[str, str | None], **trees: Mapping[str, str | None]) -> None:
        self.asked: list[At] = []
        self._known: dict[At, Seen] = {}
        self._texts: dict[At, str | None] = {}
        for tree, each in {"": files, **trees}.items():
            for path, text in each.items():
                self.put(path, text, tree)

    def put(self, path: str, text: str | None, tree: str = "") -> None:
        at = At(tree, path)
        if at in self._texts and self._texts[at] == text:
            return  # a set whose bytes are the same stays the same set
        self._texts[at] = text
        if text is None:
            self._known[at] = TaskAt(at)
            return
        seen = SetAt(at, parse_set(f"kind: TaskSet\nspec:\n{text}\n".encode(), name_of(at)))
        self._known[at] = self._known[At(tree, posixpath.dirname(path))] = seen

    def say(self, path: str, seen: Seen, tree: str = "") -> None:
        self._known[At(tree, path)] = seen

    def look(self, at: At) -> Seen | None:
        self.asked.append(at)
        return self._known.get(at, Nothing("there is no such file or folder"))


def expanded(trees: Trees, **options: Any) -> Expansion:
    return expand(ROOT, trees.look, source="s", **options)


def shown(faults: tuple[Fault, ...]) -> list[str]:
    return [str(fault) for fault in told(faults, lambda at: f"{at.tree and at.tree + '@'}{at.path}")]


def faults(files: Mapping[str, str | None], **options: Any) -> dict[str, list[str]]:
    return {id: shown(each) for id, each in expanded(Trees(files), **options).faults.items()}


def sources(leaf: Leaf) -> list[str]:
    return [layer.text.decode() for layer in leaf.layers]


def folder(yaml: bytes = TASK, **files: str) -> Folder:
    given = {name.replace("__", "."): content.encode() for name, content in files.items()} or {"task.py": b""}
    both = {"task.yaml": yaml, **given} if yaml else given
    return Folder("/w/t", tuple(FolderFile(path, "-", content) for path, content in both.items()))


# ── where refs lead ──


def test_ids_are_the_keys_that_lead_to_a_task() -> None:
    found = expanded(
        Trees(
            {
                "taskset.yaml": "  entries: {a: {ref: {path: x}}, n: {ref: {path: n}}}",
                "n/taskset.yaml": "  entries: {b: {ref: {path: ../x}}}",
                "x": None,
            }
        )
    )
    assert (set(found.leaves), found.faults, found.wanted) == ({"s/a", "s/n/b"}, {}, frozenset())
    assert want_of(found.leaves["s/n/b"]) == Want("x")


def test_what_nobody_looked_at_is_wanted_and_nothing_behind_it_is_guessed() -> None:
    found = expand(ROOT, lambda at: None, source="s")
    assert (found.wanted, found.seen, found.leaves, found.faults) == (frozenset({ROOT}), frozenset({ROOT}), {}, {})
    trees = Trees({"taskset.yaml": "  entries: {a: {ref: {path: ./x}}, b: {ref: {path: y/../x/}}}"})
    found = expand(ROOT, lambda at: trees.look(at) if at == ROOT else None, source="s")
    assert (found.wanted, found.seen) == (frozenset({At("", "x")}), frozenset({ROOT, At("", "x")}))


@pytest.mark.parametrize("path", ["..", "../x", "x/../../y", "/etc", "../../../../etc"])
def test_a_ref_may_not_leave_its_tree(path: str) -> None:
    (said,) = faults({"taskset.yaml": f"  entries:\n    e: {{ref: {{path: {path}}}}}"})["s/e"]
    assert said.startswith("taskset.yaml:4:15: ")
    assert "outside" in said


def test_a_ref_into_a_repository_makes_a_tree_of_its_own_and_stays_there() -> None:
    text = (
        "  entries:\n    e: {ref: {url: 'https://h/r', branch: dev, path: /sub/n, poll_interval: 5s}}\n    f: {ref: {url: 'https://h/r', path: ../x}}"
    )
    trees = Trees({"taskset.yaml": text})
    key = next(iter(expanded(trees).repos))
    trees.put("sub/n/taskset.yaml", "  entries: {a: {ref: {path: ../t}}, b: {ref: {path: ../../../t}}}", key)
    trees.put("sub/t", None, key)
    found = expanded(trees)
    assert found.leaves["s/e/a"].at == At(key, "sub/t")
    assert [(repo.url, repo.ref, repo.trusted) for repo in found.repos.values()] == [("https://h/r", "dev", False)]
    assert list(found.polls.values()) == [5000]
    assert "outside the repository" in shown(found.faults["s/e/b"])[0]
    assert "outside the repository" in shown(found.faults["s/f"])[0]


def test_what_a_repository_names_is_not_obeyed_even_on_the_host_of_the_source() -> None:
    trees = Trees({"taskset.yaml": "  entries: {n: {ref: {url: 'https://h/r', path: n}}}"})
    rules = Rules(named=("https://h/",), credentials=(Credential(match="https://h/third", token_env="C"),))
    (key,) = expanded(trees, rules=rules).repos
    trees.put("n/taskset.yaml", "  entries: {a: {ref: {url: 'https://h/other'}}, b: {ref: {url: 'https://h/third'}}}", key)
    trusted = {repo.url: repo.trusted for repo in expanded(trees, rules=rules).repos.values()}
    assert trusted == {"https://h/r": True, "https://h/other": False, "https://h/third": True}


def test_of_two_who_poll_the_same_repository_the_more_impatient_counts() -> None:
    entries = ", ".join(f"e{n}: {{ref: {{url: 'https://h/r', path: x, poll_interval: {each}}}}}" for n, each in enumerate(("1m", "0", "5s")))
    (interval,) = expanded(Trees({"taskset.yaml": f"  entries: {{{entries}}}"})).polls.values()
    assert interval == 5000


def test_a_secret_that_is_not_allowed_is_a_fault_of_its_entry() -> None:
    files = {"taskset.yaml": "  entries:\n    e: {ref: {url: 'https://h/r', path: x, auth: {token_env: T}}}\n    f: {ref: {path: x}}", "x": None}
    found = faults(files, rules=Rules(("U",), (Credential(match="https://h/", token_env="C"),)))
    assert list(found) == ["s/e"]
    assert found["s/e"][0].startswith("taskset.yaml:4:44: T may not be used here: name it in allowed_token_envs")
    assert [repo.token_env for repo in expanded(Trees(files), rules=Rules(("T",))).repos.values()] == ["T"]


def test_dev_ref_replaces_its_ref_in_dev_mode_only() -> None:
    trees = Trees({"taskset.yaml": "  entries: {e: {ref: {url: 'https://h/r', path: p, dev_ref: {path: d}}}}", "d": None})
    assert expanded(trees, dev=True).leaves["s/e"].at == At("", "d")
    assert expanded(trees, dev=True).repos == {}
    assert expanded(trees).leaves == {}


def test_a_repository_that_is_away_is_said_at_its_ref() -> None:
    trees = Trees({"taskset.yaml": "  entries:\n    e: {ref: {path: x}}"})
    trees.say("x", Away("cannot be read now"))
    assert shown(expanded(trees).faults["s/e"]) == ["taskset.yaml:4:15: x: cannot be read now"]


@pytest.mark.parametrize(
    ("seen", "said"), [(TaskAt(ROOT), "there is no taskset.yaml here"), (Nothing("is gone"), "is gone"), (Away("is away"), "is away")]
)
def test_what_is_wrong_with_the_root_is_wrong_with_all(seen: Seen, said: str) -> None:
    found = expand(ROOT, lambda at: seen, source="s")
    assert (list(found.faults), found.leaves) == ([""], {})
    assert said in str(found.faults[""][0])


def test_a_set_that_cannot_be_read_is_a_fault_of_the_entry_in_the_file_that_is_wrong() -> None:
    files = {"taskset.yaml": "  entries: {n: {ref: {path: n}}, a: {ref: {path: x}}}", "n/taskset.yaml": "  entrys: {}", "x": None}
    assert faults(files) == {"s/n": ["n/taskset.yaml:3:3: unknown field 'entrys', did you mean 'entries'?"]}
    assert set(expanded(Trees(files)).leaves) == {"s/a"}


# ── on and off ──


@pytest.mark.parametrize(
    ("outer", "inner", "own", "on"),
    [
        ("", "", "", True),
        ("", "", "false", False),
        ("", "true", "false", True),
        ("true", "false", "false", True),
        ("false", "true", "true", False),
        ("", "false", "true", False),
    ],
)
def test_for_enabled_the_outermost_has_the_word(outer: str, inner: str, own: str, on: bool) -> None:
    def patch(key: str, said: str) -> str:
        return f"{key}: {{{f'enabled: {said}' if said else ''}}}"

    files = {
        "taskset.yaml": f"  entries: {{m: {{ref: {{path: m}}, overrides: {{entries: {{n: {{entries: {{{patch('t', outer)}}}}}}}}}}}}}",
        "m/taskset.yaml": f"  entries: {{n: {{ref: {{path: ../n}}, overrides: {{entries: {{{patch('t', inner)}}}}}}}}}",
        "n/taskset.yaml": f"  entries: {{t: {{ref: {{path: ../x}}, {patch('overrides', own)}}}}}",
        "x": None,
    }
    assert (set(expanded(Trees(files)).leaves) == {"s/m/n/t"}) is on


def test_what_is_off_is_not_looked_at_at_all() -> None:
    off = "overrides: {enabled: false}"
    text = f"  entries: {{a: {{ref: {{path: x}}, {off}}}, n: {{ref: {{path: n}}, {off}}}, bad: {{ref: {{}}, {off}}}, u: {{ref: {{url: 'https://h/r', path: x}}, {off}}}}}"
    trees = Trees({"taskset.yaml": text})
    found = expanded(trees)
    assert (found.leaves, found.faults, found.repos, trees.asked) == ({}, {}, {}, [ROOT])


# ── layers ──


def test_layers_come_from_the_defaults_of_the_own_set_to_the_leaf() -> None:
    files = {
        "taskset.yaml": "  defaults: {timeout: 1s}\n  entries: {m: {ref: {path: m}, overrides: {entries: {n: {entries: {t: {timeout: 3s}}}}}}}",
        "m/taskset.yaml": "  defaults: {timeout: 9s}\n  entries: {n: {ref: {path: ../n}, overrides: {entries: {t: {timeout: 4s}}}}}",
        "n/taskset.yaml": "  defaults: {timeout: 2s}\n  entries: {t: {ref: {path: ../x}, overrides: {enabled: true, timeout: 5s}}, u: {ref: {path: ../x}}}",
        "x": None,
    }
    leaves = expanded(Trees(files)).leaves
    assert sources(leaves["s/m/n/t"]) == [f'{{"timeout":{each}000}}' for each in (2, 3, 4, 5)]
    assert sources(leaves["s/m/n/u"]) == ['{"timeout":2000}']


@pytest.mark.parametrize(
    ("overrides", "id", "said"),
    [
        ("{timeout: 5s}", "s/n", "taskset.yaml:4:40: 'timeout' has no meaning for a TaskSet: name the task it is for under entries"),
        ("{entries: {depoy: {}}}", "s/n", "taskset.yaml:4:50: the TaskSet has no entry 'depoy', did you mean 'deploy'?"),
        ("{entries: {zzz: {enabled: false}}}", "s/n", "taskset.yaml:4:50: the TaskSet has no entry 'zzz'; there are deploy, m, own"),
        ("{entries: {deploy: {entries: {}}}}", "s/n/deploy", "taskset.yaml:4:59: 'entries' has no meaning here"),
        ("{entries: {m: {net: []}}}", "s/n/m", "taskset.yaml:4:54: 'net' has no meaning for a TaskSet"),
        ("{entries: {m: {entries: {x: {}}}}}", "s/n/m", "taskset.yaml:4:64: the TaskSet has no entry 'x'"),
        ("{entries: {own: {entries: {x: {}}}}}", "s/n/own", "taskset.yaml:4:66: the TaskSet has no entry 'x'"),
    ],
)
def test_what_a_patch_may_not_say_is_a_fault_of_the_entry_it_is_for(overrides: str, id: str, said: str) -> None:
    files = {
        "taskset.yaml": f"  entries:\n    n: {{ref: {{path: n}}, overrides:    {overrides}}}\n    good: {{ref: {{path: x}}}}",
        "n/taskset.yaml": "  entries: {deploy: {ref: {path: ../x}}, m: {ref: {path: ../m}}, own: {ref: {path: ../m}, overrides: {entries: {t: {}}}}}",
        "m/taskset.yaml": "  entries: {t: {ref: {path: ../x}}}",
        "x": None,
    }
    found = expanded(Trees(files))
    assert list(found.faults) == [id]
    assert shown(found.faults[id])[0].startswith(said)
    assert "s/good" in found.leaves
    assert not any(f"{each}/".startswith(f"{id}/") for each in found.leaves)


def test_a_key_with_a_slash_is_not_taken_for_the_entry_of_another_set() -> None:
    task = "{inline: {name: X, trigger: {manual: true}}}"
    files = {"taskset.yaml": f"  entries: {{n/t: {task}, n: {{ref: {{path: n}}}}}}", "n/taskset.yaml": f"  entries: {{t: {task}}}"}
    found = expanded(Trees(files))
    assert (list(found.faults), list(found.leaves)) == (["s/n%2Ft"], ["s/n/t"])


# ── no end ──


def test_a_set_that_leads_back_to_itself_is_the_fault_of_the_entry_that_closes_the_circle() -> None:
    files = {
        "taskset.yaml": "  entries:\n    a: {ref: {path: a}}\n    t: {ref: {path: x}}",
        "a/taskset.yaml": "  entries:\n    b: {ref: {path: ../b}}\n    t: {ref: {path: ../x}}",
        "b/taskset.yaml": "  entries:\n    back: {ref: {path: ../a/taskset.yaml}}\n    t: {ref: {path: ../x}}",
        "x": None,
    }
    found = expanded(Trees(files))
    assert set(found.leaves) == {"s/t", "s/a/t", "s/a/b/t"}
    assert list(found.faults) == ["s/a/b/back"]
    (said,) = shown(found.faults["s/a/b/back"])
    assert said.startswith("b/taskset.yaml:4:18: ")
    assert "cycle" in said


def over_two(a_says: str, b_says: str, **options: Any) -> Expansion:
    """A source at https://h/a and a repository https://h/b; each has a set with a task and one entry `on` that says this.

    Whatever an entry leads to stands under each key that an expansion asks for, as it would be fetched.
    """
    texts = {
        "a": f"  entries:\n    t: {{ref: {{path: x}}}}\n    on: {{ref: {a_says}}}",
        "b": f"  entries:\n    t: {{ref: {{path: x}}}}\n    on: {{ref: {b_says}}}",
    }
    trees = Trees({"taskset.yaml": texts["a"], "x": None})
    known: set[str] = set()
    while True:
        found = expanded(trees, rules=Rules(home=place_of_repo(Repo("https://h/a")), named=("https://h/",)), **options)
        new = found.repos.keys() - known
        if not new:
            return found
        for key in new:
            name = place_of_repo(found.repos[key]).partition("#")[0].rpartition("/")[2]
            trees.put("taskset.yaml", texts[name], key)
            trees.put("x", None, key)
        known |= new


@pytest.mark.parametrize("url", ["https://h/a", "https://h/a.git", "https://h/a/", "https://H:443/a", "git@h:a.git", "ssh://git@h/a"])
@pytest.mark.parametrize("dev", [False, True])
def test_a_set_that_refers_to_its_own_repository_by_url_is_a_cycle_at_once(url: str, dev: bool) -> None:
    found = over_two(f"{{url: '{url}'}}", "{path: nowhere}", dev=dev)
    assert set(found.leaves) == {"s/t"}, "no task is there twice"
    assert list(found.faults) == ["s/on"] and "cycle" in str(found.faults["s/on"][0])
    assert over_two(f"{{url: '{url}', branch: other}}", "{path: nowhere}", dev=dev).leaves.keys() == {"s/t", "s/on/t"}, (
        "another branch is another set"
    )


@pytest.mark.parametrize("back", ["https://h/a", "https://H/a.git", "git@h:a"])
def test_a_cycle_over_two_repositories_is_the_fault_of_the_entry_that_leads_back(back: str) -> None:
    found = over_two("{url: 'https://h/b.git'}", f"{{url: '{back}'}}")
    assert set(found.leaves) == {"s/t", "s/on/t"}
    assert list(found.faults) == ["s/on/on"] and "cycle" in str(found.faults["s/on/on"][0])


def test_of_its_own_repository_a_set_may_name_other_folders() -> None:
    trees = Trees({"taskset.yaml": "  entries: {n: {ref: {url: 'https://h/a', path: n}}}"})
    rules = Rules(home=place_of_repo(Repo("https://h/a")))
    (key,) = expanded(trees, rules=rules).repos
    trees.put("n/taskset.yaml", "  entries: {t: {ref: {path: ../x}}, up: {ref: {path: ..}}}", key)
    trees.put("taskset.yaml", "  entries: {}", key)
    trees.put("x", None, key)
    found = expanded(trees, rules=rules)
    assert (set(found.leaves), list(found.faults)) == ({"s/n/t"}, ["s/n/up"])


def _chain(length: int) -> dict[str, str | None]:
    """The root and below it sets, one in another; the last has a task."""
    inner = {f"n{n}/taskset.yaml": f"  entries:\n    k: {{ref: {{path: ../n{n + 1}}}}}" for n in range(1, length)}
    return {
        "taskset.yaml": "  entries:\n    k: {ref: {path: n1}}",
        **inner,
        f"n{length}/taskset.yaml": "  entries:\n    t: {ref: {path: ../x}}",
        "x": None,
    }


def test_an_id_may_have_16_segments_and_what_is_deeper_is_a_fault_of_the_entry_that_leads_there() -> None:
    for length in (MAX_SEGMENTS - 3, MAX_SEGMENTS - 2):
        found = expanded(Trees(_chain(length)))
        assert (list(found.leaves), found.faults) == (["s" + "/k" * length + "/t"], {})
    found = expanded(Trees(_chain(MAX_SEGMENTS - 1)))
    assert (found.leaves, list(found.faults)) == ({}, ["s" + "/k" * (MAX_SEGMENTS - 1)])
    assert "too deep" in str(found.faults["s" + "/k" * (MAX_SEGMENTS - 1)][0])


def test_sets_that_refer_to_each_other_twice_do_not_grow_for_ever() -> None:
    """Ten entries, each of them the next set, on every level: 10 to the power of 14 tasks."""
    files: dict[str, str | None] = {"x": None}
    for n in range(14):
        entries = ", ".join(f"e{k}: {{ref: {{path: {'../' if n else ''}n{n + 1}}}}}" for k in range(10))
        files[f"n{n}/taskset.yaml" if n else "taskset.yaml"] = f"  entries: {{{entries}}}"
    trees = Trees(files | {"n14/taskset.yaml": "  entries: {t: {ref: {path: ../x}}}"})
    found = expanded(trees)
    assert (found.leaves, list(found.faults)) == ({}, [""])
    assert shown(found.faults[""]) == ["taskset.yaml:1:1: leads to more than 20,000 tasks: split it into several sources"]
    assert len(trees.asked) < 3 * module.MAX_VISITS


def test_nor_do_those_that_hold_no_task_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_VISITS", 2_000)  # the rule, not the time of 60,000
    files: dict[str, str | None] = {"n4/taskset.yaml": "  entries: {}"}
    for n in range(4):
        entries = ", ".join(f"e{k}: {{ref: {{path: {'../' if n else ''}n{n + 1}}}}}" for k in range(10))
        files[f"n{n}/taskset.yaml" if n else "taskset.yaml"] = f"  entries: {{{entries}}}"
    trees = Trees(files)
    assert list(expanded(trees).faults) == [""]
    assert len(trees.asked) < 3 * module.MAX_VISITS


def _of_tasks(monkeypatch: pytest.MonkeyPatch, number: int) -> Expansion:
    monkeypatch.setattr(module, "MAX_TASKS", 20)  # the rule, not the time of 20,000
    entries = ", ".join(f"t{n}: {{ref: {{path: x}}}}" for n in range(number))
    return expanded(Trees({"taskset.yaml": f"  entries: {{{entries}}}", "x": None}))


def test_a_source_has_as_many_tasks_as_it_may_and_not_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(_of_tasks(monkeypatch, 19).leaves) == 19
    assert len(_of_tasks(monkeypatch, 20).leaves) == 20
    assert list(_of_tasks(monkeypatch, 21).faults) == [""]


# ── from leaf to task ──


def leaf_of(entry: str, defaults: str = "") -> Leaf:
    (leaf,) = expanded(Trees({"taskset.yaml": f"  defaults: {{{defaults}}}\n  entries:\n    k: {entry}", "x": None})).leaves.values()
    return leaf


def resolved(leaf: Leaf, given: Folder) -> Resolved:
    found = resolve_leaf(leaf, given)
    assert isinstance(found, Resolved), found
    return found


def test_a_leaf_is_its_folder_with_the_patches_over_it() -> None:
    found = resolved(leaf_of("{ref: {path: x}, overrides: {timeout: 5s}}", "timeout: 9s, env: [A=1]"), folder())
    assert (found.id, found.spec.timeout, found.script, found.dir) == ("s/k", 5000, "task.py", "/w/t")
    assert found.spec.permissions is not None and found.spec.permissions.env is not None


@pytest.mark.parametrize(
    ("yaml", "entry", "said"),
    [
        (b"name: T\ntrigger: {manual: true}\n", "{ref: {path: x}}", "/w/t/task.yaml:1:1: 'kind: Task' is missing"),
        (b"kind: TaskSet\nname: T\ntrigger: {manual: true}\n", "{ref: {path: x}}", "/w/t/task.yaml:1:1: 'kind' must be Task"),
        (b"", "{ref: {path: x}}", "/w/t/task.yaml:1:1: there is no task.yaml"),
        (TASK, "{ref: {path: x}, overrides: {runtime: docker}}", "taskset.yaml:5:37: runtime docker needs 'docker'"),
        (TASK, "{ref: {path: x}, overrides: {runtime: shell}}", "taskset.yaml:5:37: the script is missing: expected task.sh"),
        (b"kind: Task\nname: T\n", "{ref: {path: x}, overrides: {trigger: {manual: true}}}", "/w/t/task.yaml:1:1: 'trigger' is missing"),
    ],
)
def test_what_is_wrong_stands_in_the_file_that_says_it(yaml: bytes, entry: str, said: str) -> None:
    found = resolve_leaf(leaf_of(entry), folder(yaml))
    assert not isinstance(found, Resolved)
    assert shown(found)[0].startswith(said)


def test_what_is_wrong_with_the_folder_is_wrong_with_the_task() -> None:
    for read, entry in ((folder(), "{ref: {path: x}}"), (folder(b"", k__py=""), INLINE % "")):
        found = resolve_leaf(leaf_of(entry), read._replace(faults=(Fault("/w/t/out", 1, 1, "leaves the folder"),)))
        assert not isinstance(found, Resolved)
        assert "leaves the folder" in found[0].message


INLINE = "{inline: {name: X, trigger: {manual: true}%s}}"


def test_an_inline_task_asks_for_its_own_files_and_says_where_an_include_is_wrong() -> None:
    leaf = leaf_of(INLINE % ", include: [lib, ../up], ignore: ['*.log']")
    assert want_of(leaf) == Want("", "k", ("lib", "../up"), ("*.log",))
    fault = Fault("/w/task.yaml", 1, 1, "include ../up: leaves the root /w")
    found = resolve_leaf(leaf, Folder("/w", (FolderFile("k.py", "-", b""),), (fault,)))
    assert not isinstance(found, Resolved)
    assert shown(found) == ["taskset.yaml:5:67: include ../up: leaves the root /w"]


def test_a_task_that_is_too_long_for_a_message_is_a_fault_of_its_entry() -> None:
    def found(size: int) -> Resolved | tuple[Fault, ...]:
        return resolve_leaf(leaf_of(INLINE % f", description: {'x' * size}"), folder(b"", k__py=""))

    one = found(1)
    assert isinstance(one, Resolved)
    most = MAX_SPEC - len(one.spec_json) + 1
    assert isinstance(found(most), Resolved)
    refused = found(most + 1)
    assert not isinstance(refused, Resolved)
    assert shown(refused)[0].startswith("taskset.yaml:5:52: the resolved spec has 262,145 bytes, most of them in 'description'")


def test_the_script_of_an_inline_task_is_called_by_its_key_or_task() -> None:
    assert resolved(leaf_of(INLINE % ""), folder(b"", k__py="")).script == "k.py"
    assert resolved(leaf_of(INLINE % ""), folder(b"", task__sh="")).script == "task.sh"
    assert resolved(leaf_of(INLINE % ", runtime: js"), folder(b"", k__mjs="", k__json="")).script == "k.mjs"
    for files, said in (({"k__json": "", "task__py": ""}, "expected k.py or k.ts"), ({"k__py": "", "k__ts": ""}, "both k.py and k.ts")):
        found = resolve_leaf(leaf_of(INLINE % ""), folder(b"", **files))
        assert not isinstance(found, Resolved)
        assert said in found[0].message


def test_what_moved_in_the_set_changes_no_digest() -> None:
    one = resolved(leaf_of("{ref: {path: x}, overrides: {timeout: 60s, params: {b: 1, a: 2}}}"), folder())
    other = resolved(leaf_of("{overrides: {params: {a: 2, b: 1}, timeout: 1m}, ref: {path: ./x}}"), folder())
    assert (one.digest, one.process) == (other.digest, other.process)
    assert (
        resolved(leaf_of("{ref: {path: x}, overrides: {enabled: true}}"), folder()).digest == resolved(leaf_of("{ref: {path: x}}"), folder()).digest
    )


def test_an_inline_task_has_the_same_digest_whatever_the_order_of_its_keys() -> None:
    one = resolved(leaf_of("{inline: {name: X, params: {b: 1, a: 2}, trigger: {manual: true}}}"), folder(b"", k__py=""))
    other = resolved(leaf_of("{inline: {trigger: {manual: true}, params: {a: 2, b: 1}, name: X}}"), folder(b"", k__py=""))
    assert one.digest == other.digest


# ── again ──


def _nested() -> Trees:
    inner = {f"n{n}/taskset.yaml": "  entries:\n" + "\n".join(f"    t{k}: {{ref: {{path: ../x{k}}}}}" for k in range(5)) for n in range(5)}
    root = "\n".join(f"    n{n}: {{ref: {{path: n{n}}}, overrides: {{entries: {{t1: {{timeout: 5s}}}}}}}}" for n in range(5))
    return Trees({"taskset.yaml": f"  entries:\n{root}", **inner, **{f"x{k}": None for k in range(5)}})


def test_where_nothing_changed_the_answer_is_the_same_object() -> None:
    trees, memo = _nested(), Memo()
    first = expanded(trees, memo=memo)
    assert expanded(trees, memo=memo) is first
    assert changes(first, first) == ([], [])
    assert len(changes(None, first)[0]) == 25


def test_an_override_that_changes_is_the_only_leaf_that_differs() -> None:
    trees, memo = _nested(), Memo()
    first = expanded(trees, memo=memo)
    trees.put(
        "n3/taskset.yaml",
        "  entries:\n    t0: {ref: {path: ../x0}, overrides: {timeout: 9s}}\n    t1: {ref: {path: ../x1}}\n    t2: {ref: {path: ../x2}}",
    )
    second = expanded(trees, memo=memo)
    different, gone = changes(first, second)
    assert ([leaf.id for leaf in different], gone) == (["s/n3/t0"], ["s/n3/t3", "s/n3/t4"])
    assert all(second.leaves[id] is leaf for id, leaf in first.leaves.items() if not id.startswith("s/n3/"))


def test_what_only_moved_is_equal_and_its_faults_stand_where_it_is_now() -> None:
    trees, memo = _nested(), Memo()
    first = expanded(trees, memo=memo)
    trees.put(
        "taskset.yaml",
        "# moved\n  entries:\n" + "\n".join(f"    n{n}: {{ref: {{path: n{n}}}, overrides: {{entries: {{t1: {{timeout: 5s}}}}}}}}" for n in range(5)),
    )
    second = expanded(trees, memo=memo)
    assert changes(first, second) == ([], [])
    assert first.leaves["s/n0/t1"] is not second.leaves["s/n0/t1"]
    assert first.leaves["s/n0/t0"] is second.leaves["s/n0/t0"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("t1: {timeout: 5s}", ""),
        ("", "t1: {timeout: 5s}"),
        ("t1: {enabled: false}", "t2: {enabled: false}"),
        ("t1: {timeout: 5s}, t2: {timeout: 6s}", "t2: {timeout: 7s}"),
        ("t1: {entries: {}}", "t1: {enabled: true}"),
    ],
)
def test_a_patch_from_above_that_comes_goes_or_moves_reaches_the_set_that_stayed(before: str, after: str) -> None:
    trees, memo = _nested(), Memo()
    for patches in (before, after, before):
        trees.put("taskset.yaml", f"  entries: {{n0: {{ref: {{path: n0}}, overrides: {{entries: {{{patches}}}}}}}}}")
        assert shape(expanded(trees, memo=memo)) == shape(expanded(trees))


@pytest.mark.parametrize("options", [{"dev": True}, {"rules": Rules(("X",))}])
def test_a_memo_of_another_question_does_not_answer_this_one(options: dict[str, Any]) -> None:
    trees, memo = Trees({"taskset.yaml": "  entries: {e: {ref: {path: p, dev_ref: {path: d}}}}", "d": None, "p": None}), Memo()
    expanded(trees, memo=memo)
    assert expanded(trees, memo=memo, **options) == expanded(trees, **options)


def test_a_root_that_breaks_and_comes_back_is_whole_again() -> None:
    trees, memo = _nested(), Memo()
    first = expanded(trees, memo=memo)
    trees.put("taskset.yaml", "  entrys: {}")
    assert list(expanded(trees, memo=memo).faults) == [""]
    trees = _nested()
    assert set(expanded(trees, memo=memo).leaves) == set(first.leaves)


# ── properties ──

KEYS = st.sampled_from(["a", "b", "c", "A"])
PLACES = [f"n{n}" for n in range(4)]
PATCH = st.sampled_from(["{}", "{timeout: 5s}", "{enabled: false}", "{enabled: true}", "{net: [], env: [A=1]}", "{trigger: {cron: '@daily'}}"])


@st.composite
def sets(draw: st.DrawFn) -> dict[str, str | None]:
    """Four sets and a root that refer to each other, to tasks and to nothing, as chance will have it."""
    files: dict[str, str | None] = {"x": None, "y": None}
    for place in ("", *PLACES):
        entries = draw(
            st.dictionaries(
                KEYS,
                st.tuples(st.sampled_from([*PLACES, "x", "y", "gone", "../../out"]), PATCH, st.dictionaries(KEYS, PATCH, max_size=2)),
                max_size=3,
            )
        )
        lines = []
        for key, (target, own, inner) in entries.items():
            below = ", ".join(f"{name}: {patch}" for name, patch in inner.items())
            overrides = f"{{entries: {{{below}}}}}" if target in PLACES and inner else own
            lines.append(f"    {key}: {{ref: {{path: {'../' if place else ''}{target}}}, overrides: {overrides}}}")
        files[f"{place}/taskset.yaml" if place else "taskset.yaml"] = "  entries:\n" + "\n".join(lines) if lines else "  entries: {}"
    return files


def shape(found: Expansion) -> tuple[object, ...]:
    return {id: leaf.mark for id, leaf in found.leaves.items()}, found.faults, found.wanted, found.seen, found.repos, found.polls


@settings(deadline=None, max_examples=150)
@given(sets())
def test_sets_that_refer_to_each_other_at_will_come_to_an_end(files: dict[str, str | None]) -> None:
    found = expanded(Trees(files))
    assert found.wanted == frozenset()
    assert not found.leaves.keys() & found.faults.keys()
    assert all(not id.startswith(f"{fault}/") for id in found.leaves for fault in found.faults)


@settings(deadline=None, max_examples=150)
@given(sets(), st.lists(st.tuples(sets(), st.sampled_from(["taskset.yaml", *(f"{place}/taskset.yaml" for place in PLACES)])), min_size=1, max_size=4))
def test_a_warm_memo_answers_as_a_cold_one(files: dict[str, str | None], edits: list[tuple[dict[str, str | None], str]]) -> None:
    """One file after another is replaced; all others stay the very sets that they were."""
    trees, memo = Trees(files), Memo()
    expanded(trees, memo=memo)
    for other, path in edits:
        trees.put(path, other[path])
        assert shape(expanded(trees, memo=memo)) == shape(expanded(trees))


@settings(deadline=None, max_examples=100)
@given(sets(), st.integers())
def test_the_order_of_entries_changes_no_task(files: dict[str, str | None], seed: int) -> None:
    shuffled = {path: text and _shuffled(text, random.Random(seed)) for path, text in files.items()}
    one, other = expanded(Trees(files)), expanded(Trees(shuffled))
    assert one.leaves == other.leaves
    assert one.faults.keys() == other.faults.keys()


def _shuffled(text: str, chance: random.Random) -> str:
    head, *entries = text.split("\n")
    chance.shuffle(entries)
    return "\n".join([head, *entries])


@settings(deadline=None, max_examples=100)
@given(sets())
def test_a_patch_that_says_nothing_changes_nothing(files: dict[str, str | None]) -> None:
    def digests(given: dict[str, str | None]) -> dict[str, bytes]:
        found = [resolve_leaf(leaf, folder()) for leaf in expanded(Trees(given)).leaves.values()]
        return {each.id: spec_json(each.spec) for each in found if isinstance(each, Resolved)}

    bare = {path: text and text.replace(", overrides: {}", "") for path, text in files.items()}
    assert digests(files) == digests(bare)
