"""What a task's environment holds, and what it never does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dicode.messages.task import EnvGrant, Param, Permissions, TaskSpec, Trigger
from dicode.runtime.environment import Environment, build, expand, known, param_variable, state_folder
from dicode.runtime.params import params_of

HOST = {"PATH": "/bin", "HOME": "/root", "LANG": "de_DE.UTF-8", "TOKEN": "t", "EMPTY": "", "WITHHELD": "w", "DICODE_SECRET": "d"}
ALWAYS = {"PATH": "/bin", "HOME": "/root", "LANG": "de_DE.UTF-8", "DICODE_TASK_ID": "a/b", "DICODE_STATE_DIR": "/state"}


def built(*grants: EnvGrant, host: dict[str, str] = HOST, **more: Any) -> Environment:
    spec = TaskSpec(name="t", trigger=Trigger(manual=True), permissions=Permissions(env=grants))
    return build(spec, host, task_id="a/b", task_dir=Path("/tree"), state_dir=Path("/state"), data_dir=Path("/data"), withheld=("WITHHELD",), **more)


def test_nothing_of_the_host_but_path_home_and_lang() -> None:
    assert built() == Environment(ALWAYS)
    bare = built(host={}).variables
    assert (bare["PATH"], bare["LANG"], bare["HOME"]) == ("/usr/local/bin:/usr/bin:/bin", "C.UTF-8", "/state")


@pytest.mark.parametrize(
    ("grant", "given"),
    [
        (EnvGrant(name="TOKEN"), {"TOKEN": "t"}),
        (EnvGrant(name="EMPTY"), {"EMPTY": ""}),
        (EnvGrant(name="UNSET"), {}),
        (EnvGrant(name="X", value="v"), {"X": "v"}),
        (EnvGrant(name="X", value=""), {"X": ""}),
        (EnvGrant(name="X", value="", from_="TOKEN"), {"X": "t"}),
        (EnvGrant(name="X", value="v", secret="s", from_="TOKEN"), {"X": "v"}),
        (EnvGrant(name="X", from_="env:TOKEN"), {"X": "t"}),
        (EnvGrant(name="X", from_="${TOKEN}"), {}),
        (EnvGrant(name="X", value="${TASK_DIR}/x:${DATADIR}:${HOME}:${TOKEN}:${NOPE}"), {"X": "/tree/x:/data:/root:${TOKEN}:${NOPE}"}),
        (EnvGrant(name="X", secret="s", optional=True), {"X": ""}),
        (EnvGrant(name="X", from_="task:vault", optional=True), {"X": ""}),
        (EnvGrant(name="WITHHELD"), {}),
        (EnvGrant(name="X", from_="WITHHELD"), {}),
        (EnvGrant(name="X", from_="DICODE_SECRET"), {}),
        (EnvGrant(name="DICODE_TOKEN", value="forged"), {}),
        (EnvGrant(name="PATH", value="/own"), {"PATH": "/own"}),
    ],
)
def test_what_a_grant_gives(grant: EnvGrant, given: dict[str, str]) -> None:
    assert built(grant) == Environment(ALWAYS | given)


@pytest.mark.parametrize(("set_dir", "seen"), [("/sets/infra", "/sets/infra/lib"), ("", "${TASK_SET_DIR}/lib")])
def test_the_set_dir_is_known_in_a_task_set_and_nowhere_else(set_dir: str, seen: str) -> None:
    assert built(EnvGrant(name="LIB", value="${TASK_SET_DIR}/lib"), set_dir=set_dir).variables["LIB"] == seen
    spec = TaskSpec(name="t", trigger=Trigger(manual=True), params=(Param(name="lib", default="${TASK_SET_DIR}/lib"),))
    assert params_of(spec, {}, known(Path("/tree"), Path("/data"), HOST, set_dir)) == {"lib": seen}


@pytest.mark.parametrize(
    ("grant", "words"),
    [
        (EnvGrant(name="X", secret="slack/${TOKEN}"), "secret 'slack/t' for X is not set"),
        (EnvGrant(name="X", from_="task:vault"), "X comes from the secret provider 'task:vault', which this release cannot ask"),
    ],
)
def test_what_is_missing_is_named(grant: EnvGrant, words: str) -> None:
    assert built(grant).missing == (words,)


def test_params_and_our_own_variables_win_over_everything() -> None:
    made = built(EnvGrant(name="X", value="1"), params={"a-b": 2, "on": True}, own={"DICODE_RUN_ID": "r"}).variables
    assert made == ALWAYS | {"X": "1", "DICODE_PARAM_A_B": "2", "DICODE_PARAM_ON": "true", "DICODE_RUN_ID": "r"}


def test_a_name_fits_a_shell() -> None:
    assert param_variable("größe.x") == "DICODE_PARAM_GR_SSE_X"


def test_only_braces_expand() -> None:
    assert expand("$A ${A} ${B} $$ ${", {"A": "1"}, {"B": "2", "A": "no"}) == "$A 1 2 $$ ${"


def test_the_state_of_a_task_does_not_lie_in_that_of_another() -> None:
    assert state_folder(Path("/s"), "a/b").parent == state_folder(Path("/s"), "a").parent
