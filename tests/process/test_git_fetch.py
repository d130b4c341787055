"""Git over the network: real repositories, a real HTTP server that can misbehave, real children with limits."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.support import git_remote
from tests.support.git_desk import CANARY, HOUR, children_of, commit_of, desk, fake_ssh, lived, main_of, packs, reason_of
from tests.support.git_remote import Handler, Repository, Server, Trick, git, serving
from tests.support.waiting import until, wait_for

from dicode.git import mirror
from dicode.git import repositories as repositories_module
from dicode.git.frames import GitFault, Limits, SyncArgs, Synced, Wanted
from dicode.git.remote import own_ref
from dicode.git.session import Children
from dicode.git.trees import RepoState
from dicode.spec.trees import CommitInfo, Repo

pytestmark = [pytest.mark.process, pytest.mark.skipif(sys.platform != "linux", reason="pidfds, /proc")]

SHORT = Limits(seconds=1.5)


@pytest.fixture
def repository(data_dir: Path) -> Repository:
    return Repository(data_dir / "remote")


@pytest.fixture
def server(repository: Repository) -> Iterator[Server]:
    with serving(repository.bare.parent) as server:
        yield server


# ── what is followed ──


@lived
async def test_a_clone_a_poll_without_news_and_a_push(data_dir: Path, repository: Repository, server: Server) -> None:
    first = repository.commit({"a/task.yaml": "name: A\n"}, "First \x1b[31mred\n\nbody")
    repo = main_of(server)
    async with desk(data_dir) as here:
        state = await here.follow(repo)
        assert state.commit == CommitInfo(
            first, git(repository.work, "rev-parse", "HEAD^{tree}"), "Ada Lovelace <ada@example.org>", 1_795_428_001_000, "First [31mred"
        )
        assert not state.problem and state.synced_at and here.woken == ["owner"]
        assert server.hits == ["refs", "ls-refs", "fetch"]
        assert git(here.mirror(repo), "rev-parse", own_ref(repo)) == first
        git(here.mirror(repo), "fsck", "--full", "--strict")

        server.hits.clear()
        assert (await here.sync(repo)).commit == state.commit
        assert server.hits == ["ls-refs"], "one round trip when nothing changed"

        second = repository.commit({"a/task.yaml": "name: B\n"})
        server.hits.clear()
        assert commit_of(await here.sync(repo)) == second
        assert server.hits == ["ls-refs", "fetch"]
        assert git(here.mirror(repo), "rev-parse", own_ref(repo)) == second
        git(here.mirror(repo), "fsck", "--full", "--strict")


@lived
async def test_the_timer_sees_a_push(data_dir: Path, repository: Repository, server: Server) -> None:
    repository.commit({"a": "1"})
    async with desk(data_dir) as here:
        await here.follow(main_of(server), every=1000)
        second = repository.commit({"a": "2"})
        await until(lambda: commit_of(here.state(main_of(server))) == second)
        assert here.state(main_of(server)).rounds > 1, "nobody asked for it"


@lived
async def test_a_push_that_is_told_of_before_it_is_seen_is_looked_for_again(
    data_dir: Path, repository: Repository, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repositories_module, "PUSH_AGAIN", (0.3, 1.0, 3.0, 9.0))
    repository.commit({"a": "1"})
    repo = main_of(server)
    async with desk(data_dir) as here:
        await here.follow(repo)
        due = here.repositories.sync(repo, 1234.5)
        await until(lambda: here.state(repo).rounds >= due)
        second = repository.commit({"a": "2"})
        await until(lambda: commit_of(here.state(repo)) == second)
        assert here.state(repo).pushed_at == 1234.5


@pytest.mark.parametrize("version", [2, 0])
@lived
async def test_rewritten_history_is_followed(data_dir: Path, repository: Repository, version: int) -> None:
    base = repository.commit({"a": "0", "big": "x" * 5000})
    repository.commit({"a": "1"})
    with serving(repository.bare.parent, version=version) as server:
        async with desk(data_dir) as here:
            await here.follow(main_of(server))
            rewritten = repository.commit({"a": "2"}, amend=True)
            assert git(repository.work, "rev-parse", "HEAD^") == base
            assert commit_of(await here.sync(main_of(server))) == rewritten
            git(here.mirror(main_of(server)), "fsck", "--full")


@lived
async def test_a_deleted_branch_keeps_the_last_good_and_returns(data_dir: Path, repository: Repository, server: Server) -> None:
    first = repository.commit({"a": "1"})
    repository.commit({"a": "2"}, branch="other")
    async with desk(data_dir) as here:
        await here.follow(main_of(server))
        repository.delete("refs/heads/main")
        state = await here.sync(main_of(server))
        assert (commit_of(state), reason_of(state), state.stalled) == (first, "RefNotFound", False)
        back = repository.commit({"a": "3"})
        state = await here.sync(main_of(server))
        assert (commit_of(state), state.problem) == (back, None)


@lived
async def test_an_emptied_repository_keeps_the_last_good(data_dir: Path, repository: Repository, server: Server) -> None:
    first = repository.commit({"a": "1"})
    async with desk(data_dir) as here:
        await here.follow(main_of(server))
        repository.empty()
        state = await here.sync(main_of(server))
        assert (commit_of(state), reason_of(state)) == (first, "RefNotFound")


@lived
async def test_a_repository_that_is_still_empty_waits(data_dir: Path, repository: Repository, server: Server) -> None:
    async with desk(data_dir) as here:
        state = await here.follow(main_of(server))
        assert (commit_of(state), reason_of(state), state.stalled) == ("", "RefNotFound", False)
        first = repository.commit({"a": "1"})
        assert commit_of(await here.sync(main_of(server))) == first


@pytest.mark.parametrize("version", [2, 0])
@lived
async def test_tags_ranges_and_commits(data_dir: Path, repository: Repository, version: int) -> None:
    one = repository.commit({"a": "1"})
    repository.tag("v1.2.0")
    two = repository.commit({"a": "2"})
    repository.tag("v1.3.0", annotated=False)
    three = repository.commit({"a": "3"})
    repository.tag("v2.0.0")
    git(repository.bare, "tag", "atree", f"{three}^{{tree}}")
    with serving(repository.bare.parent, version=version) as server:

        def repo(kind: Any, ref: str) -> Repo:
            return main_of(server, ref_kind=kind, ref=ref)

        tag, range, tip, old, none, tree = (
            repo("tag", "v1.2.0"), repo("semver", "^1.2"), repo("commit", three), repo("commit", two), repo("commit", "0" * 39 + "1"), repo("tag", "atree"),
        )  # fmt: skip
        async with desk(data_dir) as here:
            await here.follow(tag, range, tip, old, none, tree)
            assert [commit_of(here.state(each)) for each in (tag, range, tip, old, none, tree)] == [one, two, three, two, "", ""]
            assert reason_of(here.state(none)) == reason_of(here.state(tree)) == "RefNotFound"
            repository.tag("v1.2.0", three)
            repository.tag("v1.4.0", one)
            await here.sync(tag)
            assert [commit_of(here.state(each)) for each in (tag, range)] == [three, one]


@lived
async def test_a_commit_that_is_no_tip_is_cloned_by_itself_or_with_everything(data_dir: Path, repository: Repository) -> None:
    old = repository.commit({"a": "1"})
    repository.commit({"a": "2"})
    for version in (2, 0):
        with serving(repository.bare.parent, version=version) as server:
            repo = main_of(server, ref_kind="commit", ref=old)
            async with desk(data_dir) as here:
                assert commit_of(await here.follow(repo)) == old


@lived
async def test_repos_of_one_url_share_a_mirror_and_a_session(data_dir: Path, repository: Repository, server: Server) -> None:
    main = repository.commit({"a": "1"})
    dev = repository.commit({"a": "2"}, branch="dev")
    both = main_of(server), main_of(server, ref="dev")
    async with desk(data_dir) as here:
        await here.follow(*both)
        assert [commit_of(here.state(repo)) for repo in both] == [main, dev]
        assert server.hits == ["refs", "ls-refs", "fetch"]
        assert len([folder for folder in (data_dir / "mirrors").iterdir() if folder.is_dir()]) == 1
        server.hits.clear()
        await here.sync(both[0])
        assert server.hits == ["ls-refs"] and here.state(both[1]).rounds == 2


@lived
async def test_submodules_and_lfs_are_noted(data_dir: Path, repository: Repository, server: Server) -> None:
    repository.commit({".gitmodules": '[submodule "x"]\n\tpath = ../../x\n\turl = ext::sh\n', ".gitattributes": "*.bin filter=lfs diff=lfs\n"})
    async with desk(data_dir) as here:
        state = await here.follow(main_of(server))
        assert state.commit is not None and state.commit.notes == ("git-lfs", "submodules")
        assert server.hits == ["refs", "ls-refs", "fetch"], "neither was followed"


@lived
async def test_what_nobody_follows_is_left_and_the_door_closed(data_dir: Path, repository: Repository, server: Server) -> None:
    repository.commit({"a": "1"})
    async with desk(data_dir) as here:
        assert here.repositories.children.pid is None, "nothing is started before something is followed"
        await here.follow(main_of(server))
        fetcher = here.repositories.children.pid
        assert fetcher is not None and psutil.pid_exists(fetcher)
        here.repositories.follow("owner", {})
        await until(lambda: not psutil.pid_exists(fetcher))
        assert here.state(main_of(server)) == RepoState(main_of(server))


# ── other ways to a remote ──


@lived
async def test_a_bare_repository_on_this_machine(data_dir: Path, repository: Repository) -> None:
    first = repository.commit({"a": "1"})
    repository.tag("v1.0.0")
    async with desk(data_dir) as here:
        repo = Repo(str(repository.bare), trusted=True)
        range = Repo(f"file://{repository.bare}", "semver", "1.x", trusted=True)
        await here.follow(repo, range)
        assert commit_of(here.state(repo)) == commit_of(here.state(range)) == first
        second = repository.commit({"a": "2"})
        assert commit_of(await here.sync(repo)) == second
        git(here.mirror(repo), "fsck", "--full")
        gone = await here.follow(Repo("/nonexistent/x.git", trusted=True))
        assert (reason_of(gone), gone.stalled) == ("RepoNotFound", True)


@pytest.mark.parametrize("version", [2, 0])
@lived
async def test_git_over_the_streams_of_ssh(data_dir: Path, repository: Repository, version: int) -> None:
    first = repository.commit({"a": "1"})
    two = repository.commit({"a": "2"})
    three = repository.commit({"a": "3"})
    repo = Repo(f"ssh://git@127.0.0.1{repository.bare}", trusted=True)
    old = Repo(f"ssh://git@127.0.0.1{repository.bare}", "commit", two, trusted=True)
    async with desk(data_dir, PATH=fake_ssh(data_dir / "bin", version=version)) as here:
        await here.follow(repo, old)
        assert (commit_of(here.state(repo)), commit_of(here.state(old))) == (three, two)
        assert "BatchMode=yes" in (data_dir / "bin/argv").read_text().split("\n")
        rewritten = repository.commit({"a": "4"}, amend=True)
        assert commit_of(await here.sync(repo)) == rewritten != first
        git(here.mirror(repo), "fsck", "--full")
        state = await here.follow(Repo(f"ssh://git@127.0.0.1{repository.bare}x", trusted=True))
        assert (reason_of(state), state.stalled) == ("RepoNotFound", True)


@lived
async def test_without_an_ssh_that_is_said(data_dir: Path) -> None:
    (data_dir / "empty").mkdir()
    async with desk(data_dir, PATH=str(data_dir / "empty")) as here:
        state = await here.follow(Repo("git@127.0.0.1:x", trusted=True))
        assert (reason_of(state), state.stalled) == ("MissingSsh", True)


SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:{os.environ.get('DICODE_TEST_SSHD_PATH', '')}")


@pytest.mark.skipif(SSHD is None or shutil.which("ssh") is None, reason="no sshd here: install openssh-server")
@lived
async def test_a_real_ssh_server(data_dir: Path, repository: Repository) -> None:
    first = repository.commit({"a": "1"})
    for name in ("host", "mine", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(data_dir / name)], check=True)
    (data_dir / "authorized").write_text((data_dir / "mine.pub").read_text())
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    with sshd(data_dir) as port:
        (data_dir / "known").write_text(f"[127.0.0.1]:{port} {(data_dir / 'host.pub').read_text()}")
        (data_dir / "unknown").write_text(f"[127.0.0.1]:{port} {(data_dir / 'other.pub').read_text()}")
        url = f"ssh://{user}@127.0.0.1:{port}{repository.bare}"
        good = Repo(url, ssh_key=str(data_dir / "mine"), known_hosts=str(data_dir / "known"), trusted=True)
        strange = good._replace(ssh_key=str(data_dir / "other"))
        impostor = good._replace(known_hosts=str(data_dir / "unknown"))
        async with desk(data_dir) as here:
            await here.follow(good, strange, impostor)
            assert (commit_of(here.state(good)), here.state(good).problem) == (first, None)
            for refused in (strange, impostor):
                assert (reason_of(here.state(refused)), here.state(refused).stalled, commit_of(here.state(refused))) == ("AuthFailed", True, "")
            second = repository.commit({"a": "2"})
            assert commit_of(await here.sync(good)) == second


class sshd:  # noqa: N801  # reads as what it is
    """A real one, each connection of which is given to a process of its own by us, so that the port can be any."""

    def __init__(self, folder: Path) -> None:
        self._config = folder / "sshd_config"
        self._config.write_text(
            f"HostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nAcceptEnv GIT_PROTOCOL\nPermitRootLogin yes\n"
        )
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> int:
        with suppress(OSError):
            Path("/run/sshd").mkdir(mode=0o755)
        self._listener = socket.create_server(("127.0.0.1", 0))
        asyncio.get_running_loop().add_reader(self._listener, self._accept)
        port: int = self._listener.getsockname()[1]
        return port

    def _accept(self) -> None:
        assert SSHD is not None
        link, _ = self._listener.accept()
        link.setblocking(True)
        self._running.append(subprocess.Popen([SSHD, "-i", "-f", str(self._config)], stdin=link, stdout=link, stderr=subprocess.DEVNULL))
        link.close()

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        for each in self._running:
            each.terminate()
            each.wait()


@lived
async def test_a_proxy_is_used_where_the_environment_names_one(data_dir: Path, repository: Repository, server: Server) -> None:
    first = repository.commit({"a": "1"})
    repo = Repo("http://git.invalid/tasks.git", trusted=True)
    async with desk(data_dir, http_proxy=server.url.replace("//", "//me:secret@")) as here:
        assert commit_of(await here.follow(repo)) == first
        assert all(headers.get("Host") == "git.invalid" and headers.get("Proxy-Authorization") == "Basic bWU6c2VjcmV0" for headers in server.seen)
    server.hits.clear()
    async with desk(data_dir / "other", http_proxy=server.url, no_proxy="git.invalid") as here:
        assert reason_of(await here.follow(repo)) == "HostUnreachable" and not server.hits


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
@lived
async def test_certificates_are_checked_and_own_authorities_are_trusted_when_named(data_dir: Path, repository: Repository, server: Server) -> None:
    first = repository.commit({"a": "1"})
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "key", "-out", "cert", "-days", "2", "-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1"],
        cwd=data_dir, check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(data_dir / "cert", data_dir / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    repo = Repo(f"https://127.0.0.1:{server.server_address[1]}/tasks.git", trusted=True)
    async with desk(data_dir) as here:
        state = await here.follow(repo)
        assert (reason_of(state), state.stalled) == ("TlsFailed", False)
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        async with desk(data_dir / name, **{name: str(data_dir / "cert")}) as here:
            assert commit_of(await here.follow(repo)) == first


# ── who we are ──


@lived
async def test_a_token_opens_and_is_seen_by_nobody_else(data_dir: Path, repository: Repository) -> None:
    first = repository.commit({"a": "1"})
    with serving(repository.bare.parent, token=CANARY) as server:
        right, wrong, unset, nobody = (main_of(server, token_env=name) for name in ("RIGHT", "WRONG", "UNSET", ""))
        async with desk(data_dir, RIGHT=CANARY, WRONG=f"not-{CANARY}") as here:
            await here.follow(right, wrong, unset, nobody)
            assert (commit_of(here.state(right)), here.state(right).problem) == (first, None)
            found = [(reason_of(here.state(each)), here.state(each).stalled, commit_of(here.state(each))) for each in (wrong, unset, nobody)]
            assert found == [("AuthFailed", True, ""), ("MissingSecret", True, ""), ("AuthFailed", True, "")], (
                "and nothing is served out of the shared mirror"
            )
            assert "WRONG" in str(here.state(wrong).problem) and "UNSET" in str(here.state(unset).problem)
            fetcher = psutil.Process(here.repositories.children.pid)
            assert CANARY not in str(fetcher.environ()) + str(fetcher.cmdline())
            assert not [file for file in data_dir.rglob("*") if file.is_file() and CANARY.encode() in file.read_bytes()]
            hits = len(server.hits)
            here.repositories.follow("another", {wrong: HOUR})  # somebody new asks: tried again
            await until(lambda: len(server.hits) > hits)


@lived
async def test_a_token_that_is_refused_one_day_is_tried_again_before_it_is_believed(
    data_dir: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repositories_module, "BACKOFF_MAX", 0.02)
    first = repository.commit({"a": "1"})
    with serving(repository.bare.parent, token=CANARY) as server:
        repo = main_of(server, token_env="TOKEN")
        async with desk(data_dir, TOKEN=CANARY) as here:
            await here.follow(repo)
            server.token = "another"
            state = await here.sync(repo)
            assert (commit_of(state), reason_of(state), state.stalled) == (first, "AuthFailed", False)
            await until(lambda: here.state(repo).stalled)
            assert commit_of(here.state(repo)) == first
            server.token = CANARY
            state = await here.sync(repo)
            assert (state.problem, state.stalled) == (None, False), "asked, it is tried again"


# ── bad servers ──


def web_page(handler: Handler) -> bool:
    handler.answer(200, b"<html>THE-REMOTES-WORDS", **{"Content-Type": "text/html"})
    return True


def nonsense(handler: Handler) -> bool:
    handler.answer(200, b"SECRET-METADATA-42\n", **{"Content-Type": "application/x-git-upload-pack-advertisement"})
    return True


def endless_header(handler: Handler) -> bool:
    with suppress(OSError):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not handler.server.over.is_set():
            handler.wfile.write(b"x" * 65536)
    handler.close_connection = True
    return True


def remote_error(handler: Handler) -> bool:
    text = b"ERR THE-REMOTES-WORDS"
    handler.answer(200, b"%04x%s" % (len(text) + 4, text), **{"Content-Type": "application/x-git-upload-pack-advertisement"})
    return True


@pytest.mark.parametrize(
    ("trick", "reason", "stalled"),
    [
        (git_remote.hang, "TimedOut", False),
        (git_remote.drip, "TimedOut", False),
        (git_remote.reset, "HostUnreachable", False),
        (git_remote.truncate, "HostUnreachable", False),
        (git_remote.status(500), "ProtocolError", False),
        (git_remote.status(503), "Busy", False),
        (git_remote.status(404), "RepoNotFound", True),
        (git_remote.status(403), "AuthFailed", True),
        (git_remote.endless_refs, "TooLarge", False),
        (web_page, "ProtocolError", False),
        (nonsense, "ProtocolError", False),
        (endless_header, "ProtocolError", False),
        (remote_error, "ProtocolError", False),
        (git_remote.status(302, Location="/x/info/refs?service=git-upload-pack"), "Redirected", True),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
@lived
async def test_a_server_that_misbehaves_is_a_condition_and_nothing_is_left(
    data_dir: Path, repository: Repository, server: Server, trick: Trick, reason: str, stalled: bool
) -> None:
    first = repository.commit({"a": "1"})
    server.tricks.append(trick)
    limits = SHORT if reason == "TimedOut" else Limits(seconds=20.0, refs=1 << 20)
    async with desk(data_dir, limits) as here:
        state = await here.follow(main_of(server))
        assert (reason_of(state), state.stalled, commit_of(state)) == (reason, stalled, "")
        await until(lambda: not children_of(here))
        server.tricks.clear()
        state = await here.sync(main_of(server))
        assert (commit_of(state), state.problem) == (first, None), "and it heals"


@lived
async def test_a_host_that_is_not_there(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    async with desk(data_dir) as here:
        repos = Repo(f"http://127.0.0.1:{port}/x", trusted=True), Repo("https://nowhere.invalid/x", trusted=True)
        await here.follow(*repos)
        assert {reason_of(here.state(repo)) for repo in repos} == {"HostUnreachable"}


@pytest.mark.parametrize("code", [301, 302, 307, 308])
@lived
async def test_a_redirect_inward_is_not_followed(data_dir: Path, repository: Repository, server: Server, code: int) -> None:
    repository.commit({"a": "1"})
    with serving(repository.bare.parent) as inner:
        inner.tricks.append(nonsense)
        for there in ("", "/tasks.git/info/refs?service=git-upload-pack"):
            server.tricks[:] = [git_remote.status(code, Location=inner.url + there)]
            async with desk(data_dir, TOKEN=CANARY) as here:
                state = await here.follow(main_of(server, token_env="TOKEN"))
                assert (reason_of(state), state.stalled) == ("Redirected", True)
        assert inner.hits == []


@lived
async def test_a_repository_that_has_moved_on_its_host_is_followed_and_remembered(data_dir: Path, repository: Repository, server: Server) -> None:
    first = repository.commit({"a": "1"})

    def moved(handler: Handler) -> bool:
        if not handler.path.startswith("/old/"):
            return False
        handler.answer(301, b"", Location=handler.path.replace("/old/", "/"))
        return True

    server.tricks.append(moved)
    repo = Repo(f"{server.url}/old/tasks.git", trusted=True)
    async with desk(data_dir) as here:
        assert commit_of(await here.follow(repo)) == first
        server.hits.clear()
        second = repository.commit({"a": "2"})
        assert commit_of(await here.sync(repo)) == second
        assert server.hits == ["ls-refs", "fetch"]
        repository.bare.rename(repository.bare.with_name("new.git"))  # where it led is gone: the URL itself is asked
        server.tricks[:] = [
            lambda handler: handler.path.startswith("/old/") and not handler.answer(301, b"", Location=handler.path.replace("/old/tasks", "/new"))
        ]  # type: ignore[func-returns-value]
        state = await here.sync(repo)
        assert (commit_of(state), state.problem) == (second, None)


@lived
async def test_a_url_out_of_a_file_leads_nowhere_inside(data_dir: Path, repository: Repository, server: Server) -> None:
    repository.commit({"a": "1"})
    urls = [
        server.url,
        server.url.replace("127.0.0.1", "localhost"),
        server.url.replace("127.0.0.1", "0x7f.1"),
        server.url.replace("127.0.0.1", "[::ffff:7f00:1]"),
    ]
    async with desk(data_dir) as here:
        repos = [Repo(f"{url}/tasks.git") for url in urls]
        await here.follow(*repos)
        found = {(reason_of(here.state(repo)), here.state(repo).stalled, commit_of(here.state(repo))) for repo in repos}
        assert found == {("BadUrl", True, "")} and server.hits == []


@lived
async def test_a_bad_url_starts_no_process(data_dir: Path) -> None:
    async with desk(data_dir) as here:
        for url in ("ssh://-oProxyCommand=x/y", "ext::sh -c id", "--upload-pack=x", "git@-x:y"):
            state = await here.follow(Repo(url, trusted=True))
            assert (reason_of(state), state.stalled) == ("BadUrl", True)
        assert here.repositories.children.pid is None


@lived
async def test_a_blob_that_inflates_without_end_costs_only_its_child(data_dir: Path, repository: Repository, server: Server) -> None:
    blob = subprocess.run(
        "head -c 400000000 /dev/zero | git -c core.compression=1 hash-object -w --stdin",
        shell=True,
        cwd=repository.bare,
        env=git_remote.ENVIRON,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    tree = git(repository.bare, "mktree", stdin=f"100644 blob {blob}\tbomb\n".encode())
    git(repository.bare, "update-ref", "refs/heads/main", git(repository.bare, "commit-tree", tree, "-m", "bomb"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with desk(data_dir, Limits(memory=200 << 20)) as here:
        state = await here.follow(main_of(server))
        assert (reason_of(state), state.stalled) == ("OutOfMemory", False)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024


@lived
async def test_a_pack_larger_than_a_fetch_may_be(data_dir: Path, repository: Repository, server: Server) -> None:
    repository.commit({"noise": os.urandom(3 << 20)})
    async with desk(data_dir, Limits(fetch=1 << 20)) as here:
        state = await here.follow(main_of(server))
        assert reason_of(state) == "TooLarge"
        assert not [file for file in (data_dir / "mirrors").rglob("*") if file.is_file() and file.stat().st_size > 1 << 20]


# ── kills ──


@lived
async def test_a_killed_child_and_a_killed_fetcher_are_conditions_and_the_next_sync_is_whole(
    data_dir: Path, repository: Repository, server: Server
) -> None:
    first = repository.commit({"a": "1"})
    repo = main_of(server)
    for victim in ("child", "fetcher"):
        server.tricks[:] = [git_remote.hang]
        async with desk(data_dir / victim) as here:
            here.repositories.follow("owner", {repo: HOUR})
            await until(lambda: here.repositories.children.pid and children_of(here))
            fetcher, child = here.repositories.children.pid, children_of(here)[0]
            os.kill(child.pid if victim == "child" else fetcher, signal.SIGKILL)  # type: ignore[arg-type]
            await until(lambda: here.state(repo).rounds)
            assert reason_of(here.state(repo)) == "Killed" and not here.state(repo).stalled
            await until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
            server.tricks.clear()
            state = await here.sync(repo)
            assert (commit_of(state), state.problem) == (first, None)


def test_a_killed_controller_leaves_no_process(data_dir: Path, repository: Repository, server: Server) -> None:
    server.tricks.append(git_remote.hang)
    program = (
        "import asyncio, sys\nfrom dicode.git.repositories import GitRepositories\nfrom dicode.spec.trees import Repo\n"
        "async def main():\n    here = GitRepositories(sys.argv[1], {'PATH': '/bin:/usr/bin', 'DICODE_TEST_MARK': sys.argv[2]}, None, print)\n"
        "    here.follow('x', {Repo(sys.argv[3], trusted=True): 1000})\n    await here.run()\nasyncio.run(main())\n"
    )
    controller = subprocess.Popen([sys.executable, "-c", program, str(data_dir), str(data_dir), f"{server.url}/tasks.git"])
    try:
        ours = wait_for(lambda: len(found := psutil.Process(controller.pid).children(recursive=True)) == 2 and found, "a fetcher and its child")
    finally:
        controller.kill()
        controller.wait()
    assert ours
    wait_for(lambda: not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in ours), "all of them ended")


@lived
async def test_a_session_that_is_left_ends_its_child(data_dir: Path, repository: Repository, server: Server) -> None:
    server.tricks.append(git_remote.hang)
    repo = main_of(server)
    children = Children({"PATH": os.environ["PATH"]})
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1), children.session() as session:
                await session.one("sync", str(data_dir / "m"), SyncArgs([Wanted(repo)]), Synced)
        await until(lambda: not psutil.Process(children.pid).children(), "its child is gone")
        async with children.session() as session:
            with pytest.raises(GitFault) as refused:
                await session.one("no-such-verb", str(data_dir / "m"), None, Synced)
            assert refused.value.reason == "Crashed"
            assert await session.one("known", str(data_dir / "m"), ["refs/x"], dict[str, CommitInfo]) == {}, "the session is as good as before"
    finally:
        await children.close()


@lived
async def test_an_idle_fetcher_costs_nothing(data_dir: Path, repository: Repository, server: Server) -> None:
    repository.commit({"a": "1"})
    async with desk(data_dir) as here:
        await here.follow(main_of(server))
        await until(lambda: not children_of(here))
        fetcher = psutil.Process(here.repositories.children.pid)
        before = fetcher.num_ctx_switches(), fetcher.cpu_times()
        since = time.monotonic()
        await until(lambda: time.monotonic() - since > 1.0)
        assert (fetcher.num_ctx_switches(), fetcher.cpu_times()) == before


# ── the mirror ──


@lived
async def test_an_offline_start_serves_the_last_good(data_dir: Path, repository: Repository, server: Server) -> None:
    first = repository.commit({"a": "1"})
    repo = main_of(server)
    async with desk(data_dir) as here:
        await here.follow(repo)
        before = here.state(repo).commit
    server.tricks.append(git_remote.hang)
    async with desk(data_dir) as here:
        here.repositories.follow("owner", {repo: HOUR})
        await until(lambda: here.state(repo).commit)
        assert here.state(repo).commit == before and commit_of(here.state(repo)) == first
        assert here.state(repo).rounds == 0 and here.woken == ["owner"], "before the network has answered"


@lived
async def test_ten_repositories_of_a_host_that_hangs_are_all_served_at_once(data_dir: Path, repository: Repository, server: Server) -> None:
    first = repository.commit({"a": "1"})
    repos = [Repo(f"{server.url}/copy-{number}.git", trusted=True) for number in range(10)]
    for number in range(10):
        shutil.copytree(repository.bare, repository.bare.parent / f"copy-{number}.git")
    async with desk(data_dir) as here:
        await here.follow(*repos)
    server.tricks.append(git_remote.hang)
    async with desk(data_dir) as here:
        here.repositories.follow("owner", dict.fromkeys(repos, HOUR))
        await until(lambda: all(here.state(repo).commit for repo in repos))
        assert {commit_of(here.state(repo)) for repo in repos} == {first}
        assert not any(here.state(repo).rounds for repo in repos), "before the network has answered"


@lived
async def test_sixty_syncs_leave_no_file_open_and_few_packs(data_dir: Path, repository: Repository, server: Server) -> None:
    repository.commit({f"t{number}/task.yaml": f"name: {number}\n" for number in range(50)})
    repo = main_of(server)
    async with desk(data_dir) as here:
        await here.follow(repo)
        await until(lambda: not children_of(here))
        fetcher = psutil.Process(here.repositories.children.pid)
        before = psutil.Process().num_fds(), fetcher.num_fds()
        for number in range(60):
            pushed = repository.commit({f"t{number % 50}/task.yaml": f"name: x{number}\n"}, amend=number % 7 == 3)
            assert commit_of(await here.sync(repo)) == pushed
        await until(lambda: not children_of(here))
        assert (psutil.Process().num_fds(), fetcher.num_fds()) <= (before[0] + 2, before[1] + 2)
        with mirror.locked(str(here.mirror(repo))):  # small packs may be made one just now
            assert len(list((here.mirror(repo) / "objects/pack").glob("*.pack"))) <= 25
            assert len(list((here.mirror(repo) / "objects/pack").iterdir())) <= 50
            git(here.mirror(repo), "fsck", "--full", "--strict")


def flip(mirror: Path) -> None:
    for pack in packs(mirror):
        content = bytearray(pack.read_bytes())
        for at in range(12, len(content) - 20, 7):
            content[at] ^= 0x10
        pack.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "index cut off": lambda mirror: [os.truncate(each, 500) for each in packs(mirror, ".idx")],
    "index empty": lambda mirror: [os.truncate(each, 0) for each in packs(mirror, ".idx")],
    "index gone": lambda mirror: [each.unlink() for each in packs(mirror, ".idx")],
    "pack cut off": lambda mirror: [os.truncate(each, 40) for each in packs(mirror)],
    "pack empty": lambda mirror: [os.truncate(each, 0) for each in packs(mirror)],
    "pack gone": lambda mirror: [each.unlink() for each in packs(mirror)],
    "bits flipped": flip,
    "refs empty": lambda mirror: [os.truncate(each, 0) for each in (mirror / "refs/dicode").iterdir()],
    "refs nonsense": lambda mirror: [each.write_bytes(b"\xff" * 100) for each in (mirror / "refs/dicode").iterdir()],
    "objects gone": lambda mirror: shutil.rmtree(mirror / "objects"),
    "half a folder": lambda mirror: [shutil.rmtree(mirror), (mirror / "objects").mkdir(parents=True)],
    "all gone": lambda mirror: shutil.rmtree(mirror),
    "stale locks": lambda mirror: [
        (mirror / name).touch(mode=0) for name in ("config.lock", "packed-refs.lock", "HEAD.lock", "objects/pack/tmp_pack_x")
    ],
    "leftovers": lambda mirror: [shutil.copytree(mirror, f"{mirror}.new"), shutil.copytree(mirror, f"{mirror}.old")],
    "what was learned is nonsense": lambda mirror: (mirror / "dicode-remote.json").write_bytes(b'{"version": 2, "path": "/elsewhere"}'),
}
#: Where not even its ref is left nobody knows which commit to bring over that no branch has any more.
NAMELESS = [DAMAGES[name] for name in ("refs empty", "refs nonsense", "half a folder", "all gone")]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize("when", ["running", "restarted"])
@lived
async def test_a_damaged_mirror_is_made_anew(
    data_dir: Path, repository: Repository, server: Server, damage: Callable[[Path], object], when: str
) -> None:
    repository.commit({f"t{number}/task.yaml": f"name: {number}\n" * 20 for number in range(30)})
    repo, other = main_of(server), main_of(server, ref="other")
    aside = repository.commit({"x": "1"}, branch="other")
    git(repository.work, "checkout", "-q", "-B", "main", "HEAD~1")  # it is in the history of no other
    async with desk(data_dir) as here:
        await here.follow(repo, other)
        if when == "running":
            damage(here.mirror(repo))
            repository.delete("refs/heads/other")  # it must not vanish with the mirror, if the remote still gives it away
            git(repository.bare, "update-ref", "refs/keep/other", aside)
            pushed = repository.commit({"t1/task.yaml": "name: new\n"})
            assert commit_of(await here.sync(repo)) == pushed
            assert commit_of(here.state(other)) == aside and reason_of(here.state(other)) == "RefNotFound"
    if when == "restarted":
        damage(here.mirror(repo))
        pushed = repository.commit({"t1/task.yaml": "name: new\n"})
        async with desk(data_dir) as here:
            await here.follow(repo, other)
            assert (commit_of(here.state(repo)), commit_of(here.state(other))) == (pushed, aside)
    git(here.mirror(repo), "fsck", "--full", "--strict")
    assert git(here.mirror(repo), "rev-parse", own_ref(repo)) == pushed
    if damage not in NAMELESS:
        assert git(here.mirror(repo), "rev-parse", f"{own_ref(other)}^{{commit}}") == aside


@lived
async def test_damage_that_a_reader_finds_is_healed_by_itself(data_dir: Path, repository: Repository, server: Server) -> None:
    repository.commit({f"t{number}/task.yaml": f"name: {number}\n" * 20 for number in range(30)})
    repo = main_of(server)
    async with desk(data_dir) as here:
        state = await here.follow(repo)
        assert state.commit is not None
        flip(here.mirror(repo))
        tree = here.repositories.tree(repo, state.commit, "tasks")
        with pytest.raises(GitFault) as refused:
            await tree.look(["t1"])
        assert refused.value.reason == "CacheCorrupt"
        await until(lambda: here.state(repo).rounds > 1)
        assert (await tree.look(["t1"]))["t1"].path == "t1"  # type: ignore[union-attr]
        git(here.mirror(repo), "fsck", "--full", "--strict")


@lived
async def test_a_damaged_mirror_stays_while_the_remote_is_away(data_dir: Path, repository: Repository, server: Server) -> None:
    first = repository.commit({"a": "1"})
    repo = main_of(server)
    async with desk(data_dir) as here:
        await here.follow(repo)
        (here.mirror(repo) / "dicode-damaged").touch()
        server.tricks.append(git_remote.status(500))
        state = await here.sync(repo)
        assert (commit_of(state), reason_of(state)) == (first, "ProtocolError") and packs(here.mirror(repo))
        server.tricks.clear()
        await here.sync(repo)
        assert not (here.mirror(repo) / "dicode-damaged").exists()


@lived
async def test_a_mirror_that_grew_too_large_is_cloned_again(data_dir: Path, repository: Repository, server: Server) -> None:
    repository.commit({"noise": os.urandom(400_000)})
    repo = main_of(server)
    async with desk(data_dir, Limits(mirror=600_000)) as here:
        await here.follow(repo)
        for _ in range(4):
            pushed = repository.commit({"noise": os.urandom(400_000)}, amend=True)
            assert commit_of(await here.sync(repo)) == pushed
        assert sum(pack.stat().st_size for pack in packs(here.mirror(repo))) < 1_300_000
        git(here.mirror(repo), "fsck", "--full")
