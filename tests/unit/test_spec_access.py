"""Which secret goes where: by the longest match, never to another host, and never one that a ref may not use."""

from __future__ import annotations

import pytest

from dicode.messages.kinds import ConfigSource, Credential
from dicode.spec.access import Rules, matching, place_of_repo, repo_of_ref, repo_of_source, rules_of
from dicode.spec.taskset import Ref
from dicode.spec.trees import Repo


def chosen(url: str, *matches: str) -> str:
    found = matching([Credential(match=match, token_env=match) for match in matches], url)
    return found.match if found is not None else ""


def test_the_longest_match_wins_and_of_equals_the_first() -> None:
    assert chosen("https://h/acme/x", "https://h/", "https://h/acme/", "https://h/acme") == "https://h/acme/"
    first, second = Credential(match="https://h/", token_env="A"), Credential(match="https://h/", token_env="B")
    assert matching([first, second], "https://h/x") is first


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("https://h/acme/x", "https://h/acme"),
        ("https://h/acme.git", "https://h/acme"),
        ("https://H/acme", "HTTPS://h/acme"),
        ("git@h:acme/x", "git@h"),
        ("git@h:acme/x", "git@h:acme/"),
        ("https://h", "https://h"),
    ],
)
def test_a_match_ends_where_a_part_of_the_url_ends(url: str, match: str) -> None:
    assert chosen(url, match) == match


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("https://h/acme-evil/x", "https://h/acme"),
        ("https://h.evil/x", "https://h"),
        ("https://h@evil/x", "https://h"),
        ("https://h:pw@evil/x", "https://h"),
        ("https://h:8443/x", "https://h"),
        ("https://h/acme/../evil", "https://h/acme/"),
        ("http://h/acme", "https://h/acme"),
        ("https://h/ACME/x", "https://h/acme/"),
        ("https://h/x", ""),
        ("git@h.evil:acme/x", "git@h"),
    ],
)
def test_a_secret_never_goes_where_its_match_does_not_lead(url: str, match: str) -> None:
    assert chosen(url, match) == ""


def ref(url: str, **more: str) -> Ref:
    return Ref("a", url, **more)  # type: ignore[arg-type]


def test_a_ref_may_only_use_a_variable_that_is_allowed() -> None:
    rules = Rules(("GOOD",), (Credential(match="https://h/", token_env="OTHER"),))
    allowed, refused = repo_of_ref(ref("https://h/x", token_env="GOOD"), rules), repo_of_ref(ref("https://h/x", token_env="BAD"), rules)
    assert isinstance(allowed, Repo)
    assert allowed.token_env == "GOOD"
    assert isinstance(refused, str)
    assert "BAD" in refused
    assert "allowed_token_envs" in refused


def test_a_ref_without_a_secret_gets_that_of_its_credential() -> None:
    rules = Rules((), (Credential(match="ssh://git@h/", ssh_key="/k", known_hosts="/h"),))
    assert repo_of_ref(ref("ssh://git@h/x", branch="dev"), rules) == Repo("ssh://git@h/x", "branch", "dev", "", "/k", "/h", trusted=True)
    assert repo_of_ref(ref("https://elsewhere/x"), rules) == Repo("https://elsewhere/x")


@pytest.mark.parametrize(
    ("source", "url", "trusted"),
    [
        ("https://h/a", "https://h/b", True),
        ("https://h:1/a", "https://h/b", False),
        ("https://h/a", "https://h.evil/b", False),
        ("https://h/a", "http://h/b", False),
        ("https://h/a", "http://169.254.169.254/b", False),
        ("git@h:a", "git@h:b", True),
        ("git@h:a", "git@h.evil:b", False),
        ("https://h/a", "file:///srv/b", False),
        ("file:///srv/a", "file:///srv/b", True),
        ("file:///srv/a", "file:///srv/inner/b", True),
        ("file:///srv/a", "file:///etc/b", False),
        ("file:///srv/a", "https://h/b", False),
    ],
)
def test_a_ref_is_obeyed_only_on_the_host_that_a_person_named(source: str, url: str, trusted: bool) -> None:
    rules = rules_of(ConfigSource(name="s", type="git", url=source), ())
    found = repo_of_ref(ref(url), rules)
    assert isinstance(found, Repo)
    assert found.trusted is trusted
    in_a_stranger = repo_of_ref(ref(url), rules, own=False)
    assert isinstance(in_a_stranger, Repo)
    assert not in_a_stranger.trusted


def test_who_writes_a_folder_of_this_machine_may_name_any_repository() -> None:
    rules = rules_of(ConfigSource(name="s", path="/srv/tasks"), ())
    found, in_a_stranger = (repo_of_ref(ref("file:///srv/b"), rules, own=own) for own in (True, False))
    assert isinstance(found, Repo)
    assert isinstance(in_a_stranger, Repo)
    assert (found.trusted, in_a_stranger.trusted) == (True, False)


@pytest.mark.parametrize(
    ("written", "kind", "at"),
    [({"tag": "v1"}, "tag", "v1"), ({"semver": "1.x"}, "semver", "1.x"), ({"commit": "a" * 40}, "commit", "a" * 40), (None, "branch", "dev")],
)
def test_a_source_is_obeyed_and_may_be_at_any_kind_of_ref(written: dict[str, str] | None, kind: str, at: str) -> None:
    found = repo_of_source(ConfigSource(name="s", type="git", url="https://h/x", branch="dev", ref=written), ())
    assert (found.ref_kind, found.ref, found.trusted) == (kind, at, True)


def test_the_auth_of_a_source_goes_before_credentials() -> None:
    credentials = [Credential(match="https://h/", token_env="OTHER")]
    own = ConfigSource(name="s", type="git", url="https://h/x", auth={"token_env": "OWN"})
    assert repo_of_source(own, credentials).token_env == "OWN"
    assert repo_of_source(ConfigSource(name="s", type="git", url="https://h/x"), credentials).token_env == "OTHER"


# ── one repository in many spellings ──


@pytest.mark.parametrize(
    "url",
    ["https://h/acme/x.git", "https://h/acme/x/", "HTTPS://H/acme/x.git/", "https://h:443/acme/x", "https://h./acme/x", "http://h/acme/x"]
    + ["https://me@h/acme/x", "ssh://git@h/acme/x.git", "ssh://git@h:22/acme/x", "git@h:acme/x.git", "git@H:/acme/x"],
)
def test_a_repository_is_one_place_however_it_is_spelled_and_reached(url: str) -> None:
    assert place_of_repo(Repo(url, token_env="T", trusted=True)) == place_of_repo(Repo("https://h/acme/x"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Repo("https://h/acme/x"), Repo("https://h/acme/y")),
        (Repo("https://h/acme/x"), Repo("https://h/Acme/x")),
        (Repo("https://h/acme/x"), Repo("https://h.evil/acme/x")),
        (Repo("http://127.0.0.1:1/x"), Repo("http://127.0.0.1:2/x")),
        (Repo("https://h:8443/x"), Repo("https://h/x")),
        (Repo("/srv/x"), Repo("/srv/x.git")),
        (Repo("https://srv/x"), Repo("/srv/x")),
        (Repo("https://h/x"), Repo("https://h/x", ref="dev")),
        (Repo("https://h/x", "branch", "v1"), Repo("https://h/x", "tag", "v1")),
    ],
)
def test_what_may_be_another_repository_or_another_state_of_it_is_another_place(one: Repo, other: Repo) -> None:
    assert place_of_repo(one) != place_of_repo(other)


def test_a_source_knows_which_repository_it_is_also_as_a_working_copy() -> None:
    own = ConfigSource(name="s", type="git", url="https://h/x.git", branch="dev")
    assert rules_of(own, ()).home == place_of_repo(Repo("git@h:x", "branch", "dev"))
    assert rules_of(ConfigSource(name="s", type="local", path="/copy", url="https://h/x.git", branch="dev"), ()).home == rules_of(own, ()).home
    assert rules_of(ConfigSource(name="s", path="/srv/tasks"), ()).home == ""
