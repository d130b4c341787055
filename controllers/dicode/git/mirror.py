"""Mirrors: for each URL one bare repository in data_dir/mirrors, brought up to date and kept small. Blocks; runs in a child of the fetcher.

A mirror holds nothing that cannot be fetched again. What is served is kept under `refs/dicode/<hash of Repo.key>`, always replaced
by what the remote says now. A mirror that is damaged, too big or worn is made anew beside the old one, which stays until then.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import struct
import zlib
from collections.abc import Iterator, Sequence

import msgspec
from dulwich.errors import ApplyDeltaError, ChecksumMismatch, ObjectFormatException
from dulwich.object_store import DiskObjectStore
from dulwich.pack import UnresolvedDeltas

from dicode.git import channel, local_remote, merging
from dicode.git.channel import Secret
from dicode.git.frames import GitFault, Limits, Outcome, Said, SweepArgs, SyncArgs, Synced, Verb
from dicode.git.packs import COMMIT, TREE, Damaged, Database, Unusable
from dicode.git.remote import Chosen, Remote, check_ref, check_secret, choose, nonsense, own_ref, parse, prefixes
from dicode.git.summary import notes, summary
from dicode.git.upload import OverHttp, OverStream, Refs, Remoting
from dicode.process.clock import wall
from dicode.spec.trees import CommitInfo

MAX_COMMIT = 1 << 20  # bytes of a commit's own text
MAX_TREE = 16 << 20  # bytes of the list of its root
HAVES = 256  # commits we tell a remote we have
HAVES_EACH = 32  # of one ref, so that a rewritten tip still has a known parent
NOT_AGAIN_BEFORE = 600.0  # seconds between two times that a mirror is made anew because readers found it damaged
UNUSED_FOR = 7 * 86_400.0  # seconds after which a mirror that nobody follows is removed
DAMAGED = "dicode-damaged"  # a file in a mirror: a reader found it damaged
RENEWED = "dicode-renewed"  # a file in a mirror: it was made anew for that reason, then
KNOWN = "dicode-remote.json"  # a file in a mirror: what was learned about the remote
TEMPORARY = re.compile(r"tmp_pack_.*|tmp.*\.pack|.*\.lock")

# what dulwich and we throw on bytes that are not what they should be
_DAMAGE = (
    Damaged, ApplyDeltaError, ChecksumMismatch, ObjectFormatException, UnresolvedDeltas, zlib.error, struct.error, KeyError, AssertionError, IndexError,
    ValueError, EOFError,
)  # fmt: skip


def is_damage(error: Exception) -> bool:
    """Whether this is what only reading a damaged object database throws."""
    return isinstance(error, (Damaged, ApplyDeltaError, ChecksumMismatch, zlib.error))


# ── the folder ──


def _objects(mirror: str) -> str:
    return os.path.join(mirror, "objects")


def make(mirror: str) -> None:
    """An empty one, which git knows as a bare repository."""
    for folder in ("objects/pack", "objects/info", "refs/heads", "refs/dicode"):
        os.makedirs(os.path.join(mirror, folder), mode=0o700)
    _write(os.path.join(mirror, "HEAD"), b"ref: refs/heads/main\n")
    _write(os.path.join(mirror, "config"), b"[core]\n\trepositoryformatversion = 0\n\tbare = true\n")


def _write(path: str, content: bytes) -> None:
    """Whole or not at all."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "wb") as file:
        file.write(content)
    os.replace(temporary, path)


def read_ref(mirror: str, ref: str) -> str:
    """The commit that is kept under this ref; "" when there is none, or what is there is none."""
    try:
        with open(os.path.join(mirror, ref), "rb") as file:
            text = file.read(64).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return text if re.fullmatch("[0-9a-f]{40}", text) else ""


def _write_ref(mirror: str, ref: str, commit: str) -> None:
    path = os.path.join(mirror, ref)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    _write(path, f"{commit}\n".encode())


def _kept(mirror: str) -> list[str]:
    """All commits that are served from here."""
    folder = os.path.join(mirror, "refs", "dicode")
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [commit for commit in (read_ref(mirror, f"refs/dicode/{name}") for name in names if "." not in name) if commit]


@contextlib.contextmanager
def locked(mirror: str) -> Iterator[None]:
    """Nobody else changes it meanwhile. The lock lies beside it, for it may be replaced."""
    os.makedirs(os.path.dirname(mirror), mode=0o700, exist_ok=True)
    path = f"{mirror}.lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.utime(path)  # sweep() sees by it when it was used last
        yield
    finally:
        os.close(lock)


def distrust(mirror: str) -> None:
    """A reader found it damaged: the next sync makes it anew."""
    with contextlib.suppress(OSError):
        _write(os.path.join(mirror, DAMAGED), b"")


def _must_be_renewed(mirror: str, limits: Limits) -> bool:
    pack = os.path.join(_objects(mirror), "pack")
    try:
        packs = [entry for entry in os.scandir(pack) if entry.name.endswith(".pack")]
        size = sum(entry.stat().st_size for entry in packs)
        os.stat(os.path.join(mirror, "HEAD"))
    except OSError:
        return True
    return size > limits.mirror or len(packs) > limits.worn or _is_distrusted(mirror)


def _is_distrusted(mirror: str) -> bool:
    """A repository that is itself broken would be cloned for ever: not again so soon."""
    if not os.path.exists(os.path.join(mirror, DAMAGED)):
        return False
    try:
        return wall() - os.stat(os.path.join(mirror, RENEWED)).st_mtime > NOT_AGAIN_BEFORE
    except OSError:
        return True


def _sweep_temporary(mirror: str) -> None:
    """What a child left that was ended: nobody else writes here now."""
    for path in (f"{mirror}.new", f"{mirror}.old"):
        shutil.rmtree(path, ignore_errors=True)
    for folder in (_objects(mirror), os.path.join(_objects(mirror), "pack")):
        with contextlib.suppress(OSError):
            for entry in os.scandir(folder):
                half = entry.name.endswith(".pack") and not os.path.exists(f"{entry.path.removesuffix('.pack')}.idx")
                if half or TEMPORARY.fullmatch(entry.name):
                    os.unlink(entry.path)


# ── reading what is there ──


def _info(database: Database, commit: str) -> CommitInfo:
    """Raises Damaged, Unusable."""
    text = database.read(bytes.fromhex(commit), COMMIT, MAX_COMMIT)
    told = summary(commit, text)
    root = database.read(bytes.fromhex(told.tree), TREE, MAX_TREE)
    return told._replace(notes=notes(root, lambda id: database.start(id, 1 << 16, 1 << 20)))


@contextlib.contextmanager
def _reading(mirror: str) -> Iterator[Database]:
    database = Database(mirror)
    try:
        yield database
    finally:
        database.close()


def known(mirror: str, refs: list[str]) -> Iterator[dict[str, CommitInfo]]:
    """Own ref → the commit it keeps, where that can be read. No network."""
    found: dict[str, CommitInfo] = {}
    commits = {ref: commit for ref in refs if (commit := read_ref(mirror, ref))}
    if commits:
        with contextlib.suppress(*_DAMAGE), _reading(mirror) as database:
            for ref, commit in commits.items():
                with contextlib.suppress(*_DAMAGE, Unusable):
                    found[ref] = _info(database, commit)
    yield found


# ── sync ──


def sync(mirror: str, args: SyncArgs) -> Iterator[Synced]:
    """Bring the mirror to where the remote is. Raises GitFault when that fails for all repos alike."""
    repo = args.wanted[0].repo
    remote = parse(repo.url, trusted=repo.trusted)
    check_secret(remote, repo)
    with locked(mirror):
        yield _Sync(mirror, remote, args).run()


class _Sync:
    """One round for one mirror."""

    def __init__(self, mirror: str, remote: Remote, args: SyncArgs) -> None:
        self._mirror = mirror
        self._remote = remote
        self._args = args
        self._limits = args.limits
        self._faults: dict[int, GitFault] = {}  # number of a wanted → what is wrong with it
        self._chosen: dict[int, Chosen] = {}
        self._renewed = False
        self._remoting: Remoting | None = None

    def run(self) -> Synced:
        try:
            self._look()
            return self._bring()
        finally:
            self._hang_up()

    def _look(self) -> None:
        """What the remote has, and what of it each of our repos means."""
        asked: list[int] = []
        for number, wanted in enumerate(self._args.wanted):
            try:
                check_ref(wanted.repo)
            except GitFault as fault:
                self._faults[number] = fault
            else:
                asked.append(number)
        if not asked:
            return
        refs = self._refs(tuple(dict.fromkeys(prefix for number in asked for prefix in prefixes(self._args.wanted[number].repo))))
        for number in asked:
            try:
                self._chosen[number] = choose(self._args.wanted[number].repo, refs)
            except GitFault as fault:
                self._faults[number] = fault

    def _bring(self) -> Synced:
        news, distrusted = self._news(), _is_distrusted(self._mirror)
        if news or distrusted:
            _sweep_temporary(self._mirror)
            self._renewed = bool(self._chosen) and _must_be_renewed(self._mirror, self._limits)
        if self._renewed:
            found = self._renew(distrusted)
        elif news:
            try:
                found = self._update(news)
            except _DAMAGE:
                self._renewed = True
                found = self._renew(distrusted)
        else:
            found = {}
        self._repair_refs()
        outcomes = [Outcome(found.get(number), _said(self._faults.get(number))) for number in range(len(self._args.wanted))]
        return Synced(outcomes, self._renewed, bool(found) and merging.count(self._mirror) > self._limits.packs)

    def _news(self) -> list[int]:
        """Those whose commit is not the one that is known, or is not kept."""
        return [
            number
            for number, chosen in self._chosen.items()
            if chosen.commit != self._args.wanted[number].known or chosen.commit != read_ref(self._mirror, own_ref(self._args.wanted[number].repo))
        ]

    # ── the remote ──

    def _refs(self, wanted: Sequence[str]) -> Refs:
        """In one request when we know how this remote wants to be asked; when that fails, from the beginning."""
        learned = _learned(self._mirror)
        if learned is not None and self._remote.scheme in ("http", "https"):
            remoting = self._dial(learned)
            try:
                return remoting.refs(wanted)
            except GitFault as fault:
                if fault.reason in ("HostUnreachable", "TimedOut", "TlsFailed", "TooLarge"):
                    raise
                self._hang_up()
        return self._dial(None).refs(wanted)

    def _dial(self, path: str | None) -> Remoting:
        """`path`: of the repository on a host that speaks version 2; None: nothing is known yet."""
        self._hang_up()
        repo, limits = self._args.wanted[0].repo, self._limits
        secret = Secret(self._args.token, repo.token_env, repo.ssh_key, repo.known_hosts)
        match self._remote.scheme:
            case "http" | "https":
                http = channel.Http(self._remote, secret, trusted=repo.trusted)
                if path is not None:
                    http.path = path
                remoting: Remoting = OverHttp(http, limits.refs, limits.fetch, knows_2=path is not None)
            case "ssh":
                remoting = OverStream(channel.ssh(self._remote, secret, trusted=repo.trusted), limits.refs, limits.fetch)
            case "git":
                remoting = OverStream(channel.git(self._remote), limits.refs, limits.fetch)
            case "file":
                remoting = local_remote.OverFiles(self._remote.path, limits.fetch)
        self._remoting = remoting
        return remoting

    def _hang_up(self) -> None:
        if self._remoting is not None:
            self._remoting.close()
            self._remoting = None

    # ── the mirror ──

    def _update(self, news: list[int]) -> dict[int, CommitInfo]:
        """Fetch what is missing. Raises what a damaged mirror throws, and GitFault."""
        with _reading(self._mirror) as database:
            missing = [number for number in news if not _holds(database, self._chosen[number].commit)]
            if missing:
                kept = _kept(self._mirror)
                if not all(_holds(database, commit) for commit in kept):
                    raise Damaged("what is served from here cannot be read")
                self._fetch(self._mirror, missing, list(_haves(database, kept)))
            found = self._infos(database, news)
        for number in found:
            self._keep(self._mirror, number)
        self._learn(self._mirror)
        return found

    def _renew(self, distrusted: bool) -> dict[int, CommitInfo]:
        """Clone beside what there is, then change places. Raises GitFault; then what there was is still there."""
        fresh = f"{self._mirror}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        make(fresh)
        try:
            numbers = list(self._chosen)
            self._fetch(fresh, numbers, [])
            with _reading(fresh) as database:
                found = self._infos(database, numbers)
        except _DAMAGE as error:
            raise nonsense(f"what it sent is damaged ({type(error).__name__})") from None
        self._save_what_is_served(fresh)
        for number in found:
            self._keep(fresh, number)
        self._learn(fresh)
        if distrusted:
            _write(os.path.join(fresh, RENEWED), b"")
        old = f"{self._mirror}.old"
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._mirror, old)
        os.rename(fresh, self._mirror)
        shutil.rmtree(old, ignore_errors=True)
        return {number: info for number, info in found.items() if info.id != self._args.wanted[number].known}

    def _save_what_is_served(self, fresh: str) -> None:
        """Commits that other repos are at, or that a ref which is gone had: the remote may still give them away."""
        folder = os.path.join(self._mirror, "refs", "dicode")
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(folder)):
                commit = read_ref(self._mirror, f"refs/dicode/{name}")
                if commit and self._bring_over(fresh, commit):
                    _write_ref(fresh, f"refs/dicode/{name}", commit)

    def _bring_over(self, fresh: str, commit: str) -> bool:
        with contextlib.suppress(GitFault, *_DAMAGE), _reading(fresh) as database:
            if not _holds(database, commit):
                self._ask_for(fresh, [commit], list(_haves(database, [self._chosen[number].commit for number in self._chosen])))
            return _holds(database, commit)
        return False

    def _keep(self, mirror: str, number: int) -> None:
        _write_ref(mirror, own_ref(self._args.wanted[number].repo), self._chosen[number].commit)

    def _learn(self, mirror: str) -> None:
        if isinstance(self._remoting, OverHttp) and self._remoting.knows_2 and _learned(mirror) != self._remoting.path:
            _write(os.path.join(mirror, KNOWN), msgspec.json.encode({"version": 2, "path": self._remoting.path}))

    def _infos(self, database: Database, numbers: list[int]) -> dict[int, CommitInfo]:
        """Raises Damaged."""
        found: dict[int, CommitInfo] = {}
        for number in numbers:
            if number in self._faults:
                continue
            try:
                found[number] = _info(database, self._chosen[number].commit)
            except Unusable:
                kind = self._args.wanted[number].repo.ref_kind
                self._faults[number] = GitFault("RefNotFound", f"the {kind} does not lead to a commit that can be used")
        return found

    def _repair_refs(self) -> None:
        """Of repos that the remote says nothing of now: a ref that means nothing is put right, or taken away."""
        for number, wanted in enumerate(self._args.wanted):
            ref = own_ref(wanted.repo)
            if number in self._chosen or read_ref(self._mirror, ref):
                continue
            with contextlib.suppress(*_DAMAGE), _reading(self._mirror) as database:
                if wanted.known and _holds(database, wanted.known):
                    _write_ref(self._mirror, ref, wanted.known)
                    continue
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._mirror, ref))

    # ── packs ──

    def _fetch(self, mirror: str, numbers: list[int], haves: list[str]) -> None:
        """Tips in one go. A bare commit need not be a tip of anything: not every remote gives it away by its id, then
        everything is fetched that it can be in."""
        tips = list(dict.fromkeys(self._chosen[number].want for number in numbers if self._chosen[number].name))
        if tips:
            self._ask_for(mirror, tips, haves)
        for number in numbers:
            if self._chosen[number].name:
                continue
            try:
                self._fetch_commit(mirror, self._chosen[number].commit, haves)
            except GitFault as fault:
                if fault.reason != "RefNotFound":
                    raise
                self._faults[number] = fault

    def _fetch_commit(self, mirror: str, commit: str, haves: list[str]) -> None:
        """Raises GitFault RefNotFound."""
        try:
            self._ask_for(mirror, [commit], haves)
        except GitFault as fault:
            if fault.reason not in ("RefNotFound", "ProtocolError", "HostUnreachable"):
                raise
            refs = self._dial(None).refs(("refs/heads/", "refs/tags/"))
            tips = list(dict.fromkeys(each.id for each in refs.values()))
            if tips:
                self._ask_for(mirror, tips, haves)
            with _reading(mirror) as database:
                if not _holds(database, commit):
                    raise GitFault("RefNotFound", "the remote has no such commit in any branch or tag") from None

    def _ask_for(self, mirror: str, wants: list[str], haves: list[str]) -> None:
        """Raises GitFault, and what a damaged mirror or pack throws."""
        if self._remoting is None or (isinstance(self._remoting, OverStream) and self._remoting.spent):
            self._dial(None).refs(("HEAD",))
        assert self._remoting is not None
        try:
            receive(mirror, self._remoting.fetch(wants, haves))
        except _DAMAGE as error:
            if haves:
                raise  # it may be ours that is damaged
            raise nonsense(f"its pack is damaged ({type(error).__name__})") from None


def receive(mirror: str, parts: Iterator[bytes]) -> None:
    """Write a pack, complete it if it is thin, index and check it. Raises what a damaged pack or mirror throws."""
    buffer = bytearray()

    def some(size: int) -> bytes:
        while not buffer:
            part = next(parts, None)
            if part is None:
                return b""
            buffer.extend(part)
        taken = bytes(memoryview(buffer)[:size])
        del buffer[:size]
        return taken

    def whole(size: int) -> bytes:
        pieces, missing = [], size
        while missing and (piece := some(missing)):
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    store = DiskObjectStore(_objects(mirror))
    try:
        store.add_thin_pack(whole, some)
        for _ in parts:  # the end of what the remote says
            pass
    finally:
        store.close()


def _holds(database: Database, commit: str) -> bool:
    """The commit and its root are here. Raises Damaged only when more than these is wrong."""
    try:
        tree = summary(commit, database.read(bytes.fromhex(commit), COMMIT, MAX_COMMIT)).tree
        database.read(bytes.fromhex(tree), TREE, MAX_TREE)
    except Unusable:
        return True  # it is here, and nothing that can be used
    except Damaged:
        return False
    return True


def _haves(database: Database, tips: Sequence[str]) -> Iterator[str]:
    """Commits we have, newest first of each ref; as many as a remote needs to find common ground."""
    told: set[str] = set()
    for tip in dict.fromkeys(tips):
        commit = tip
        for _ in range(HAVES_EACH):
            if commit in told or len(told) >= HAVES:
                break
            try:
                text = database.read(bytes.fromhex(commit), COMMIT, MAX_COMMIT)
            except (Damaged, Unusable):
                break
            told.add(commit)
            yield commit
            parent = re.search(rb"^parent ([0-9a-f]{40})$", text.partition(b"\n\n")[0], re.MULTILINE)
            if parent is None:
                break
            commit = parent[1].decode()


def _learned(mirror: str) -> str | None:
    """The path of the repository on a host that speaks version 2."""
    try:
        with open(os.path.join(mirror, KNOWN), "rb") as file:
            told = msgspec.json.decode(file.read(1 << 14), type=dict[str, str | int])
    except (OSError, msgspec.DecodeError):
        return None
    path = told.get("path")
    return path if told.get("version") == 2 and isinstance(path, str) else None


def _said(fault: GitFault | None) -> Said | None:
    return None if fault is None else Said(fault.reason, str(fault), fault.permanent)


# ── care ──


def sweep(mirrors: str, args: SweepArgs) -> Iterator[int]:
    """Remove mirrors that nobody has followed for long. Gives how many."""
    removed, keep = 0, set(args.keep)
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(mirrors)):
            name = entry.name.removesuffix(".lock")
            if not entry.name.endswith(".lock") or name in keep or wall() - entry.stat().st_mtime < UNUSED_FOR:
                continue
            path = os.path.join(mirrors, name)
            with locked(path):
                for each in (path, f"{path}.new", f"{path}.old"):
                    shutil.rmtree(each, ignore_errors=True)
                os.unlink(entry.path)
            removed += 1
    yield removed


def repack(mirror: str, limits: Limits) -> Iterator[int]:
    """Make one pack of the small ones. Gives how many there are then."""
    with locked(mirror):
        _sweep_temporary(mirror)
        merging.merge(mirror, limits.fetch // 2)
        yield merging.count(mirror)


VERBS: dict[str, Verb] = {
    "known": Verb(list[str], known),
    "sync": Verb(SyncArgs, sync),
    "repack": Verb(Limits, repack),
    "sweep": Verb(SweepArgs, sweep),
}
