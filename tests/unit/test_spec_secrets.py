"""Secrets stand in the environment. Who writes one into a file all the same is told so, and it is in no message: those are logged and shown."""

from __future__ import annotations

import pytest

from dicode.spec.config import parse_config
from dicode.spec.taskset import parse_set

CANARY = "CANARY-5f2c9d1e7a"
GITHUB = "ghp_" + "5f2c9d1e7a" * 4  # could be the name of a variable
URL = f"https://me:{CANARY}@h/x"


@pytest.mark.parametrize(
    "text",
    [
        f"sources: [{{url: '{URL}'}}]",
        f"sources: [{{url: 'HTTPS://me:{CANARY}@h/x'}}]",
        f"sources: [{{url: 'git+ssh://me:{CANARY}@h/x'}}]",
        f"sources: [{{url: 'https://h/x?token={CANARY}'}}]",
        f"sources: [{{url: 'https://h/x', auth: {CANARY}}}]",
        f"sources: [{{url: 'https://h/x', auth: {{token: {CANARY}}}}}]",
        f"sources: [{{url: 'https://h/x', auth: {{token_env: {CANARY}}}}}]",
        f"sources: [{{url: 'https://h/x', auth: {{token_env: {GITHUB}}}}}]",
        f"sources: [{{url: 'https://h/x', webhook_secret_env: '{CANARY}'}}]",
        f"sources: ['{URL}']",
        f"sources: '{URL}'",
        f"sources: [{{name: '{URL}', url: 'https://h/x'}}]",
        f"store: 'mysql://me:{CANARY}@h/x'",
        f"relay: '{URL}'",
        f"relay: {{url: '{URL}', name: a, token_env: T}}",
        f"relay: {{url: 'https://h', name: a, token_env: {CANARY}}}",
        f"relay: {{url: 'https://h', name: a, token_env: {GITHUB}}}",
        f"credentials: [{{match: 'https://h/', token_env: {GITHUB}}}]",
        f"credentials: [{CANARY}]",
    ],
)
def test_a_secret_in_dicode_yaml_is_refused_and_not_repeated(text: str) -> None:
    faults = parse_config(f"{text}\n".encode(), "dicode.yaml", base_dir="/", home="/").faults
    assert faults and CANARY not in str(faults) and GITHUB not in str(faults)


@pytest.mark.parametrize(
    "ref",
    [
        f"'{URL}'",
        f"{{url: '{URL}'}}",
        f"{{url: 'HTTPS://me:{CANARY}@h/x'}}",
        f"{{url: 'https://{CANARY}@h/x'}}",
        f"{{url: 'git://me:{CANARY}@h/x'}}",
        f"{{url: 'https://h/x?private_token={CANARY}'}}",
        f"{{url: 'https://h/x', branch: '{URL}'}}",
        f"{{url: 'https://h/x', auth: {CANARY}}}",
        f"{{url: 'https://h/x', auth: {{token: {CANARY}}}}}",
        f"{{url: 'https://h/x', auth: {{token_env: {CANARY}}}}}",
        f"{{url: 'https://h/x', auth: {{token_env: {GITHUB}}}}}",
        f"{{url: 'https://h/x', dev_ref: '{URL}'}}",
    ],
)
def test_a_secret_in_a_ref_is_refused_and_not_repeated(ref: str) -> None:
    faults = parse_set(f"kind: TaskSet\nspec: {{entries: {{a: {{ref: {ref}}}}}}}\n".encode(), "f").entries["a"].faults
    assert faults and CANARY not in str(faults) and GITHUB not in str(faults)


def test_what_is_no_secret_is_shown_as_it_was_written() -> None:
    def said(text: str) -> str:
        return str(parse_config(f"{text}\n".encode(), "dicode.yaml", base_dir="/", home="/").faults)

    assert "not mysql" in said("store: mysql") and "not ssh://git@h/x" in said("store: ssh://git@h/x")
    assert "must be the name of an environment variable: letters" in said("sources: [{url: 'https://h/x', webhook_secret_env: 'A B'}]")
    assert "this is the secret itself" in said(f"sources: [{{url: 'https://h/x', auth: {{token_env: {GITHUB}}}}}]")
