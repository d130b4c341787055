"""The worker's decisions, without a process or a clock: how many runs at once, for how long, and what an end means."""

from __future__ import annotations

import json
from typing import NamedTuple

from dicode.messages.kinds import Config, RunStatus
from dicode.messages.task import Runtime, TaskSpec, timeout_of
from dicode.process.endings import told_by

TTL = 6.0  # seconds a lease lasts; R7
RENEW = 2.0  # seconds between two renewals
TRUST = TTL * 2 / 3  # seconds after which the answer to a claim or a renewal is not believed any more
TIMED_OUT = 124  # the exit code of `timeout`(1)


def slots(configured: int, cores: int) -> int:
    """Runs at once: execution.max_concurrent_runs, where 0 is four a core."""
    return configured or 4 * cores


def timeout(spec: TaskSpec, runtime: Runtime, config: Config) -> int | None:
    """The timeout in force in ms: of task.yaml, else `defaults.timeout` of dicode.yaml, else the built-in one."""
    built_in = timeout_of(spec, runtime)
    if spec.timeout is None and built_in is not None and config.default_timeout is not None:
        return config.default_timeout or None
    return built_in


class Ended(NamedTuple):
    """How the main process of a run ended. `code` as os.waitstatus_to_exitcode gives it; None when nobody could learn it."""

    code: int | None
    timed_out: bool = False


class Returned(NamedTuple):
    """What the task gave back. `file`: the content of $DICODE_RESULT, None when it was not written."""

    value: str = ""
    file: bytes | None = None


class Verdict(NamedTuple):
    status: RunStatus
    exit_code: int | None
    error: str
    value: str = ""


def judge(ended: Ended, returned: Returned, timeout_ms: int | None, result_max: int) -> Verdict:
    """What a run that nobody stopped has come to."""
    if ended.timed_out:
        return Verdict("timed_out", TIMED_OUT, f"timed out after {(timeout_ms or 0) / 1000:g} s")
    if ended.code is None:
        return Verdict("failed", None, "its exit code could not be learned")
    if ended.code:
        return Verdict("failed", exit_code(ended.code), told_by(ended.code))
    if returned.value or returned.file is None:
        return Verdict("succeeded", 0, "", returned.value)
    if len(returned.file) > result_max:
        return Verdict("failed", 0, f"the file $DICODE_RESULT has more than {result_max} bytes")
    text = returned.file.decode(errors="replace").strip()
    if not text:
        return Verdict("succeeded", 0, "")
    try:
        json.loads(text, parse_int=len, parse_float=len, parse_constant=_no_json)  # a number of any length is fine
    except (ValueError, RecursionError) as error:
        return Verdict("failed", 0, f"the file $DICODE_RESULT holds no JSON: {error}")
    return Verdict("succeeded", 0, "", text)


def _no_json(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def exit_code(code: int) -> int:
    """As a shell gives it: 128 + the signal's number for a killed process."""
    return 128 - code if code < 0 else code
