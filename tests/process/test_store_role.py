"""The real `dicode store` and real ZeroMQ: it starts, refuses, stops, and survives what RELIABILITY names."""

from __future__ import annotations

import asyncio
import random
import resource
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import zmq
from tests.support.store_desk import put, run, task
from tests.support.store_process import LossyBus, RealStore, wait_for
from tests.support.waiting import until

from dicode.messages.commands import (
    Claim,
    Claimed,
    Enqueue,
    Enqueued,
    Failed,
    Finish,
    Finished,
    Found,
    Get,
    Held,
    List,
    Listing,
    Ping,
    Pong,
    Put,
    Renew,
    Renewed,
    Write,
    Written,
)
from dicode.messages.kinds import Task
from dicode.process.mirror import Mirror
from dicode.store.read import Reader
from dicode.store.sqlite.backups import newest_first
from dicode.wire.client import Wire
from dicode.wire.frames import HEARTBEAT, StoreFailed, decode_reply, encode
from dicode.wire.server import Server

pytestmark = pytest.mark.process
KEYS = 300


@pytest.fixture
def store() -> Iterator[RealStore]:
    with RealStore() as running:
        yield running


def table(store: RealStore, kind: str = "Task") -> dict[str, bytes]:
    """The store's own word."""
    found: dict[str, bytes] = {}
    with store.wire() as wire:
        after = 0
        while True:
            page = wire.ask(List(what=kind, after=after), Listing)
            found |= {change.key: change.body for change in page.changes if change.body is not None}
            if not page.more:
                return found
            after = page.changes[-1].rev


def copy(mirror: Mirror) -> dict[str, bytes]:
    return {key: encode(value) for key, value in mirror.all(Task)}


class Writing:
    """A thread that puts tasks as fast as the store answers, and remembers what was acknowledged."""

    def __init__(self, store: RealStore, keys: int = KEYS) -> None:
        self.acked: dict[str, bytes] = {}
        self.tried: dict[str, bytes] = {}
        self.count = 0
        self._store = store
        self._keys = keys
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)

    def __enter__(self) -> Writing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(15)
        assert not self._thread.is_alive()

    def _write(self) -> None:
        with self._store.wire() as wire:
            while not self._stop.is_set():
                self.count += 1
                key = f"t{self.count % self._keys}"
                body = encode(task(key, digest=f"d{self.count}"))
                self.tried[key] = body
                wire.ask(Write(ops=(Put("Task", key, body),)), Written)
                self.acked[key] = body


async def converges(mirror: Mirror, store: RealStore, seconds: float) -> float:
    """Seconds until the copy is equal to the store's table, which must not change meanwhile."""
    wanted = await asyncio.to_thread(table, store)
    began = time.monotonic()
    await until(lambda: copy(mirror) == wanted, f"{len(wanted)} tasks are copied", seconds)
    return time.monotonic() - began


def mirrored(endpoints: tuple[str, str], story: Callable[[Mirror], object], *, drop_hints: bool = False) -> None:
    """Run `story` beside a mirror of tasks."""

    async def live() -> None:
        wire = Wire(*endpoints)
        mirror = Mirror(wire, [Task], lambda kind, key, cause: None, drop_hints=drop_hints)
        following = asyncio.create_task(mirror.run())
        try:
            async with asyncio.timeout(40):
                await mirror.start()
                await story(mirror)  # type: ignore[misc]
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            wire.close()

    asyncio.run(live())


class TestLife:
    def test_a_second_one_refuses_and_names_the_first(self, store: RealStore) -> None:
        assert store.keeper is not None
        second = store.launch()
        assert second.wait(5) == 75
        assert f"store already runs here: pid {store.keeper.pid}" in store.said()
        store.answers()

    def test_nobody_is_left_to_ask_so_it_goes_at_once(self) -> None:
        with RealStore() as store:
            pass
        with RealStore() as store:
            assert store.stop() < 1.5
            store.start()

    def test_it_answers_until_its_peers_have_fallen_silent(self, store: RealStore) -> None:
        role = store.role()
        with store.wire() as wire:
            wire.ask(Ping(), Pong)
            role.send_signal(signal.SIGTERM)
            began = time.monotonic()
            while time.monotonic() < began + 1.0:
                wire.ask(Write(ops=(put(task("a", digest=str(time.monotonic())), "a"),)), Written)
            silent = time.monotonic()
            wait_for(lambda: not role.is_running(), 3.0)
            assert time.monotonic() - silent < 1.5
        store.answers()

    def test_a_new_subscriber_hears_at_once(self, store: RealStore) -> None:
        with store.wire() as first:
            first.subscribe(["Task"])
            assert first.hear(5.0) is not None
            with store.wire() as second:
                began = time.monotonic()
                second.subscribe(["Task"])
                assert second.hear(5.0) is not None
                assert time.monotonic() - began < HEARTBEAT / 2

    def test_a_damaged_database_makes_room_and_says_so(self) -> None:
        store = RealStore()
        store.data.mkdir()
        (store.data / "dicode.db").write_bytes(b"not a database" * 1000)
        with store:
            assert "THE DATABASE WAS DAMAGED" in store.said()
            assert list(store.data.glob("dicode.db.corrupt-*"))

    def test_a_database_damaged_at_rest_goes_on_from_the_copy_the_store_made(self) -> None:
        """D5."""
        store = RealStore(DICODE_TEST_BACKUP_EVERY="0.2")
        with store:
            with store.wire() as wire:
                wire.ask(Write(ops=(put(task("a"), "a"),)), Written)
            wait_for(lambda: any(Reader(path).all(Task) for path in newest_first(store.data / "backups")), 10.0)
            store.stop()
            (store.data / "dicode.db").write_bytes(b"\xff" * 8192)
            store.start()
            assert "THE DATABASE WAS DAMAGED" in store.said() and "it goes on as it was 0 min ago" in store.said()
            assert table(store).keys() == {"a"}

    def test_a_database_of_a_newer_release_stops_it_with_one_line(self) -> None:
        import apsw

        store = RealStore()
        store.data.mkdir()
        db = apsw.Connection(str(store.data / "dicode.db"))
        db.pragma("user_version", 99)
        db.close()
        keeper = store.launch()
        assert keeper.wait(10) == 78
        assert "newer dicode" in store.said() and "Traceback" not in store.said()
        store.remove()

    def test_a_database_that_is_deleted_under_it_is_missed(self, store: RealStore) -> None:
        role = store.role()
        (store.data / "dicode.db").unlink()
        wait_for(lambda: not role.is_running(), 10.0)
        store.answers()
        assert "taken away" in store.said()

    def test_what_is_no_command_is_answered(self, store: RealStore) -> None:
        context = zmq.Context()
        dealer = context.socket(zmq.DEALER)
        dealer.connect(store.endpoints[0])
        for body in (b"\xc1", b"", encode(task("a")), b"\x81\xa2do\xa7unknown"):
            dealer.send_multipart([b"1", body])
            assert dealer.poll(5000)
            assert isinstance(decode_reply(dealer.recv_multipart()[1]), Failed)
        for parts in ([b"1"], [b"1", b"2", b"3"], [b"x" * 100, encode(Ping())]):
            dealer.send_multipart(parts)
        dealer.send_multipart([b"2", encode(Ping())])
        assert dealer.poll(5000) and isinstance(decode_reply(dealer.recv_multipart()[1]), Pong)
        context.destroy(linger=0)


class TestMirror:
    def test_a_late_subscriber_gets_everything(self, store: RealStore) -> None:
        """Z1: whenever it joins a store under load, its copy becomes equal."""
        for _ in range(5):
            with Writing(store) as writing:
                joined = writing.count + random.randrange(400)

                async def story(mirror: Mirror, writing: Writing = writing, joined: int = joined) -> None:
                    await until(lambda: writing.count >= joined + 300)
                    await asyncio.to_thread(writing.__exit__)
                    await converges(mirror, store, 2.0)

                mirrored(store.endpoints, story)

    def test_gaps_heal(self, store: RealStore) -> None:
        """Z2: every third publication is lost on the way."""
        bus = LossyBus(store.endpoints[1], store.folder / "bus")
        bus.loses = lambda topic, number: topic.startswith(b"Task/") and number % 3 == 0

        async def story(mirror: Mirror) -> None:
            with Writing(store) as writing:
                await until(lambda: writing.count >= 2000)
            assert bus.lost > 100
            await converges(mirror, store, 2.0)

        mirrored((store.endpoints[0], bus.endpoint), story)
        bus.close()

    def test_a_lost_tail_is_noticed_by_the_next_heartbeats(self, store: RealStore) -> None:
        """Z3: the last publications are lost and leave no gap."""
        bus = LossyBus(store.endpoints[1], store.folder / "bus")

        async def story(mirror: Mirror) -> None:
            with store.wire() as wire:
                wire.ask(Write(ops=(put(task("a"), "a"),)), Written)
            await converges(mirror, store, 2.0)
            bus.loses = lambda topic, number: topic.startswith(b"Task/")
            with store.wire() as wire:
                for number in range(50):
                    wire.ask(Write(ops=(put(task(f"t{number}"), f"t{number}"),)), Written)
            wanted = await asyncio.to_thread(table, store)
            assert await converges(mirror, store, 2 * HEARTBEAT + 0.5) < 2 * HEARTBEAT + 0.5
            assert bus.lost == 50 and len(wanted) == 51

        mirrored((store.endpoints[0], bus.endpoint), story)
        bus.close()

    def test_without_any_hint_it_converges_within_two_seconds(self, store: RealStore) -> None:
        async def story(mirror: Mirror) -> None:
            for _ in range(2):
                with Writing(store) as writing:
                    await until(lambda: writing.count >= 500)
                await converges(mirror, store, 2.0)

        mirrored(store.endpoints, story, drop_hints=True)

    def test_a_killed_store_loses_nothing_that_it_acknowledged(self, store: RealStore) -> None:
        """Z4 and fault row 1: SIGKILL five times under writes."""

        async def story(mirror: Mirror) -> None:
            for _ in range(5):
                with Writing(store) as writing:
                    start = writing.count
                    await until(lambda: writing.count >= start + 200)
                    await asyncio.to_thread(store.kill)
                    dead = writing.count
                    await until(lambda: writing.count >= dead + 100)
                found = await asyncio.to_thread(table, store)
                lost = {key for key, body in writing.acked.items() if found.get(key) != body}
                assert not lost
                await converges(mirror, store, 2.0)

        mirrored(store.endpoints, story)


class TestQueue:
    def test_a_killed_store_neither_loses_nor_doubles_a_run(self, store: RealStore) -> None:
        with store.wire() as wire:
            wire.ask(Write(ops=(put(task("a"), "a"),)), Written)
            for number in range(20):
                wire.ask(Enqueue(run=run(f"r{number}")), Enqueued)
            store.kill()
            assert not wire.ask(Enqueue(run=run("r3")), Enqueued).created
            first = wire.ask(Claim(worker="w", token="t1", n=20), Claimed).runs
            assert len(first) == 20
            store.kill()
            assert wire.ask(Claim(worker="w", token="t1", n=20), Claimed).runs == first
            finish = Finish(run="r3", fence=next(one.fence for one in first if one.id == "r3"), status="succeeded")
            assert wire.ask(finish, Finished) == Finished(status="succeeded")
            store.kill()
            assert wire.ask(finish, Finished) == Finished(status="succeeded")

    def test_a_run_nobody_renews_is_lost_and_told(self, store: RealStore) -> None:
        with store.wire() as wire:
            wire.ask(Write(ops=(put(task("a"), "a"),)), Written)
            wire.ask(Enqueue(run=run("r1")), Enqueued)
            wire.subscribe(["Run"])
            assert wire.hear(5.0) is not None
            wire.ask(Claim(worker="w", token="t1", n=1, lease=500), Claimed)
            wait_for(lambda: (heard := wire.hear(1.0)) is not None and b"lost" in heard.body, 5.0)

    def test_a_store_that_stood_still_takes_nothing_from_who_kept_renewing(self, store: RealStore) -> None:
        role = store.role()
        with store.wire() as wire:
            wire.ask(Write(ops=(put(task("a"), "a"),)), Written)
            wire.ask(Enqueue(run=run("r1")), Enqueued)
            (taken,) = wire.ask(Claim(worker="w", token="t1", n=1, lease=1000), Claimed).runs
            renew = Renew(worker="w", held=(Held("r1", taken.fence),), lease=1000)
            for _ in range(2):
                role.suspend()
                timer = threading.Timer(2.0, role.resume)
                timer.start()
                assert wire.ask(renew, Renewed) == Renewed()
                timer.join()
                assert wire.ask(renew, Renewed) == Renewed()


class TestFullDisk:
    def test_no_false_word_and_no_crash_while_there_is_no_room(self, store: RealStore) -> None:
        """Fault row 15. A limit on the size of files stands for the disk."""
        role = store.role()
        body = bytes(300_000)
        with store.wire() as wire:
            wire.ask(Write(ops=(Put("Task", "before", body),)), Written)
            resource.prlimit(role.pid, resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
            refused = 0
            for number in range(12):
                try:
                    wire.ask(Write(ops=(Put("Task", f"t{number}", body),)), Written)
                except StoreFailed:
                    refused += 1
                    assert wire.ask(Get(what="Task", key=f"t{number}"), Found).rev == 0
            assert refused
            acked = 12 - refused
            resource.prlimit(role.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            wire.ask(Write(ops=(Put("Task", "after", body),)), Written)
            assert len(wire.ask(List(what="Task", since=1), Listing).changes) > 0
        assert role.is_running() and len(table(store)) == acked + 2
        assert "writing works again" in store.said()


def test_a_socket_belongs_to_the_thread_that_made_it() -> None:
    """Z6: our error, instead of libzmq's abort."""
    with tempfile.TemporaryDirectory(prefix="dcs-") as folder:
        server = Server(f"ipc://{folder}/c", f"ipc://{folder}/p")
        errors: list[BaseException] = []

        def misuse() -> None:
            for wrong in (lambda: server.asked(0), lambda: server.heartbeat("e", 0, {}), lambda: server.reply(b"", b"", b"")):
                try:
                    wrong()
                except RuntimeError as error:
                    errors.append(error)

        thread = threading.Thread(target=misuse)
        thread.start()
        thread.join()
        server.close()
    assert len(errors) == 3
