"""What a task's environment holds, and what it never does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dicode.messages.task import EnvGrant, FsGrant, Param, Permissions, Runtime, TaskSpec, Trigger
from dicode.runtime.command import CannotStart
from dicode.runtime.environment import Environment, build, param_variable, state_folder
from dicode.runtime.params import params_of
from dicode.runtime.variables import filled

HOST = {"PATH": "/bin", "HOME": "/root", "LANG": "de_DE.UTF-8", "TOKEN": "t", "EMPTY": "", "WITHHELD": "w", "DICODE_SECRET": "d"}
ALWAYS = {"PATH": "/bin", "HOME": "/root", "LANG": "de_DE.UTF-8", "DICODE_TASK_ID": "a/b", "DICODE_STATE_DIR": "/state"}


def built(*grants: EnvGrant, host: dict[str, str] = HOST, **more: Any) -> Environment:
    spec = TaskSpec(name="t", trigger=Trigger(manual=True), permissions=Permissions(env=grants))
    return build(spec, host, task_id="a/b", state_dir=Path("/state"), withheld=("WITHHELD",), **more)


def used(runtime: Runtime = "python", *, set_dir: str = "", given: tuple[str, ...] = (), **spec: Any) -> TaskSpec:
    """The spec as a process of this runtime uses it."""
    written = TaskSpec(name="t", trigger=Trigger(manual=True), **spec)
    places = {"task_dir": Path("/tree"), "data_dir": Path("/data"), "set_dir": set_dir}
    return filled(written, runtime, HOST, given=given, withheld=("WITHHELD",), **places)  # type: ignore[arg-type]


def granted(*grants: EnvGrant, **more: Any) -> tuple[EnvGrant, ...]:
    permissions = used(permissions=Permissions(env=grants), **more).permissions
    assert permissions is not None and permissions.env is not None
    return permissions.env


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


def test_what_a_process_uses_has_its_variables_filled_in() -> None:
    grants = granted(
        EnvGrant(name="A", value="${TASK_DIR}/x:${DATADIR}:${HOME}:${TASK_SET_DIR}"), EnvGrant(name="B", from_="${TOKEN}"), set_dir="/sets/infra"
    )
    assert grants == (EnvGrant(name="A", value="/tree/x:/data:/root:/sets/infra"), EnvGrant(name="B", from_="t"))
    lib = Param(name="lib", default="${TASK_SET_DIR}/lib")
    assert params_of(used(set_dir="/sets/infra", params=(lib,)), {}) == {"lib": "/sets/infra/lib"}
    paths = used("deno", permissions=Permissions(fs=(FsGrant(path="${TOKEN}/x"),))).permissions
    assert paths is not None and paths.fs == (FsGrant(path="t/x"),)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"params": (Param(name="p", default="${TOKEN}"),)}, r"params\[p\].default: \${TOKEN} is unknown: here may stand TASK_DIR"),
        ({"params": (Param(name="p", default="${TASK_SET_DIR}"),)}, r"\${TASK_SET_DIR} is known in a TaskSet only"),
        ({"permissions": Permissions(env=(EnvGrant(name="X", value="${TOKEN}"),))}, r"permissions.env\[X\].value: \${TOKEN}"),
        ({"permissions": Permissions(env=(EnvGrant(name="X", value="${NO}", optional=True),))}, r"permissions.env\[X\].value: \${NO}"),
        ({"permissions": Permissions(env=(EnvGrant(name="X", secret="a/${NO}"),))}, r"X\].secret: \${NO} is not set where dicode runs: set it there"),
        ({"permissions": Permissions(env=(EnvGrant(name="X", from_="${NO}"), EnvGrant(name="Y", from_="${NO2}")))}, r"\${NO} .*; .*\${NO2} "),
        ({"permissions": Permissions(env=(EnvGrant(name="X", from_="${WITHHELD}"),))}, r"\${WITHHELD} is dicode's own and kept from tasks"),
        ({"permissions": Permissions(fs=(FsGrant(path="${DICODE_SECRET}"),))}, r"permissions.fs\[0\].path: \${DICODE_SECRET} is dicode's own"),
    ],
)
def test_no_process_starts_with_a_variable_that_nobody_knows(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(CannotStart, match=f"^UnknownVariable: .*{words}"):
        used("deno", **spec)


def test_what_a_process_does_not_use_does_not_keep_it_from_starting() -> None:
    used(params=(Param(name="p", default="${NO}"),), given=("p",))
    used("python", permissions=Permissions(fs=(FsGrant(path="${NO}"),)))  # only deno is held to it
    granted(EnvGrant(name="X", from_="${NO}", optional=True), EnvGrant(name="Y", secret="${NO}", optional=True))
    granted(EnvGrant(name="X", value="v", secret="${NO}", from_="${NO}"))


@pytest.mark.parametrize(
    ("grant", "words"),
    [
        (EnvGrant(name="X", secret="slack"), "secret 'slack' for X is not set"),
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


def test_the_state_of_a_task_does_not_lie_in_that_of_another() -> None:
    assert state_folder(Path("/s"), "a/b").parent == state_folder(Path("/s"), "a").parent
