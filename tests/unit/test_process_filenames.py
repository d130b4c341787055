"""File names of tasks: short ones are readable, long ones fit, and no two tasks share one."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from dicode.messages.kinds import Daemon
from dicode.process.filenames import NAME_MAX, file_name
from dicode.process.tasklog import LogWriter, daemon_log
from dicode.runtime.environment import state_folder
from dicode.supervisor.records import Records

SEGMENT = st.text("abcdefgö-_.0123456789", min_size=1, max_size=64)
IDS = st.lists(SEGMENT, min_size=1, max_size=12).map("/".join)
LONG = "/".join(["a-team-with-a-very-long-name"] * 15)


def test_a_short_id_is_its_own_name_on_one_level() -> None:
    assert file_name("infra/backend/deploy") == "infra~backend~deploy"


@given(IDS)
def test_every_name_fits_a_file_system_and_leads_nowhere_else(id: str) -> None:
    name = file_name(id)
    assert len(os.fsencode(name)) <= NAME_MAX and "/" not in name


@given(IDS, IDS)
def test_two_tasks_never_share_a_name(one: str, other: str) -> None:
    assert (file_name(one) == file_name(other)) == (one == other)


def test_a_task_with_a_very_long_id_has_a_log_a_state_folder_and_a_record(tmp_path: Path) -> None:
    (tmp_path / "daemon").mkdir()
    LogWriter(daemon_log(tmp_path, LONG)).close()
    state_folder(tmp_path, LONG).mkdir()
    (tmp_path / f"{state_folder(tmp_path, LONG).name}.kv").touch()
    records = Records(tmp_path / "daemons")
    os.close(records.take(LONG))
    records.note(Daemon(task=LONG))
    assert [daemon.task for daemon in records.noted()] == [LONG]
