"""Remotes as values: URLs, addresses, refs, versions, and what failures are called."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicode.git import remote
from dicode.git.channel import Secret, ssh_command
from dicode.git.frames import EX_MEMORY, Ended, GitFault, Limits, ended_badly
from dicode.git.remote import Advertised, Range, Remote, Version, allowed, check_ref, check_secret, choose, is_inner, own_ref, parse, redirected
from dicode.spec.trees import Repo

# ── URLs ──


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("https://github.com/acme/tasks", "https://github.com/acme/tasks"),
        ("HTTPS://GitHub.com:443/acme/tasks/", "https://github.com/acme/tasks"),
        ("https://github.com./acme/tasks", "https://github.com/acme/tasks"),
        ("https://me@bitbucket.org/acme/tasks.git", "https://me@bitbucket.org/acme/tasks.git"),
        ("http://host:8080/a b".replace(" ", "%20"), "http://host:8080/a%20b"),
        ("https://host/ärger", "https://host/%C3%A4rger"),
        ("ssh://git@host:22/acme/tasks", "ssh://git@host/acme/tasks"),
        ("ssh://host:2222/~bob/x", "ssh://host:2222/~/~bob/x"),
        ("git@github.com:acme/tasks.git", "ssh://git@github.com/~/acme/tasks.git"),
        ("https://[2001:db8::1]:8443/x", "https://[2001:db8::1]:8443/x"),
        ("/srv/git/tasks.git/", "file:///srv/git/tasks.git"),
        ("file:///srv/git/tasks.git", "file:///srv/git/tasks.git"),
        ("git://host/x", "git://host/x"),
    ],
)
def test_spellings_of_one_place_are_one_remote(url: str, canonical: str) -> None:
    assert parse(url, trusted=True).url == canonical


INJECTIONS = [
    "-oProxyCommand=touch /tmp/pwned",
    "-oProxyCommand=x",
    "ssh://-oProxyCommand=x/path",
    "ssh://-oProxyCommand=x@host/path",
    "ssh://user@-oProxyCommand=x/path",
    "-x@host:path",
    "user@-oProxyCommand=x:path",
    "git@-x:y",
    "git@host:-oProxyCommand=x",
    "git@host:--upload-pack=x",
    "ext::sh -c touch% /tmp/pwned",
    "ext::sh",
    "fd::7",
    "git@ext::sh",
    "file://host/etc",
    "--upload-pack=touch /tmp/pwned",
    "https://host/path --upload-pack=x",
    "ssh://user\n@host/path",
    "https://host\r\nX: y/path",
    "https://user%0a@host/path",
    "ssh://host$(id)/path",
    "ssh://`id`@host/path",
    "git@host;id:path",
    "../../etc",
    "etc/passwd",
    "https://host/../../etc",
    "https:///path",
    "https://host",
    "https://host:99999/x",
    "https://host\\@evil/x",
    "http+unix://x/y",
    "ssh://[::1/x",
    "rsync://host/x",
    "",
    "a" * 3000,
    "https://host/x?service=git-upload-pack",
    "https://host/x#main",
]


@pytest.mark.parametrize("url", INJECTIONS)
@pytest.mark.parametrize("trusted", [True, False])
def test_no_url_is_taken_for_an_option_a_program_or_a_place_of_its_own(url: str, trusted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_: pytest.fail("a process was started"))
    with pytest.raises(GitFault) as refused:
        parse(url, trusted=trusted)
    assert refused.value.reason == "BadUrl" and refused.value.permanent
    assert len(url) < 13 or url not in str(refused.value)


@pytest.mark.parametrize("url", ["/srv/x.git", "file:///srv/x.git", "git://host/x"])
def test_what_only_a_person_may_write_a_file_of_a_source_may_not(url: str) -> None:
    parse(url, trusted=True)
    with pytest.raises(GitFault, match=r"dicode\.yaml"):
        parse(url, trusted=False)


@pytest.mark.parametrize(
    "url",
    [
        "https://me:CANARY@host/x",
        "https://:CANARY@host/x",
        "ssh://me:CANARY@host/x",
        "https://ghp_CANARYaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa@host/x",
        "https://CANARY%40@host/x",
    ],
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(GitFault, match="auth") as refused:
        parse(url, trusted=True)
    assert "CANARY" not in str(refused.value)


@given(st.text(max_size=80), st.booleans())
def test_any_text_is_a_remote_or_a_fault(text: str, trusted: bool) -> None:
    try:
        found = parse(text, trusted=trusted)
    except GitFault as fault:
        assert fault.permanent
    else:
        assert parse(found.url, trusted=trusted).url == found.url or found.scheme == "ssh" and "~" in found.path
        assert found.host == "" or found.host[0].isalnum() or found.host[0] == "["
        assert not found.path.startswith("-") and not found.user.startswith("-")


def test_each_place_has_a_folder_and_each_repo_a_ref_of_its_own() -> None:
    assert parse("https://a/x", trusted=True).folder == parse("https://A/x/", trusted=False).folder != parse("https://a/y", trusted=True).folder
    one, other = Repo("https://a/x", ref="main"), Repo("https://a/x", ref="dev")
    assert own_ref(one) != own_ref(other) and own_ref(one).startswith("refs/dicode/")


def test_a_token_goes_over_http_only_where_a_person_wrote_it() -> None:
    def check(url: str, **fields: object) -> None:
        repo = Repo(url, **fields)  # type: ignore[arg-type]
        check_secret(parse(url, trusted=repo.trusted), repo)

    check("http://host/x", token_env="T", trusted=True)
    check("https://host/x", token_env="T")
    check("http://host/x")
    for url, fields in [("http://host/x", {"token_env": "T"}), ("ssh://host/x", {"token_env": "T"}), ("https://host/x", {"ssh_key": "/k"})]:
        with pytest.raises(GitFault):
            check(url, **fields)


# ── redirects ──

TAIL = "/info/refs?service=git-upload-pack"


@pytest.mark.parametrize(
    ("start", "location", "path"),
    [
        ("http://host/a", "/b" + TAIL, "http://host/b"),
        ("http://host/a", "https://host/b" + TAIL, "https://host/b"),
        ("https://host:8443/a", "https://HOST:8443/a.git" + TAIL, "https://host:8443/a.git"),
        ("https://me@host/a", "https://host/b" + TAIL, "https://me@host/b"),
    ],
)
def test_a_redirect_within_the_host_is_followed(start: str, location: str, path: str) -> None:
    assert redirected(parse(start, trusted=True), TAIL, location).url == path


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:9/a" + TAIL,
        "http://169.254.169.254/latest/meta-data",
        "https://other/a" + TAIL,
        "http://host/a" + TAIL,  # from https down
        "https://host:444/a" + TAIL,
        "//other/a" + TAIL,
        "https://host@other/a" + TAIL,
        "/login",
        "",
        "file:///etc" + TAIL,
        "https://host.other/a" + TAIL,
    ],
)
def test_a_redirect_elsewhere_is_not_and_is_not_repeated(location: str) -> None:
    with pytest.raises(GitFault) as refused:
        redirected(parse("https://host/a", trusted=True), TAIL, location)
    assert refused.value.reason == "Redirected" and "169" not in str(refused.value)


# ── addresses ──


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1", "100.100.100.200",
        "168.63.129.16", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:0a00:0001::1", "2001::1", "nonsense", "",
    ],
)  # fmt: skip
def test_inner_addresses_are_known_in_all_their_clothes(address: str) -> None:
    assert is_inner(address)
    with pytest.raises(GitFault):
        allowed(["93.184.216.34", address], trusted=False)
    assert allowed([address], trusted=True) == [address]


@pytest.mark.parametrize("address", ["93.184.216.34", "172.32.0.1", "11.0.0.1", "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"])
def test_the_rest_of_the_world_is_free(address: str) -> None:
    assert allowed([address], trusted=False) == [address]


# ── refs ──

A, B, C = "a" * 40, "b" * 40, "c" * 40
REFS = {"refs/heads/main": Advertised(A), "refs/heads/main2": Advertised(B), "refs/tags/v1": Advertised(B, C), "refs/tags/light": Advertised(A)}


def test_branches_and_tags_are_found_and_tags_are_peeled() -> None:
    assert choose(Repo("", "branch", "main"), REFS) == ("refs/heads/main", A, A)
    assert choose(Repo("", "tag", "v1"), REFS) == ("refs/tags/v1", B, C)
    assert choose(Repo("", "tag", "light"), REFS).commit == A
    assert choose(Repo("", "commit", C), REFS) == ("", C, C)


@pytest.mark.parametrize(("kind", "ref"), [("branch", "mai"), ("tag", "main"), ("branch", "v1"), ("semver", "^9")])
def test_a_ref_that_is_not_there_is_said_so(kind: str, ref: str) -> None:
    with pytest.raises(GitFault) as refused:
        choose(Repo("", kind, ref), REFS)  # type: ignore[arg-type]
    assert refused.value.reason == "RefNotFound" and not refused.value.permanent


@pytest.mark.parametrize(
    "ref", ["", "-x", "a b", "a..b", "a\n", "a~1", "a^", "a:b", "/a", "a/", "a.lock", "a//b", "a/.b", ".a", "@{", "x" * 300, "a\x7f", "a*"]
)
def test_names_that_git_does_not_know_are_never_asked_for(ref: str) -> None:
    with pytest.raises(GitFault) as refused:
        check_ref(Repo("", "branch", ref))
    assert refused.value.permanent


@pytest.mark.parametrize("ref", ["main", "feature/x", "a.b", "ä", "v1.0", "x-y", "release/1.x"])
def test_names_that_git_knows_are(ref: str) -> None:
    check_ref(Repo("", "branch", ref))
    check_ref(Repo("", "tag", ref))


@pytest.mark.parametrize("ref", ["abc1234", "A" * 40, "", "g" * 40])
def test_a_commit_is_written_out(ref: str) -> None:
    with pytest.raises(GitFault, match="40"):
        check_ref(Repo("", "commit", ref))


# ── versions ──


@pytest.mark.parametrize(
    ("range", "inside", "outside"),
    [
        ("^1.2", ["1.2.0", "1.9.9", "v1.3.0"], ["1.1.9", "2.0.0", "2.0.0-rc.1", "1.3.0-beta", "0.9.0"]),
        ("^0.2.3", ["0.2.3", "0.2.9"], ["0.3.0", "0.2.2", "1.0.0"]),
        ("^0.0.3", ["0.0.3"], ["0.0.4", "0.0.2"]),
        ("^0", ["0.0.0", "0.9.9"], ["1.0.0"]),
        ("^0.0", ["0.0.0", "0.0.9"], ["0.1.0"]),
        ("~1.4", ["1.4.0", "1.4.9"], ["1.5.0", "1.3.9"]),
        ("~1.4.2", ["1.4.2", "1.4.9"], ["1.4.1", "1.5.0"]),
        ("~1", ["1.0.0", "1.9.0"], ["2.0.0"]),
        (">=1 <2", ["1.0.0", "1.99.0"], ["2.0.0", "0.9.9", "2.0.0-rc.1"]),
        (">= 1.2, < 1.4", ["1.2.0", "1.3.9"], ["1.4.0"]),
        (">1.2", ["1.3.0"], ["1.2.0", "1.2.9"]),
        (">1.2.3", ["1.2.4"], ["1.2.3"]),
        ("<=1.2", ["1.2.9", "0.1.0"], ["1.3.0"]),
        ("<=1.2.3", ["1.2.3"], ["1.2.4"]),
        ("1.x", ["1.0.0", "1.9.9"], ["2.0.0", "0.9.9"]),
        ("1.2.x", ["1.2.0"], ["1.3.0"]),
        ("1", ["1.5.0"], ["2.0.0"]),
        ("*", ["0.0.1", "9.9.9"], ["1.0.0-rc.1"]),
        ("1.2.3", ["1.2.3", "v1.2.3", "1.2.3+build"], ["1.2.4", "1.2.3-rc.1"]),
        ("v1.2.3", ["1.2.3"], ["1.2.2"]),
        ("1.2.3-rc.1", ["1.2.3-rc.1"], ["1.2.3", "1.2.3-rc.2"]),
        (">=1.2.3-rc.1 <2", ["1.2.3-rc.1", "1.2.3-rc.2", "1.2.3", "1.9.0"], ["1.2.3-beta", "1.3.0-rc.1", "2.0.0-rc.1"]),
        ("^1.2 || ^3", ["1.2.0", "3.4.0"], ["2.0.0"]),
    ],
)
def test_ranges_hold_what_they_say(range: str, inside: list[str], outside: list[str]) -> None:
    wanted = Range.parse(range)
    for text in inside:
        version = Version.parse(text)
        assert version is not None and wanted.holds(version), f"{text} is within {range}"
    for text in outside:
        version = Version.parse(text)
        assert version is not None and not wanted.holds(version), f"{text} is not within {range}"


@pytest.mark.parametrize("range", ["", "  ", "latest", "^", ">=", "1.2.3.4", "^1.2 foo", "1.2.3 ||", "^1..2", "01.2.3", "1.2.-3", "x" * 300])
def test_what_is_no_range_is_said_so(range: str) -> None:
    with pytest.raises(GitFault) as refused:
        Range.parse(range)
    assert refused.value.permanent


def test_versions_sort_as_semver_says() -> None:
    written = [
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-alpha.beta",
        "1.0.0-beta",
        "1.0.0-beta.2",
        "1.0.0-beta.11",
        "1.0.0-rc.1",
        "1.0.0",
        "1.0.1",
        "1.1.0",
        "2.0.0",
    ]
    versions = [version for text in written if (version := Version.parse(text))]
    assert len(versions) == len(written)
    versions.reverse()
    assert sorted(versions, key=lambda version: version.order) == versions[::-1]


def test_the_newest_tag_within_is_chosen_and_what_is_no_version_is_passed_over() -> None:
    names = ["v1.2.0", "v1.10.0", "v1.9.0", "1.10.0-rc.1", "v2.0.0", "latest", "v1.11", "release-1.12.0"]
    refs = {f"refs/tags/{name}": Advertised(f"{number:040x}", C if name == "v1.10.0" else "") for number, name in enumerate(names)}
    assert choose(Repo("", "semver", "^1.2"), refs) == ("refs/tags/v1.10.0", f"{1:040x}", C)


@given(st.tuples(*[st.integers(0, 12)] * 3), st.tuples(*[st.integers(0, 12)] * 3))
def test_a_caret_is_its_two_comparisons(base: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    major, minor, patch = base
    above = f"<{major + 1}" if major else f"<0.{minor + 1}" if minor else f"<0.0.{patch + 1}"
    caret, pair = Range.parse(f"^{major}.{minor}.{patch}"), Range.parse(f">={major}.{minor}.{patch} {above}")
    assert caret.holds(Version(*other)) == pair.holds(Version(*other))


# ── failures ──


def test_what_a_remote_says_is_never_repeated() -> None:
    canary = b"SECRET-METADATA-42 not found permission denied not our ref"
    told = [
        remote.refused(canary),
        remote.ssh_failed(canary, 255),
        remote.refused(b"SECRET-METADATA-42"),
        remote.ssh_failed(b"SECRET-METADATA-42", 1),
    ]
    assert not any("SECRET" in str(fault) for fault in told)


@pytest.mark.parametrize(
    ("status", "token", "reason", "permanent"),
    [
        (401, "", "AuthFailed", True),
        (403, "T", "AuthFailed", True),
        (404, "", "RepoNotFound", True),
        (500, "", "ProtocolError", False),
        (429, "", "Busy", False),
        (407, "", "AuthFailed", True),
    ],
)
def test_http_answers_have_names(status: int, token: str, reason: str, permanent: bool) -> None:
    fault = remote.http_refused(status, token)
    assert (fault.reason, fault.permanent) == (reason, permanent)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"Host key verification failed.", "AuthFailed"),
        (b"git@github.com: Permission denied (publickey).", "AuthFailed"),
        (b"ssh: Could not resolve hostname nowhere", "HostUnreachable"),
        (b"ssh: connect to host x port 22: Connection refused", "HostUnreachable"),
        (b"fatal: '/x' does not appear to be a git repository", "RepoNotFound"),
        (b"ERROR: Repository not found.", "RepoNotFound"),
        (b"anything else", "HostUnreachable"),
    ],
)
def test_what_ssh_says_is_understood(said: bytes, reason: str) -> None:
    assert remote.ssh_failed(said, 255).reason == reason


@pytest.mark.parametrize(
    ("ended", "reason"),
    [
        (None, "Killed"),
        (Ended(1, -9, late=True), "TimedOut"),
        (Ended(1, -24), "TimedOut"),
        (Ended(1, -25), "TooLarge"),
        (Ended(1, EX_MEMORY), "OutOfMemory"),
        (Ended(1, -9), "Killed"),
        (Ended(1, 0), "Killed"),
    ],
)
def test_a_child_that_ended_early_is_explained(ended: Ended | None, reason: str) -> None:
    fault = ended_badly(ended, Limits())
    assert fault.reason == reason and not fault.permanent


# ── ssh ──


def test_ssh_is_started_with_nothing_left_to_chance() -> None:
    there = parse("ssh://git@host:2222/it's mine".replace(" ", "%20"), trusted=True)
    argv = ssh_command("/usr/bin/ssh", there, Secret(ssh_key="/keys/my key", known_hosts="/k/%h"), "host", trusted=True)
    assert argv[-3:] == ["--", "host", "git-upload-pack '/it'\"'\"'s mine'"]
    options = dict(argv[at + 1].split("=", 1) for at, word in enumerate(argv) if word == "-o")
    assert options["BatchMode"] == options["StrictHostKeyChecking"] == options["IdentitiesOnly"] == "yes"
    assert options["ProxyCommand"] == options["IdentityAgent"] == "none"
    assert options["IdentityFile"] == '"/keys/my key"' and options["UserKnownHostsFile"] == '"/k/%%h"'
    assert options["HostKeyAlias"] == "[host]:2222" and argv[argv.index("-F") + 1] == "none"


def test_a_url_of_a_stranger_does_not_get_the_operators_keys_and_goes_to_the_address_that_was_checked() -> None:
    argv = ssh_command("ssh", Remote("ssh", "host", 0, "git", "x"), Secret(), "93.184.216.34", trusted=False)
    options = dict(argv[at + 1].split("=", 1) for at, word in enumerate(argv) if word == "-o")
    assert (
        options["IdentityFile"] == options["IdentityAgent"] == "none" and options["HostName"] == "93.184.216.34" and options["HostKeyAlias"] == "host"
    )
