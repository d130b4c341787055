"""dicode.yaml: every key of the contract, every mistake with its place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicode.messages.kinds import Config, ConfigSource, Credential, Relay
from dicode.spec.config import BadConfig, ParsedConfig, data_dir_of, default_name, parse_config


def parse(text: str | bytes) -> ParsedConfig:
    return parse_config(text.encode() if isinstance(text, str) else text, "dicode.yaml", base_dir="/etc/dicode", home="/home/me")


def config_of(text: str) -> Config:
    parsed = parse(text)
    assert parsed.faults == ()
    assert parsed.config is not None
    return parsed.config


def fault_in(text: str) -> str:
    parsed = parse(text)
    assert parsed.config is None
    assert len(parsed.faults) == 1, parsed.faults
    return f"{parsed.faults[0].line}:{parsed.faults[0].column}: {parsed.faults[0].message}"


WHOLE = """\
data_dir: ~/.local/share/dicode
store: sqlite
sources:
  - name: tasks
    type: local
    path: ./tasks
    settle: 20ms
    rescan: 5s
  - name: infra
    type: git
    url: https://github.com/acme/tasks
    branch: main
    path: taskset.yaml
    poll_interval: 1m
    auth: {token_env: GITHUB_TOKEN}
    allowed_token_envs: [OTHER_TOKEN]
    webhook_secret_env: GITHUB_WEBHOOK_SECRET
  - url: git@host:acme/more.git
    ref: {semver: ">=1.2"}
    auth: {ssh_key: ~/.ssh/id, known_hosts: hosts}
relay: {url: "https://relay.example.org", name: home, token_env: DICODE_RELAY_TOKEN}
credentials: [{match: "https://github.com/acme/", token_env: CRED_TOKEN}]
defaults: {timeout: 30s, on_failure_chain: alert}
hooks: {listen: "127.0.0.1:0"}
admin: {listen: "[::1]:8081"}
execution: {max_concurrent_runs: 4}
retention: {runs: 7d, runs_per_task: 10, bundles: 5}
"""


def test_a_whole_config_with_paths_made_absolute() -> None:
    assert config_of(WHOLE) == Config(
        file="dicode.yaml",
        sources=(
            ConfigSource(name="tasks", path="/etc/dicode/tasks", settle=20, rescan=5000),
            ConfigSource(
                name="infra",
                type="git",
                url="https://github.com/acme/tasks",
                branch="main",
                path="taskset.yaml",
                poll_interval=60_000,
                auth={"token_env": "GITHUB_TOKEN"},
                allowed_token_envs=("OTHER_TOKEN",),
                webhook_secret_env="GITHUB_WEBHOOK_SECRET",
            ),
            ConfigSource(
                name="more",
                type="git",
                url="git@host:acme/more.git",
                ref={"semver": ">=1.2"},
                auth={"ssh_key": "/home/me/.ssh/id", "known_hosts": "/etc/dicode/hosts"},
            ),
        ),
        hooks_listen="127.0.0.1:0",
        admin_listen="[::1]:8081",
        max_concurrent_runs=4,
        retention_runs=604_800_000,
        retention_runs_per_task=10,
        retention_bundles=5,
        default_timeout=30_000,
        default_on_failure_chain="alert",
        withheld_env=("CRED_TOKEN", "DICODE_RELAY_TOKEN", "GITHUB_TOKEN", "GITHUB_WEBHOOK_SECRET", "OTHER_TOKEN"),
        credentials=(Credential(match="https://github.com/acme/", token_env="CRED_TOKEN"),),
        relay=Relay(url="https://relay.example.org", name="home", token_env="DICODE_RELAY_TOKEN"),
    )


def test_what_is_accepted_without_effect_is_named() -> None:
    assert parse(WHOLE).not_built == ("defaults.on_failure_chain",)
    assert parse("defaults: {timeout: 5s, on_failure_chain: ''}\n").not_built == ()
    assert "store: postgresql" in parse("store: postgresql://u@h/db\n").not_built
    assert parse("store: sqlite\n").not_built == ()


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "sources: []\n", "sources:\n", "{}\n"])
def test_a_config_that_says_nothing_is_the_default(text: str) -> None:
    assert config_of(text) == Config(file="dicode.yaml")


@pytest.mark.parametrize(
    ("place", "name"),
    [("/a/tasks", "tasks"), ("/a/tasks/", "tasks"), ("https://h/acme/infra.git", "infra"), ("git@h:infra.git", "infra"), ("git@h:a/b", "b")],
)
def test_a_source_is_called_like_the_last_part_of_its_place(place: str, name: str) -> None:
    assert default_name(place) == name


def test_the_folder_of_the_config_may_be_a_source() -> None:
    assert config_of("sources: [{path: .}]\n").sources == (ConfigSource(name="dicode", path="/etc/dicode"),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("source: []\n", "1:1: unknown field 'source', did you mean 'sources'?"),
        ("sources: [{path: a, setle: 1s}]\n", "1:21: unknown field 'setle', did you mean 'settle'?"),
        ("sources: [{name: a}]\n", "1:11: 'path' is missing"),
        ("sources: [{url: 'https://me:hunter2@h/x'}]\n", "1:12: 'url' holds a password, a token or a query: remove it"),
        (f"sources: [{{url: 'https://{'x' * 40}@h/x'}}]\n", "1:12: 'url' holds a password, a token or a query: remove it"),
        ("sources: [{url: 'https://h/x?token=hunter2'}]\n", "1:12: 'url' holds a password, a token or a query: remove it"),
        ("sources: [{type: git, name: a}]\n", "1:11: 'url' is missing"),
        ("sources: [{path: a, type: local, url: 'https://h/x'}]\n", "1:34: 'url' has no meaning in a local source"),
        ("sources: [{path: x/a}, {path: y/a}]\n", "1:24: duplicate source name 'a', first in line 1"),
        ("sources:\n  - {name: a, path: x}\n  - {name: a, path: y}\n", "3:6: duplicate source name 'a', first in line 2"),
        ("sources: [{path: /}]\n", "1:11: '' cannot name a source"),
        ("sources: [{path: a, name: 'a b'}]\n", "1:21: 'a b' cannot name a source"),
        ("sources: [{url: '-oProxyCommand=x'}]\n", "1:12: 'url' must be like https://"),
        ("sources: [{url: 'ext::sh -c x'}]\n", "1:12: 'url' must be like https://"),
        ("sources: [{url: 'git@-x:y'}]\n", "1:12: 'url' must be like https://"),
        ("sources: [{url: 'https://h/x', ref: {tag: a, branch: b}}]\n", "1:32: 'ref' must say exactly one"),
        ("sources: [{url: 'https://h/x', auth: {}}]\n", "1:32: exactly one of token_env and ssh_key"),
        ("sources: [{url: 'https://h/x', auth: {token_env: ghp_x=}}]\n", "1:39: 'token_env' must be the name of an environment variable"),
        ("hooks: {listen: 8080}\n", "1:9: 'listen' must be host:port"),
        ("hooks: {listen: '127.0.0.1:65536'}\n", "1:9: 'listen' must be host:port"),
        ("hooks: {}\n", "1:1: 'listen' is missing"),
        ("store: mysql\n", "1:1: 'store' must be sqlite or postgresql://"),
        ("retention: {runs: 30}\n", "1:13: 'runs': '30' is not a duration: write 30s for seconds"),
        ("retention: {bundles: -1}\n", "1:13: 'bundles' must be between 0 and"),
        ("execution: {max_concurrent_runs: many}\n", "1:13: 'max_concurrent_runs' must be a whole number"),
        ("relay: {url: 'http://relay.example.org', name: a, token_env: T}\n", "1:9: 'url' must be like https://relay.example.org; http://"),
        ("relay: {url: 'https://u:p@relay.example.org', name: a, token_env: T}\n", "1:9: 'url' must be like https://relay.example.org"),
        ("relay: {url: 'https://relay.example.org?x', name: a, token_env: T}\n", "1:9: 'url' must be like https://relay.example.org"),
        ("relay: {url: 'http://127.evil.example', name: a, token_env: T}\n", "1:9: 'url' must be like https://relay.example.org"),
        ("relay: {url: 'https://r', name: a/b, token_env: T}\n", "1:27: 'name' must be 1 to 63 of A-Z"),
        ("relay: {url: 'https://r', name: a}\n", "1:1: 'token_env' is missing"),
        ("relay: {url: x}\nrelay: {url: y}\n", "2:1: duplicate key 'relay'"),
        ("- a\n", "1:1: dicode.yaml must be a mapping"),
    ],
)
def test_a_mistake_is_one_fault_at_its_place(text: str, expected: str) -> None:
    assert fault_in(text).startswith(expected)


def test_the_limit_of_sources() -> None:
    def listing(count: int) -> str:
        return "sources:\n" + "".join(f"  - path: s{number}\n" for number in range(count))

    assert len(config_of(listing(199)).sources) == 199
    assert len(config_of(listing(200)).sources) == 200
    assert "more than 200 sources" in fault_in(listing(201))


def test_data_dir_is_found_beside_other_mistakes() -> None:
    assert data_dir_of(b"data_dir: ~/x\nsorces: 1\n", "dicode.yaml") == "~/x"
    assert data_dir_of(b"data_dir:\n", "dicode.yaml") is None
    assert data_dir_of(b"", "dicode.yaml") is None
    with pytest.raises(BadConfig, match=r"^dicode.yaml:2:1: duplicate key"):
        data_dir_of(b"data_dir: a\ndata_dir: b\n", "dicode.yaml")


@given(st.binary(max_size=300))
def test_any_bytes_give_a_config_or_faults(data: bytes) -> None:
    parsed = parse(data)
    assert (parsed.config is None) == bool(parsed.faults)
