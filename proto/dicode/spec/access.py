"""Which repository is meant, and by which secret it is reached. Pure: secrets are named, never held."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from dicode.messages.kinds import ConfigSource, Credential
from dicode.spec.taskset import Ref
from dicode.spec.trees import RefKind, Repo


class Rules(NamedTuple):
    """What dicode.yaml allows the refs of a source: `allowed_token_envs` of the source, and `credentials`.

    `named`: beginnings of URLs that a person has named; what refs in the source's own files name there is obeyed.
    `anywhere`: the source is a folder on this disk: who may write there may do more than name a URL.
    `home`: which repository the source itself is, or is a working copy of, as `place_of_repo` says it; "" for neither.
    """

    allowed_token_envs: tuple[str, ...] = ()
    credentials: tuple[Credential, ...] = ()
    named: tuple[str, ...] = ()
    anywhere: bool = False
    home: str = ""


def rules_of(spec: ConfigSource, credentials: tuple[Credential, ...]) -> Rules:
    """Of a source. Who named its repository has named the host that it stands on."""
    anywhere = spec.type == "local"
    if not spec.url:
        return Rules(spec.allowed_token_envs, credentials, anywhere=anywhere)
    home = place_of_repo(repo_of_source(spec, credentials))
    return Rules(spec.allowed_token_envs, credentials, (place_of_url(spec.url),), anywhere, home)


def place_of_url(url: str) -> str:
    """Where a repository stands, as the beginning of URLs: `https://host/`, `user@host:`; of one on this disk its parent folder."""
    if url.startswith(("/", "file://")):
        return url.rstrip("/").rpartition("/")[0] + "/"
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url.partition(":")[0] + ":"
    return f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}/"


def place_of_repo(repo: Repo) -> str:
    """The same text however a repository is spelled (`.git`, slashes, capitals, https or ssh) and reached, and for each ref another.

    A circle of refs is found by it. It is not by what is fetched: two spellings may be two repositories on some hosts.
    """
    return f"{_spelled(repo.url)}#{repo.ref_kind}={repo.ref}"


def _spelled(url: str) -> str:
    if url.startswith(("/", "file://")):
        return "/" + url.removeprefix("file://").strip("/")
    scheme, mark, rest = _lowered(url).partition("://")
    authority, _, path = rest.partition("/") if mark else scheme.partition(":")
    host = authority.rpartition("@")[2].removesuffix(_DEFAULT_PORTS.get(scheme, "\0")).rstrip(".")
    return f"{host}/{path.strip('/').removesuffix('.git')}"


_DEFAULT_PORTS = {"https": ":443", "http": ":80", "ssh": ":22"}


def repo_of_source(spec: ConfigSource, credentials: Iterable[Credential]) -> Repo:
    """The repository of a git source itself: its URL was given by a person and is obeyed."""
    kind, ref = _ref_of(spec)
    auth = spec.auth or _of_credential(matching(credentials, spec.url))
    return Repo(spec.url, kind, ref, auth.get("token_env", ""), auth.get("ssh_key", ""), auth.get("known_hosts", ""), trusted=True)


def _ref_of(spec: ConfigSource) -> tuple[RefKind, str]:
    written = spec.ref or {}
    kinds: tuple[RefKind, ...] = ("branch", "tag", "semver", "commit")
    return next(((kind, written[kind]) for kind in kinds if kind in written), ("branch", spec.branch or "main"))


def repo_of_ref(ref: Ref, rules: Rules, *, own: bool = True) -> Repo | str:
    """The repository that a ref of a taskset.yaml names, or why it may not be reached like that.

    It is obeyed like a URL of dicode.yaml when a credential matches it, or when it stands where the source does and the
    file is the source's `own`, not one of a repository that was itself named by a ref.
    """
    if ref.token_env and ref.token_env not in rules.allowed_token_envs:
        return f"{ref.token_env} may not be used here: name it in allowed_token_envs of the source, or the URL under credentials, in dicode.yaml"
    credential = matching(rules.credentials, ref.url)
    auth = {"token_env": ref.token_env} if ref.token_env else _of_credential(credential)
    near = rules.anywhere or any(_begins(_lowered(ref.url), _lowered(beginning)) for beginning in rules.named)
    trusted = credential is not None or (own and near)
    return Repo(ref.url, "branch", ref.branch, auth.get("token_env", ""), auth.get("ssh_key", ""), auth.get("known_hosts", ""), trusted)


def matching(credentials: Iterable[Credential], url: str) -> Credential | None:
    """The entry with the longest `match` that `url` begins with; of two equal ones the first.

    It must end where a part of the URL ends: `https://host/acme` does not match `https://host/acme-evil/x`, nor does
    `https://host` match `https://host.evil/x` or `https://host@evil/x`.
    """
    found = [each for each in credentials if each.match and _begins(_lowered(url), _lowered(each.match))]
    return max(found, key=_length, default=None)


def _length(credential: Credential) -> int:
    return len(credential.match)


def _begins(url: str, match: str) -> bool:
    if not url.startswith(match) or "/../" in f"{url}/":
        return False
    rest = url[len(match) :]
    ends = "/" if "://" in match else "/:"  # of `user@host:path` the host ends at the colon; elsewhere a password may follow it
    return not rest or match[-1] in ends or rest[0] in ends or rest in (".git", ".git/")


def _lowered(url: str) -> str:
    """With scheme and host in lower case: they mean the same in any."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        host, colon, path = url.partition(":")
        return host.lower() + colon + path
    host, slash, path = rest.partition("/")
    return f"{scheme.lower()}://{host.lower()}{slash}{path}"


def _of_credential(found: Credential | None) -> Mapping[str, str]:
    return {"token_env": found.token_env, "ssh_key": found.ssh_key, "known_hosts": found.known_hosts} if found is not None else {}
