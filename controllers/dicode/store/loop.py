"""How the store lives: one plain thread that polls its sockets, its signals and its keeper.

Answer what was asked, publish what was committed, do what has become due, wait. Replies leave before news: who asked
waits, who listens can ask.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence

from dicode.messages.commands import Failed
from dicode.process import role
from dicode.process.clock import mono, wall, wall_ms
from dicode.store.engine import Committed, Corrupt, Moment, TooNew, Unavailable
from dicode.store.read import Unreadable
from dicode.store.service import Asked, Service
from dicode.store.sqlite import Sqlite, backups, set_aside
from dicode.wire import server
from dicode.wire.frames import HEARTBEAT, encode, endpoints

SILENCE = 0.3  # seconds without a command after which a stopping store may go
STOP_WITHIN = 4.5  # seconds; half a second after everyone else
EXPIRE_EVERY = 0.25  # seconds
EXPIRE_IDLE = 1.0  # seconds, while nobody holds a run: well below a lease
LOOK_EVERY = 5.0  # seconds between two looks at the file: is it still ours, is its log too long
STALL = 1.0  # seconds between two rounds of this loop, which turns four times a second
OPEN_EVERY = 1.0  # seconds between two tries on a full disk
TIDY_EVERY = 60.0  # seconds between two rounds of forgetting
BACKUP_EVERY = 600.0  # seconds between two copies of the database
BACKUP_FIRST = 60.0  # seconds after the start until the first
SWEEP_EVERY = 3600.0  # seconds between two sweeps of what lies beside the database
SWEEP_FIRST = 300.0  # seconds after the start until the first: by then every source has been read
TIDY_STEP = 0.05  # seconds between two steps of one round
SLACK = 0.05  # seconds a chore may be early, where that saves a wake-up of its own
SETTLE = 0.005  # seconds a new subscriber gets to name all its topics before it is greeted


class Loop:
    """The store of one data folder. Raises Refused when only a person can help."""

    def __init__(self, context: role.Context) -> None:
        self._context = context
        self._signals = wake_on_signals()
        try:
            self._server = server.Server(*endpoints(context.settings.data_dir))
        except OSError as error:
            raise role.Refused(role.explain(error), role.EX_CONFIG) from None
        self._server.watch(self._signals.fileno())
        self._server.watch(context.keeper.fileno())
        self._engine: Sqlite | None = None
        self._service: Service | None = None
        self._trouble = ""
        self._gone = False  # the file is no longer where we opened it
        self._last_asked = mono()
        self._stop_asked_at = 0.0
        self._listened = now()  # all that had arrived by then has been answered
        self._due: dict[Callable[[], float | None], float] = {}  # chore → when; it says in how many seconds it is due again, None: never
        self._chores(self._beat, self._heartbeat, self._expire, self._look, self._tidy)
        self._due[self._tidy] += TIDY_EVERY  # everyone is starting now
        self._sweeping: threading.Thread | None = None
        self._due[self._sweep] = mono() + SWEEP_FIRST
        self._copying: threading.Thread | None = None
        self._copied = 0  # the newest rev in the last copy
        self._copy_every = float(context.settings.environ.get("DICODE_TEST_BACKUP_EVERY", BACKUP_EVERY))
        self._due[self._copy] = mono() + self._until_copy()
        self._open()

    def _chores(self, *chores: Callable[[], float | None]) -> None:
        self._due.update(dict.fromkeys(chores, mono()))

    def _open(self) -> float | None:
        """Open the database; a damaged one makes room for an empty one."""
        path = self._context.settings.database
        try:
            try:
                self._engine = Sqlite(path, now())
            except Corrupt as damage:
                put_away(self._context, damage)
                self._engine = Sqlite(path, now())
        except Unavailable as error:
            if error.lasting:
                raise role.Refused(f"{path}: {error}", role.EX_CONFIG) from None
            self._say_trouble(str(error))
            self._chores(self._open)
            return OPEN_EVERY
        except (TooNew, OSError) as error:
            raise role.Refused(f"{path}: {error}", role.EX_CONFIG) from None
        self._service = Service(self._engine, os.urandom(8).hex())
        self._say_trouble("")
        self._context.keeper.ready()
        return None

    def live(self) -> bool:
        """Until told to stop. False: the file was taken away, only a new start can help. Raises Corrupt."""
        try:
            while not self._may_go() and not self._gone:
                batch = self._server.asked(self._wait())
                self._listen()
                self._hear()
                if batch:
                    self._answer(batch)
                self._do_due(pressed=len(batch) >= server.BATCH)
        finally:
            if self._engine is not None:
                self._engine.close()
            self._server.close()
        return not self._gone

    def _listen(self) -> None:
        """After a stall (a slow disk, SIGSTOP) nobody's lease is judged for a moment: renewals may still be on their way in."""
        before, self._listened = self._listened, now()
        if self._listened.mono - before.mono > STALL * 1000:
            self._due[self._expire] = mono() + STALL

    def _wait(self) -> float:
        if self._server.joined:
            self._due[self._heartbeat] = min(self._due[self._heartbeat], mono() + SETTLE)
        latest = min(self._due.values())
        if self._stop_asked_at:
            latest = min(latest, self._last_asked + SILENCE, mono() + SILENCE / 10)
        return max(0.0, latest - mono())

    def _answer(self, batch: Sequence[server.Asked]) -> None:
        self._last_asked = mono()
        if self._service is None:
            failed = encode(Failed(message=self._trouble, retry=True))
            for asked in batch:
                self._server.reply(asked.peer, asked.request, failed)
            return
        replies, changes = self._service.answer([Asked(asked.request, asked.command) for asked in batch], now())
        for asked, reply in zip(batch, replies, strict=True):
            self._server.reply(asked.peer, asked.request, reply)
        self._publish(changes)
        self._say_trouble(self._service.trouble)

    def _publish(self, changes: Sequence[Committed]) -> None:
        assert self._service is not None
        for change in changes:
            self._server.publish(self._service.epoch, *change)

    def _do_due(self, *, pressed: bool) -> None:
        """`pressed`: more commands are waiting; then leases wait too, for a renewal may be among them."""
        instant = mono()
        if instant < min(self._due.values()):
            return
        for chore, at in list(self._due.items()):
            if at > instant + SLACK or (pressed and chore in (self._expire, self._tidy)):
                continue
            again = chore()
            if again is None:
                del self._due[chore]
            else:
                self._due[chore] = instant + again

    def _beat(self) -> float:
        self._context.keeper.beat()
        return role.BEAT

    def _heartbeat(self) -> float:
        if self._service is not None and self._engine is not None:
            self._server.heartbeat(self._service.epoch, self._engine.head(), self._engine.heads())
        return HEARTBEAT

    def _expire(self) -> float:
        if self._service is not None:
            try:
                self._publish(self._service.expire(self._listened))
            except Unavailable as error:
                self._say_trouble(str(error))
        return EXPIRE_EVERY if self._engine is not None and self._engine.queue.leased() else EXPIRE_IDLE

    def _look(self) -> float:
        if self._engine is not None:
            self._engine.idle()
            if not self._engine.still_there():
                self._context.log.say("the database was taken away while it was in use: starting anew with what is there")
                self._gone = True
        return LOOK_EVERY

    def _tidy(self) -> float:
        if self._service is None:
            return TIDY_EVERY
        try:
            more, changes = self._service.tidy(now())
        except Unavailable as error:
            self._say_trouble(str(error))
            return TIDY_EVERY
        self._publish(changes)
        return TIDY_STEP if more else TIDY_EVERY

    def _sweep(self) -> float:
        """On a thread of its own, with a reading connection of its own: thousands of files take their time."""
        if self._service is not None and (self._sweeping is None or not self._sweeping.is_alive()):
            self._sweeping = threading.Thread(target=self._sweep_beside, name="sweep", daemon=True)
            self._sweeping.start()
        return SWEEP_EVERY

    def _sweep_beside(self) -> None:
        from dicode.store import litter  # brings what runtimes need: not at the start, where everyone waits for us

        try:
            removed = litter.sweep(self._context.settings, wall())
        except (Unreadable, OSError) as error:
            self._context.log.say(f"store: nothing was swept: {role.explain(error)}")
        else:
            self._context.log.debug(f"swept {removed} files that nothing refers to")

    def _until_copy(self) -> float:
        """Seconds until the first copy of this start: who starts often shall not lose the old ones for it."""
        newest = next(iter(backups.newest_first(self._context.settings.backups)), None)
        left = 0.0 if newest is None else self._copy_every - (wall_ms() - backups.made_at(newest)) / 1000
        return min(self._copy_every, max(BACKUP_FIRST, left))

    def _copy(self) -> float:
        """On a thread of its own, too; not when nothing has been written since the last one."""
        head = self._engine.head() if self._engine is not None else 0
        if head != self._copied and (self._copying is None or not self._copying.is_alive()):
            self._copying = threading.Thread(target=self._copy_beside, args=(head,), name="backup", daemon=True)
            self._copying.start()
        return self._copy_every

    def _copy_beside(self, head: int) -> None:
        try:
            backups.copy(self._context.settings.database, self._context.settings.backups, now())
        except (Unreadable, OSError) as error:
            self._context.log.say(f"store: no copy of the database was made: {role.explain(error)}")
        else:
            self._copied = head

    def _hear(self) -> None:
        """Signals, and the end of the keeper: both mean stop."""
        woken = self._server.woken
        if self._signals.fileno() in woken and self._signals.recv(64):
            self._stop()
        keeper = self._context.keeper
        if keeper.fileno() in woken and keeper.hear() is None:
            self._server.unwatch(keeper.fileno())
            role.die_in(STOP_WITHIN + 1.0)
            self._stop()

    def _stop(self) -> None:
        self._stop_asked_at = self._stop_asked_at or mono()
        self._last_asked = max(self._last_asked, self._stop_asked_at)

    def _may_go(self) -> bool:
        """Told to stop, and nobody needs us any more: they are gone, or silent without a run whose end is still to be told."""
        if not self._stop_asked_at:
            return False
        limit = float(self._context.settings.environ.get("DICODE_STOP_TIMEOUT", 0)) + 0.5
        if not self._server.peers or mono() - self._stop_asked_at >= max(STOP_WITHIN, limit):
            return True
        return mono() - self._last_asked >= SILENCE and (self._engine is None or not self._engine.queue.leased())

    def _say_trouble(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._context.log.say(f"store: {trouble}" if trouble else "store: writing works again")
            self._trouble = trouble


def wake_on_signals() -> socket.socket:
    """A socket on which SIGTERM and SIGINT arrive as bytes: a signal alone does not end a poll (PEP 475)."""
    ear, mouth = socket.socketpair()
    ear.setblocking(False)
    mouth.setblocking(False)
    signal.set_wakeup_fd(mouth.detach(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return ear


def put_away(context: role.Context, damage: Corrupt) -> None:
    """Make room for the last good copy, or for an empty one. Raises OSError."""
    settings, at = context.settings, now()
    aside = set_aside(settings.database, at)
    found = backups.put_back(settings.database, settings.backups, at)
    if found is None:
        rest = "tasks come back from their sources, the history of runs does not"
    else:
        minutes = max(0, at.wall - backups.made_at(found)) // 60_000
        rest = f"it goes on as it was {minutes} min ago; runs under way then count as lost, and slots missed since are not fired"
    context.log.say(f"THE DATABASE WAS DAMAGED ({damage}) and moved to {aside}: {rest}")


def now() -> Moment:
    return Moment(wall_ms(), int(mono() * 1000))
