"""Connections to remotes: HTTP with proxies, TLS, one host and checked addresses; ssh by the `ssh` program. Blocks; for the fetcher's children."""

from __future__ import annotations

import base64
import ctypes
import functools
import http.client
import os
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Mapping
from typing import IO, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]  # typeshed does not know the second

from dicode.git.frames import GitFault
from dicode.git.remote import Remote, allowed, broke_off, http_refused, is_inner, nonsense, redirected, ssh_failed, tls_failed, unreachable

AGENT = "git/2.40 (dicode)"  # GitHub wants names that begin with git/
CONNECT_WITHIN = 15.0  # seconds an address has to answer, before the next one is tried
MAX_REDIRECTS = 5
HEARD = 4096  # bytes of what an ssh says that are looked at
DEFAULT_USER = "git"  # with a token; hosts look at the token only
PDEATHSIG = 1
MOVED = (301, 302, 303, 307, 308)
RESULT = "application/x-git-upload-pack-result"
ADVERTISEMENT = "application/x-git-upload-pack-advertisement"
DISCOVER = "/info/refs?service=git-upload-pack"


class Secret(NamedTuple):
    """How we show who we are. `token_env`: the name under which the token is known, for messages."""

    token: str = ""
    token_env: str = ""
    ssh_key: str = ""
    known_hosts: str = ""


def fault_of(error: Exception) -> GitFault:
    """What an error of the network is called."""
    if isinstance(error, GitFault):
        return error
    if isinstance(error, ssl.SSLCertVerificationError):
        return tls_failed(error.verify_code)
    if isinstance(error, ssl.SSLError):
        return tls_failed(0)
    if isinstance(error, OSError):
        return unreachable(type(error).__name__, error.errno)
    if isinstance(error, http.client.IncompleteRead):
        return broke_off()
    if isinstance(error, http.client.HTTPException):
        return nonsense(f"it is not HTTP either ({type(error).__name__})")
    raise error


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host. Raises GitFault."""
    try:
        return list(dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
    except UnicodeError:
        raise GitFault("BadUrl", "the host in the URL is no name that can be looked up", permanent=True) from None
    except OSError as error:
        raise fault_of(error) from None


def connect(addresses: list[str], port: int) -> socket.socket:
    """To the first that answers: exactly these, so that a name which changes its mind leads nowhere else. Raises GitFault."""
    last = unreachable("NoAddress", None)
    for address in addresses:
        try:
            link = socket.create_connection((address, port), CONNECT_WITHIN)
        except OSError as error:
            last = fault_of(error)
        else:
            link.settimeout(None)  # from here on the deadline of the whole session counts
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return link
    raise last


# ── HTTP ──


def make_tls_ready() -> None:
    """Read the trusted authorities now, once for all children: it takes longer than a poll may."""
    _tls(_authorities())


def _authorities() -> tuple[str, float]:
    named = _environ("REQUESTS_CA_BUNDLE") if not _environ("SSL_CERT_FILE") else ""
    path = named or _environ("SSL_CERT_FILE") or (ssl.get_default_verify_paths().cafile or "")
    try:
        return named, os.stat(path).st_mtime if path else 0.0
    except OSError:
        return named, 0.0


@functools.lru_cache(maxsize=1)
def _tls(authorities: tuple[str, float]) -> ssl.SSLContext:
    """Python itself honours SSL_CERT_FILE and SSL_CERT_DIR; REQUESTS_CA_BUNDLE is what other tools of Python call it."""
    bundle, _ = authorities
    if not bundle:
        return ssl.create_default_context()
    folder = os.path.isdir(bundle)
    return ssl.create_default_context(cafile=None if folder else bundle, capath=bundle if folder else None)


def _environ(name: str) -> str:
    return os.environ.get(name, "")  # noqa: TID251  # the fetcher's own, which session.Children has put together


class Proxy(NamedTuple):
    """`authorization` is the value of the header, "" for none."""

    host: str
    port: int
    authorization: str = ""


def proxy_for(remote: Remote) -> Proxy | None:
    """By HTTPS_PROXY, http_proxy, ALL_PROXY and NO_PROXY; never for this machine itself. Raises GitFault."""
    host, port = remote.tcp
    proxies = getproxies_environment()
    written = proxies.get(remote.scheme) or proxies.get("all")
    if not written or host == "localhost" or _is_loopback(host) or proxy_bypass_environment(f"{host}:{port}", proxies):
        return None
    parts = urlsplit(written if "://" in written else f"http://{written}")
    try:
        name, at = parts.hostname, parts.port or 3128
    except ValueError:
        name = None
    if parts.scheme != "http" or not name:
        raise GitFault("HostUnreachable", "the proxy must be given as http://host:port: look at HTTPS_PROXY and ALL_PROXY")
    user = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else ""
    return Proxy(name, at, f"Basic {base64.b64encode(user.encode()).decode()}" if user else "")


def _is_loopback(host: str) -> bool:
    return host == "::1" or (host.startswith("127.") and is_inner(host))


class Http:
    """One kept connection to the host of a remote."""

    def __init__(self, remote: Remote, secret: Secret, *, trusted: bool) -> None:
        self._remote = remote
        self._secret = secret
        self._trusted = trusted
        self._connection: http.client.HTTPConnection | None = None
        self._proxy: Proxy | None = None

    @property
    def path(self) -> str:
        """Of the repository, after redirects."""
        return self._remote.path

    @path.setter
    def path(self, path: str) -> None:
        self._remote = self._remote._replace(path=path)

    def discover(self, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        """GET info/refs, following redirects that stay on the host; where it ends, the repository is from now on."""
        for _ in range(MAX_REDIRECTS):
            answer = self._request("GET", DISCOVER, None, {**headers, "Accept": "*/*", "Pragma": "no-cache"})
            if answer.status not in MOVED:
                return self._checked(answer, ADVERTISEMENT)
            there = redirected(self._remote, DISCOVER, answer.headers.get("Location") or "")
            self.close()
            self._remote = there
        raise GitFault("Redirected", "the remote redirects in a circle", permanent=True)

    def post(self, body: bytes, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        """POST git-upload-pack; never redirected."""
        wanted = {**headers, "Content-Type": "application/x-git-upload-pack-request", "Accept": RESULT}
        answer = self._request("POST", "/git-upload-pack", body, wanted)
        if answer.status in MOVED:
            raise GitFault(
                "Redirected",
                "the remote redirects what is posted, which is not followed: put the URL it has moved to into the source",
                permanent=True,
            )
        return self._checked(answer, RESULT)

    def done_with(self, answer: http.client.HTTPResponse) -> None:
        """The connection is used again, if the remote has really said all."""
        try:
            more = answer.read(1)
        except (OSError, http.client.HTTPException) as error:
            raise fault_of(error) from None
        if more:
            self.close()

    def _checked(self, answer: http.client.HTTPResponse, type: str) -> http.client.HTTPResponse:
        if answer.status != 200:
            self.close()
            raise http_refused(answer.status, self._secret.token_env if self._secret.token else "")
        if (answer.headers.get("Content-Type") or "").split(";")[0].strip().lower() != type:
            self.close()
            raise nonsense("there is no git server at this URL, or one of the old kind that only serves files")
        return answer

    def _request(self, method: str, tail: str, body: bytes | None, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        try:
            if self._connection is None:
                self._connection = self._open()
            sent = {**headers, "User-Agent": AGENT, **self._authorization()}
            target = self._remote.path + tail
            if self._proxy is not None and self._remote.scheme == "http":
                target = f"http://{self._remote.host}{f':{self._remote.port}' if self._remote.port else ''}{target}"
                if self._proxy.authorization:
                    sent["Proxy-Authorization"] = self._proxy.authorization
            self._connection.request(method, target, body, sent)
            return self._connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise fault_of(error) from None

    def _authorization(self) -> dict[str, str]:
        """Only ever sent to the host of the remote: redirects to others are not followed."""
        if not self._secret.token:
            return {}
        plain = f"{self._remote.user or DEFAULT_USER}:{self._secret.token}"
        return {"Authorization": f"Basic {base64.b64encode(plain.encode()).decode()}"}

    def _open(self) -> http.client.HTTPConnection:
        host, port = self._remote.tcp
        self._proxy = proxy_for(self._remote)
        if self._proxy is None:
            addresses, at = allowed(resolve(host, port), trusted=self._trusted), port
        else:
            self._check_behind_proxy(host, port)
            addresses, at = resolve(self._proxy.host, self._proxy.port), self._proxy.port
        connection = (
            http.client.HTTPConnection(host, port)
            if self._remote.scheme == "http"
            else http.client.HTTPSConnection(host, port, context=_tls(_authorities()))
        )
        if self._proxy is not None and self._remote.scheme == "https":
            connection.set_tunnel(host, port, {"Proxy-Authorization": self._proxy.authorization} if self._proxy.authorization else {})
        connection._create_connection = lambda *_: connect(addresses, at)  # type: ignore[attr-defined]
        try:
            connection.connect()
        except OSError as error:
            if str(error).startswith("Tunnel connection failed"):
                raise GitFault("HostUnreachable", "the proxy does not let us through to the remote") from None
            raise
        return connection

    def _check_behind_proxy(self, host: str, port: int) -> None:
        """A proxy resolves names by itself; what we can tell of them we still do."""
        if self._trusted:
            return
        try:
            addresses = resolve(host, port)
        except GitFault:
            return  # names that only the proxy knows are the proxy's business
        allowed(addresses, trusted=False)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


# ── streams ──


class Stream(NamedTuple):
    """A connection on which both sides talk. `why()`: what to call its early end."""

    reader: IO[bytes]
    writer: IO[bytes]
    process: subprocess.Popen[bytes] | None = None
    errors: IO[bytes] | None = None

    def why(self) -> GitFault:
        if self.process is None or self.errors is None:
            return unreachable("ConnectionResetError", None)
        code = self.process.wait()
        self.errors.seek(0)
        return ssh_failed(self.errors.read(HEARD), code)

    def close(self) -> None:
        for end in (self.writer, self.reader):
            try:
                end.close()
            except OSError:
                continue  # what was not yet sent has nowhere to go
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def ssh(remote: Remote, secret: Secret, *, trusted: bool) -> Stream:
    """`git-upload-pack` on the host, by the ssh of this machine. Raises GitFault."""
    program = shutil.which("ssh")
    if program is None:
        raise GitFault("MissingSsh", "there is no program 'ssh' here: install openssh-client, or use https", permanent=True)
    for what, path in (("ssh_key", secret.ssh_key), ("known_hosts", secret.known_hosts)):
        if path and not os.access(path, os.R_OK):
            raise GitFault("MissingSecret", f"the file that auth.{what} names cannot be read", permanent=True)
    host, port = remote.tcp
    place = allowed(resolve(host, port), trusted=False)[0] if not trusted else host
    errors = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process that writes it
    process = subprocess.Popen(
        ssh_command(program, remote, secret, place, trusted=trusted),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
        env={"PATH": _environ("PATH"), "HOME": _environ("HOME"), "LANG": "C", "GIT_PROTOCOL": "version=2", "SSH_AUTH_SOCK": _environ("SSH_AUTH_SOCK")},
        preexec_fn=functools.partial(ctypes.CDLL(None).prctl, PDEATHSIG, signal.SIGKILL),  # fine here: this child has one thread
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    return Stream(process.stdout, process.stdin, process, errors)


def ssh_command(program: str, remote: Remote, secret: Secret, place: str, *, trusted: bool) -> list[str]:
    """`place` is what to connect to; the host's key is looked up by the name in the URL. No file of this machine's user has a say but
    keys and known hosts, and those only where a person wrote the URL."""
    host, port = remote.tcp
    options = {
        "BatchMode": "yes", "StrictHostKeyChecking": "yes", "UpdateHostKeys": "no", "CheckHostIP": "no", "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no", "ProxyCommand": "none", "ProxyJump": "none", "PermitLocalCommand": "no", "ControlMaster": "no",
        "ControlPath": "none", "ClearAllForwardings": "yes", "ForwardAgent": "no", "ConnectTimeout": "15", "SendEnv": "GIT_PROTOCOL",
        "HostName": place, "HostKeyAlias": host if port == 22 else f"[{host}]:{port}", "LogLevel": "ERROR",
    }  # fmt: skip
    if secret.known_hosts:
        options |= {"UserKnownHostsFile": _quoted(secret.known_hosts), "GlobalKnownHostsFile": "none"}
    if secret.ssh_key:
        options |= {"IdentityFile": _quoted(secret.ssh_key), "IdentitiesOnly": "yes", "IdentityAgent": "none"}
    elif not trusted:
        options |= {"IdentityFile": "none", "IdentitiesOnly": "yes", "IdentityAgent": "none"}
    argv = [program, "-F", "none", "-T", "-x"]
    for name, value in options.items():
        argv += ["-o", f"{name}={value}"]
    if remote.user:
        argv += ["-l", remote.user]
    return [*argv, "-p", str(port), "--", host, f"git-upload-pack {shlex.quote(remote.path)}"]


def _quoted(path: str) -> str:
    """As a value of an ssh option: no blank splits it, no percent means anything."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


def git(remote: Remote) -> Stream:
    """git://, which only a trusted URL may be. Raises GitFault."""
    host, port = remote.tcp
    link = connect(resolve(host, port), port)
    reader, writer = link.makefile("rb"), link.makefile("wb")
    link.close()
    line = f"git-upload-pack {remote.path}\0host={host}\0\0version=2\0".encode()
    writer.write(b"%04x%s" % (len(line) + 4, line))
    return Stream(reader, writer)
