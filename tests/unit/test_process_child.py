"""Who came of a program, from a table of processes."""

from __future__ import annotations

import os

from dicode.process.child import Identity, Seen, family

MARK = b"DICODE_RUN_ID=x"
LEADER = Identity("boot", 100, 5.0)


def table(*processes: tuple[int, int, int]) -> dict[int, Seen]:
    """(pid, parent, session)"""
    return {pid: Seen(pid, parent, session, 5.0, False) for pid, parent, session in processes}


def nobody(pid: int, mark: bytes) -> bool:
    return False


def test_a_session_belongs_to_its_leader_also_when_he_has_gone() -> None:
    assert family(table((100, 1, 100), (101, 100, 100), (102, 1, 100), (200, 1, 200)), MARK, nobody, LEADER) == {100, 101, 102}
    assert family(table((102, 1, 100), (200, 1, 200)), MARK, nobody, LEADER) == {102}


def test_a_session_of_the_same_number_that_somebody_else_leads_is_not_touched() -> None:
    processes = table((101, 100, 100)) | {100: Seen(100, 1, 100, 77.0, False)}
    assert family(processes, MARK, nobody, LEADER) == set()


def test_who_carries_the_mark_and_all_below_belong_to_it() -> None:
    processes = table((10, 1, 10), (11, 10, 11), (12, 11, 12), (13, 1, 13))
    assert family(processes, MARK, lambda pid, mark: pid == 10 and mark == MARK) == {10, 11, 12}


def test_who_was_known_before_belongs_to_it_with_all_below() -> None:
    assert family(table((10, 1, 10), (11, 10, 11), (13, 1, 13)), MARK, nobody, known=[10, 99]) == {10, 11}


def test_zombies_do_not_count_but_their_children_do() -> None:
    processes = table((101, 100, 7)) | {100: Seen(100, 1, 100, 5.0, True)}
    assert family(processes, MARK, nobody, LEADER) == {101}


def test_we_and_our_ancestors_are_spared() -> None:
    us = os.getpid()
    processes = table((2, 1, 2), (us, 2, 2), (us + 1, us, 2))
    assert family(processes, MARK, lambda pid, mark: True) == {us + 1}


def test_a_loop_in_the_table_ends() -> None:
    assert family(table((10, 11, 10), (11, 10, 10)), MARK, lambda pid, mark: pid == 10) == {10, 11}
