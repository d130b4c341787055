"""Remotes as values: what a URL means, which addresses it may not lead to, which commit a ref chooses, what a failure is called. Pure.

The words of a remote never get into a message: a failure is told by its class and number, in our own words.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple
from urllib.parse import quote, unquote

from dicode.git.frames import GitFault
from dicode.spec.trees import Repo

Scheme = Literal["https", "http", "ssh", "git", "file"]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_URL = 2_048
MAX_REF = 255
DEFAULT_PORTS: Mapping[str, int] = {"https": 443, "http": 80, "ssh": 22, "git": 9418, "file": 0}
_KEPT = "/:@!$&'()*+,;=~-._"  # characters of a path that need no quoting
SECRET_LIKE = 33  # a user name of this length is rather a token: no host gives names so long, and tokens are longer

_HOST = r"(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])"
_WITH_SCHEME = re.compile(rf"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?:(?P<user>[^@/]*)@)?{_HOST}(?::(?P<port>[0-9]{{1,5}}))?(?P<path>/.*|)")
_LIKE_SCP = re.compile(rf"(?P<user>[^@:/]+)@{_HOST}:(?P<path>[^:].*)")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_REF = re.compile(r"(?![/.])(?!.*//)(?!.*/\.)(?!.*\.\.)(?!.*@\{)[^\x00-\x20\x7f~^:?*\[\\]+(?<![./])(?<!\.lock)")
_ID = re.compile(r"[0-9a-f]{40}")


class Remote(NamedTuple):
    """Where a repository is. `port` 0 and `user` "" where the URL names none; `path` as the remote is asked for it."""

    scheme: Scheme
    host: str
    port: int
    user: str
    path: str

    @property
    def url(self) -> str:
        """The canonical form: the same for all spellings of one place that are sure to be one."""
        if self.scheme == "file":
            return f"file://{self.path}"
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        path = self.path if self.scheme in ("http", "https") else quote(self.path, safe=_KEPT)
        return f"{self.scheme}://{user}{self.host}{port}{path if path.startswith('/') else '/~/' + path}"

    @property
    def tcp(self) -> tuple[str, int]:
        """Host (without brackets) and port to connect to."""
        return self.host.strip("[]"), self.port or DEFAULT_PORTS[self.scheme]

    @property
    def folder(self) -> str:
        """The name of its mirror's folder."""
        return hashlib.sha256(self.url.encode()).hexdigest()


def own_ref(repo: Repo) -> str:
    """Where its last good commit is kept in the mirror."""
    return f"refs/dicode/{hashlib.sha256(repo.key.encode()).hexdigest()}"


# ── URLs ──


def parse(url: str, *, trusted: bool) -> Remote:
    """What this URL means. Raises GitFault BadUrl, which never repeats it: it may hold a secret."""
    if len(url) > MAX_URL:
        raise _bad(f"the URL is longer than {MAX_URL:,} characters")
    if not url.isprintable() or any(char.isspace() or char == "\\" for char in url):
        raise _bad("the URL holds blanks, backslashes or control characters")
    if url.startswith("/"):
        return _local(url, trusted)
    if url.lower().startswith("file://"):
        return _local(url[7:], trusted)
    found = _WITH_SCHEME.fullmatch(url)
    if found is not None:
        return _with_scheme(found, trusted)
    found = _LIKE_SCP.fullmatch(url)
    if found is not None and "://" not in url:
        return _ssh(found["host"], 0, found["user"], found["path"])
    raise _bad("the URL must be like https://host/path, ssh://user@host/path or user@host:path")


def _with_scheme(found: re.Match[str], trusted: bool) -> Remote:
    scheme, port = found["scheme"].lower(), int(found["port"] or 0)
    if port > 65_535:
        raise _bad("the port in the URL is more than 65535")
    if scheme in ("https", "http"):
        return _http("https" if scheme == "https" else "http", found["host"], port, found["user"], found["path"])
    if scheme == "ssh":
        path = unquote(found["path"])
        home = path.startswith("/~")
        return _ssh(found["host"], port, found["user"] or "", path.removeprefix("/~/") if path.startswith("/~/") else path[1:] if home else path)
    if scheme == "git" and trusted:
        if found["user"]:
            raise _bad("a git:// URL has no user")
        return Remote("git", _host(found["host"]), _port("git", port), "", _path(found["path"]))
    if scheme == "git":
        raise _bad("git:// has neither encryption nor a name to check: only a source in dicode.yaml may use it; use https")
    raise _bad("the URL must begin with https:// or ssh://, or be like user@host:path")


def _http(scheme: Literal["https", "http"], host: str, port: int, user: str | None, path: str) -> Remote:
    if user and ":" in user:
        raise _bad("the URL holds a password: remove it, and name the token in auth: {token_env: …}")
    if user and (len(user) >= SECRET_LIKE or not _USER.fullmatch(user)):
        raise _bad("the user in the URL looks like a secret: remove it, and name the token in auth: {token_env: …}")
    if "?" in path or "#" in path:
        raise _bad("the URL of a repository has no query and no fragment: remove what begins with ? or #")
    return Remote(scheme, _host(host), _port(scheme, port), user or "", quote(_path(path), safe="%" + _KEPT))


def _ssh(host: str, port: int, user: str, path: str) -> Remote:
    if ":" in user:
        raise _bad("the URL holds a password: remove it, and name the key in auth: {ssh_key: …}")
    if user and not _USER.fullmatch(user):
        raise _bad("the user in the URL must be letters, digits, dots, dashes and underscores")
    if path.startswith("-"):
        raise _bad("the path in the URL must not begin with a dash")
    return Remote("ssh", _host(host), _port("ssh", port), user, _path(path))


def _local(path: str, trusted: bool) -> Remote:
    if not trusted:
        raise _bad("a repository on this machine may only be named in dicode.yaml, not by a file of a source")
    if not path.startswith("/"):
        raise _bad("a file URL has three slashes: file:///absolute/path")
    return Remote("file", "", 0, "", _path("/" + path.lstrip("/")))


def _host(host: str) -> str:
    return host.lower().rstrip(".")


def _port(scheme: Scheme, port: int) -> int:
    return 0 if port == DEFAULT_PORTS[scheme] else port


def _path(path: str) -> str:
    if not path.isprintable():
        raise _bad("the path in the URL holds control characters")
    stripped = path.rstrip("/")
    if not stripped:
        raise _bad("the URL names a host, but no repository on it")
    if any(segment in (".", "..") for segment in stripped.split("/")):
        raise _bad("the path in the URL must not hold . or ..")
    return stripped


def _bad(message: str) -> GitFault:
    return GitFault("BadUrl", message, permanent=True)


def check_secret(remote: Remote, repo: Repo) -> None:
    """Refuses to send a secret where it can be read or does not fit. Raises GitFault."""
    if repo.token_env and remote.scheme == "http" and not repo.trusted:
        raise _bad("a token is not sent over http, where all can read it: use https")
    if repo.token_env and remote.scheme not in ("http", "https"):
        raise _bad("auth.token_env is for https; a URL of ssh needs auth.ssh_key")
    if repo.ssh_key and remote.scheme != "ssh":
        raise _bad("auth.ssh_key is for ssh; a URL of https needs auth.token_env")


def redirected(remote: Remote, base: str, location: str) -> Remote:
    """Where a redirect leads, when it may be followed: the same host, or the same host by https. Raises GitFault Redirected.

    `base` is the tail that was asked for (`/info/refs?service=…`); the new place must be asked for the same.
    """
    if location.startswith("/") and not location.startswith("//"):
        location = f"{remote.scheme}://{remote.host}{f':{remote.port}' if remote.port else ''}{location}"
    if not location.endswith(base):
        raise _astray("the remote redirects to something else than a repository")
    try:
        there = parse(location.removesuffix(base), trusted=False)
    except GitFault:
        raise _astray("the remote redirects to a place that no repository can be at") from None
    same = (there.scheme, there.host, there.port) == (remote.scheme, remote.host, remote.port)
    safer = there.host == remote.host and remote.scheme == "http" and there.scheme == "https" and there.port == 0
    if not (same or safer):
        raise _astray("the remote redirects to another host, which is not followed: put the URL it has moved to into the source")
    return there._replace(user=remote.user)


def _astray(message: str) -> GitFault:
    return GitFault("Redirected", message, permanent=True)


# ── addresses ──

_INNER = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
        "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "::/96", "64:ff9b:1::/48", "100::/64", "2001::/32", "2001:db8::/32", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
    )
)  # fmt: skip
_WRAPS = (("::ffff:0:0/96", 0), ("64:ff9b::/96", 0), ("2002::/16", 80))  # IPv4 inside IPv6: the bits that stand behind it
_WRAPPED = tuple((ipaddress.IPv6Network(text), behind) for text, behind in _WRAPS)


def is_inner(address: str) -> bool:
    """Whether this IP address lies on this machine, in a private network, or is otherwise nobody's on the internet."""
    try:
        parsed: Address = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return True  # what we cannot read we do not trust
    if isinstance(parsed, ipaddress.IPv6Address):
        for network, behind in _WRAPPED:
            if parsed in network:
                return is_inner(str(ipaddress.IPv4Address((int(parsed) >> behind) & 0xFFFF_FFFF)))
    return any(parsed in network for network in _INNER)


def allowed(addresses: Iterable[str], *, trusted: bool) -> list[str]:
    """Those of a host's addresses that may be connected to. Raises GitFault when it has inner ones and is not trusted."""
    known = list(addresses)
    if not trusted and any(is_inner(address) for address in known):
        raise GitFault(
            "BadUrl",
            "the host lies in a private network, where a repository named by a file of a source may not lead: name it in dicode.yaml",
            permanent=True,
        )
    return known


# ── choosing a commit ──


class Advertised(NamedTuple):
    """A ref of the remote: what it points to, and for an annotated tag what that leads to in the end."""

    id: str
    peeled: str = ""


class Chosen(NamedTuple):
    """`want` is what the remote is asked for, `commit` what it leads to; `name` is the ref, "" for a bare commit."""

    name: str
    want: str
    commit: str


def prefixes(repo: Repo) -> tuple[str, ...]:
    """The refs that must be known to choose."""
    match repo.ref_kind:
        case "branch":
            return (f"refs/heads/{repo.ref}",)
        case "tag":
            return (f"refs/tags/{repo.ref}",)
        case "semver":
            return ("refs/tags/",)
        case "commit":
            return ("HEAD",)


def check_ref(repo: Repo) -> None:
    """Raises GitFault when no remote can ever have this ref."""
    if repo.ref_kind == "commit":
        if not _ID.fullmatch(repo.ref):
            raise _no_ref("a commit must be written with all its 40 hex digits", permanent=True)
    elif repo.ref_kind == "semver":
        Range.parse(repo.ref)
    elif len(repo.ref) > MAX_REF or repo.ref.startswith("-") or not _REF.fullmatch(repo.ref):
        raise _no_ref(f"the name of the {repo.ref_kind} is one that git does not allow", permanent=True)


def choose(repo: Repo, refs: Mapping[str, Advertised]) -> Chosen:
    """The commit this ref means now. Raises GitFault RefNotFound. A bare commit chooses itself, known to the remote or not."""
    match repo.ref_kind:
        case "commit":
            return Chosen("", repo.ref, repo.ref)
        case "semver":
            return _newest(repo.ref, refs)
        case kind:
            name = f"refs/{'heads' if kind == 'branch' else 'tags'}/{repo.ref}"
            found = refs.get(name)
            if found is None and kind == "branch" and not any(each.startswith("refs/") for each in refs):
                raise _no_ref(f"the remote has no branch '{repo.ref}': was it renamed, or is the repository still empty?")
            if found is None:
                raise _no_ref(f"the remote has no {kind} '{repo.ref}'")
            return Chosen(name, found.id, found.peeled or found.id)


def _newest(written: str, refs: Mapping[str, Advertised]) -> Chosen:
    wanted = Range.parse(written)
    best: tuple[Version, str] | None = None
    for name in refs:
        version = Version.parse(name.removeprefix("refs/tags/")) if name.startswith("refs/tags/") else None
        if version is not None and wanted.holds(version) and (best is None or (version.order, name) > (best[0].order, best[1])):
            best = (version, name)
    if best is None:
        raise _no_ref(f"the remote has no tag within '{written}'")
    found = refs[best[1]]
    return Chosen(best[1], found.id, found.peeled or found.id)


def _no_ref(message: str, *, permanent: bool = False) -> GitFault:
    return GitFault("RefNotFound", message, permanent)


_NUMBER = r"(?:0|[1-9][0-9]{0,8})"
_PRE = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
_VERSION = re.compile(rf"v?({_NUMBER})\.({_NUMBER})\.({_NUMBER})(?:-({_PRE}))?(?:\+{_PRE})?")
_PARTIAL = re.compile(
    rf"(\^|~>?|>=|<=|>|<|=)?\s*v?({_NUMBER}|[xX*])(?:\.({_NUMBER}|[xX*]))?(?:\.({_NUMBER}|[xX*]))?(?:-({_PRE}))?(?:\+{_PRE})?(?=[\s,]|$)[\s,]*"
)

Order = tuple[int, int, int, tuple[int, ...] | tuple[tuple[int, int, str], ...]]


class Version(NamedTuple):
    """A version of semver 2.0.0, without its build."""

    major: int
    minor: int
    patch: int
    pre: str = ""

    @classmethod
    def parse(cls, text: str) -> Version | None:
        """`1.2.3`, `v1.2.3-rc.1+build`; None for what is none."""
        found = _VERSION.fullmatch(text)
        return None if found is None else cls(int(found[1]), int(found[2]), int(found[3]), found[4] or "")

    @property
    def order(self) -> tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]:
        """Sorts as semver says: before its release come its prereleases, numbers before words."""
        parts = tuple(
            (not part.isdigit(), int(part) if part.isdigit() else 0, "" if part.isdigit() else part) for part in self.pre.split(".") if part
        )
        return self.major, self.minor, self.patch, not self.pre, parts


class _Span(NamedTuple):
    """From `low` on, up to but without `below` (None: no end). `also`: the one version at the end that is still in."""

    low: Version
    below: Version | None
    after: bool = False  # `low` itself is out
    also: Version | None = None

    def holds(self, version: Version) -> bool:
        if self.also is not None and version.order == self.also.order:
            return True
        if version.order < self.low.order or (self.after and version.order == self.low.order):
            return False
        return self.below is None or version.order < self.below.order

    def names(self, version: Version) -> bool:
        """Whether it speaks of prereleases of this very version."""
        ends = (self.low, *(() if self.below is None else (self.below,)), *(() if self.also is None else (self.also,)))
        return any(end.pre not in ("", "0") and end[:3] == version[:3] for end in ends)


class Range(NamedTuple):
    """What `semver:` may say: `^1.2`, `~1.4`, `1.x`, `>=1 <2`, `1.2.3`, and several of these with `||` between."""

    ways: tuple[tuple[_Span, ...], ...]

    @classmethod
    def parse(cls, text: str) -> Range:
        """Raises GitFault for what is none."""
        if len(text) > MAX_REF:
            raise _no_ref("the semver range is too long", permanent=True)
        return cls(tuple(_all_of(way.strip()) for way in text.split("||")))

    def holds(self, version: Version) -> bool:
        """A prerelease is within only when the range names one of the same version."""
        return any(all(span.holds(version) for span in way) and (not version.pre or any(span.names(version) for span in way)) for way in self.ways)


def _all_of(way: str) -> tuple[_Span, ...]:
    at, spans = 0, []
    while at < len(way):
        found = _PARTIAL.match(way, at)
        if found is None:
            break
        spans.append(_span(found[1] or "", found.group(2, 3, 4), found[5] or ""))
        at = found.end()
    if at < len(way) or not spans:
        raise _no_ref("the semver range must be like ^1.2, ~1.4, 1.x, '>=1 <2' or 1.2.3", permanent=True)
    return tuple(spans)


def _span(op: str, written: tuple[str | None, ...], pre: str) -> _Span:
    numbers: list[int] = []
    for part in written:
        if part is None or part in "xX*":
            break
        numbers.append(int(part))
    whole = len(numbers) == 3
    major, minor, patch = (*numbers, 0, 0, 0)[:3]
    low = Version(major, minor, patch, pre if whole else "")
    if not numbers:
        return _Span(Version(0, 0, 0), None)
    match op:
        case "^":
            fixed = next((place for place, number in enumerate(numbers) if number), len(numbers) - 1)
            return _Span(low, _next(numbers, min(fixed, len(numbers) - 1)))
        case "~" | "~>":
            return _Span(low, _next(numbers, min(1, len(numbers) - 1)))
        case ">=":
            return _Span(low, None)
        case ">":
            return _Span(low, None, after=True) if whole else _Span(_next(numbers, len(numbers) - 1)._replace(pre=""), None)
        case "<":
            return _Span(Version(0, 0, 0), low if pre else low._replace(pre="0"))
        case "<=":
            return _Span(Version(0, 0, 0), low if whole else _next(numbers, len(numbers) - 1), also=low if whole else None)
        case _ if whole:
            return _Span(low, low, also=low)
        case _:
            return _Span(low, _next(numbers, len(numbers) - 1))


def _next(numbers: list[int], place: int) -> Version:
    """The first version beyond all that have the same numbers up to and with `place`; its prereleases are beyond, too."""
    raised = [*numbers[:place], numbers[place] + 1, 0, 0]
    return Version(raised[0], raised[1], raised[2], "0")


# ── what failures are called ──


def http_refused(status: int, token_env: str) -> GitFault:
    """For an HTTP answer that is neither 200 nor a redirect."""
    match status:
        case 401 | 403 if token_env:
            return GitFault(
                "AuthFailed",
                f"the remote refuses the token in {token_env} (HTTP {status}): give it one that may read this repository",
                permanent=True,
            )
        case 401 | 403:
            return GitFault("AuthFailed", f"the remote asks who we are (HTTP {status}): name a token in auth: {{token_env: …}}", permanent=True)
        case 404 | 410:
            hint = "" if token_env else ", or one that asks for a token: name it in auth: {token_env: …}"
            return GitFault("RepoNotFound", f"the remote knows no such repository (HTTP {status}){hint}", permanent=True)
        case 407:
            return GitFault("AuthFailed", "the proxy asks who we are (HTTP 407): put the user into HTTPS_PROXY", permanent=True)
        case 429 | 503:
            return GitFault("Busy", f"the remote asks to be left alone for a while (HTTP {status})")
        case _:
            return GitFault("ProtocolError", f"the remote answers with HTTP {status}")


def refused(word: bytes) -> GitFault:
    """For an error that the remote tells of in git's protocol."""
    lower = word.lower()
    if b"not our ref" in lower or b"unadvertised object" in lower:
        return GitFault("RefNotFound", "the remote does not have this commit, or does not give it away")
    if b"not found" in lower or b"does not appear to be" in lower or b"access denied" in lower or b"no such" in lower:
        return GitFault("RepoNotFound", "the remote knows no such repository, or does not show it to us", permanent=True)
    return GitFault("ProtocolError", "the remote refused, without a reason that can be told")


_SSH: tuple[tuple[bytes, str, str, bool], ...] = (
    (
        b"host key verification failed",
        "AuthFailed",
        "the host's key is not the one in known_hosts: put it there with ssh-keyscan, after checking it",
        True,
    ),
    (b"permission denied", "AuthFailed", "the host refuses our ssh key: name one in auth: {ssh_key: …} that may read this repository", True),
    (b"too many authentication", "AuthFailed", "the host refuses our ssh keys: name the right one in auth: {ssh_key: …}", True),
    (b"load key", "AuthFailed", "the ssh key cannot be used: it must be a private key without a passphrase, which only we can read", True),
    (b"could not resolve", "HostUnreachable", "the host's name is not known", False),
    (b"connection refused", "HostUnreachable", "the host refuses the connection", False),
    (b"no route to host", "HostUnreachable", "there is no way to the host", False),
    (b"network is unreachable", "HostUnreachable", "there is no way to the host's network", False),
    (b"timed out", "TimedOut", "the host does not answer", False),
    (b"not found", "RepoNotFound", "the remote knows no such repository, or does not show it to us", True),
    (b"does not appear to be", "RepoNotFound", "the remote knows no such repository", True),
    (b"does not exist", "RepoNotFound", "the remote knows no such repository", True),
)


def ssh_failed(told: bytes, code: int | None) -> GitFault:
    """For an ssh that ended early; `told` is what it said, of which we look for known words only."""
    lower = told.lower()
    for word, reason, message, permanent in _SSH:
        if word in lower:
            return GitFault(reason, message, permanent)
    return GitFault("HostUnreachable", f"ssh ended before the remote answered (exit code {code})")


_TLS = {
    10: "has expired",
    9: "is not valid yet",
    18: "is self-signed",
    19: "is from nobody we trust",
    20: "is from nobody we trust",
    21: "cannot be checked",
    62: "is for another host",
}


def tls_failed(verify_code: int) -> GitFault:
    """`verify_code` of OpenSSL; 0 when it was not the certificate."""
    if verify_code:
        what = _TLS.get(verify_code, "is not good")
        return GitFault("TlsFailed", f"the remote's certificate {what} ({verify_code}): name your own authority's in SSL_CERT_FILE, if you have one")
    return GitFault("TlsFailed", "the remote does not speak TLS as it should")


def unreachable(what: str, number: int | None) -> GitFault:
    """For an error of the network: `what` is its class, `number` its errno."""
    if what == "gaierror":
        return GitFault("HostUnreachable", f"the host's name is not known (resolver error {number})")
    if what == "TimeoutError":
        return GitFault("TimedOut", "the remote does not answer")
    told = {
        "ConnectionRefusedError": "refuses the connection",
        "ConnectionResetError": "breaks the connection off",
        "BrokenPipeError": "breaks the connection off",
    }
    return GitFault("HostUnreachable", f"the remote {told.get(what, 'cannot be reached')} ({what}{'' if number is None else f', errno {number}'})")


def broke_off() -> GitFault:
    return GitFault("HostUnreachable", "the remote broke off in the middle of its answer")


def nonsense(what: str) -> GitFault:
    """For an answer that is not git's protocol."""
    return GitFault("ProtocolError", f"the remote's answer is not git's: {what}")
