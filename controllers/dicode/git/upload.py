"""git's protocol as a client speaks it: which refs a remote has, and a pack of what is missing here. Blocks; for the fetcher's children.

Version 2 where the remote knows it, else 0 (gitprotocol-v2(5), gitprotocol-pack(5)). Only what a fetch needs: no old servers that just
serve files, no packs from other places (packfile-uris, bundle-uris), no filters. Whatever the remote says is bounded before it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Protocol

from dicode.git.channel import AGENT, Http, Stream, fault_of
from dicode.git.frames import GitFault
from dicode.git.remote import Advertised, broke_off, nonsense, refused

FLUSH: Final = b"0000"
DELIM: Final = b"0001"
HEX: Final = b"0123456789abcdefABCDEF"
VERSION_2: Final = {"Git-Protocol": "version=2"}
_AGENT = f"agent={AGENT.replace(' ', '-')}".encode()
DATA, PROGRESS, FATAL = 1, 2, 3

Refs = dict[str, Advertised]
Read = Callable[[int], bytes]


class Remoting(Protocol):
    """A remote that can be asked. Every method may raise GitFault."""

    def refs(self, prefixes: Sequence[str]) -> Refs:
        """The refs that begin with one of these."""
        ...

    def fetch(self, wants: Sequence[str], haves: Iterable[str]) -> Iterator[bytes]:
        """A pack with everything that leads from the haves to the wants, in pieces; it may be thin."""
        ...

    def close(self) -> None: ...


# ── packets ──


def line(text: bytes) -> bytes:
    return b"%04x%s" % (len(text) + 4, text)


class Packets:
    """What a remote says, packet by packet, and no more than `most` bytes of it unless it is allowed more."""

    def __init__(self, read: Read, most: int, why: Callable[[], GitFault] | None = None) -> None:
        self._read = read
        self._left = most
        self._most = most
        self._why = why
        self.ended = b""  # the special packet that came last

    def allow(self, more: int) -> None:
        self._left = self._most = more

    def next(self) -> bytes | None:
        """None for a flush, a delimiter or an end, which `ended` then is. Raises GitFault."""
        head = self._exactly(4)
        if head.strip(HEX):  # int() would take signs and blanks too
            raise nonsense("a packet without a length")
        size = int(head, 16)
        if size < 4:
            self.ended = head
            return None
        self._left -= size
        if self._left < 0:
            raise GitFault(
                "TooLarge", f"the remote says more than {self._most // 1024**2} MiB: make the repository smaller, or use one of its own for tasks"
            )
        text = self._exactly(size - 4)
        if text.startswith(b"ERR "):
            raise refused(text)
        return text

    def lines(self) -> Iterator[bytes]:
        """Until the next special packet."""
        while (text := self.next()) is not None:
            yield text.rstrip(b"\n")

    def _exactly(self, size: int) -> bytes:
        parts, missing = [], size
        while missing:
            try:
                part = self._read(missing)
            except Exception as error:
                raise fault_of(error) from None
            if not part:
                raise self._why() if self._why is not None else broke_off()
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _ref(id: bytes, name: bytes) -> tuple[str, str] | None:
    """None for what is no ref that we could mean: names are UTF-8, ids 40 hex digits."""
    try:
        shown = id.decode("ascii")
        if len(shown) != 40 or shown.strip("0123456789abcdef"):
            raise ValueError
        return name.decode("utf-8"), shown
    except ValueError:
        return None


def read_refs_2(packets: Packets) -> Refs:
    """The answer to ls-refs."""
    refs: Refs = {}
    for text in packets.lines():
        id, _, rest = text.partition(b" ")
        name, *more = rest.split(b" ")
        peeled = next((part[7:] for part in more if part.startswith(b"peeled:")), b"")
        known = _ref(id, name)
        if known is not None:
            refs[known[0]] = Advertised(known[1], peeled.decode("ascii", "replace"))
    return refs


def read_refs_0(packets: Packets, first: bytes | None) -> tuple[Refs, set[bytes]]:
    """The advertisement of version 0 and 1, and what the remote can do."""
    refs: Refs = {}
    able: set[bytes] = set()
    text = first
    while text is not None:
        text, _, rest = text.rstrip(b"\n").partition(b"\0")
        able.update(rest.split())
        id, _, name = text.partition(b" ")
        known = _ref(id, name)
        if known is not None and name.endswith(b"^{}"):
            base = known[0][:-3]
            if base in refs:
                refs[base] = Advertised(refs[base].id, known[1])
        elif known is not None and name != b"capabilities^{}":
            refs[known[0]] = Advertised(known[1])
        text = packets.next()
    _check_format(able)
    return refs, able


def _check_format(able: Iterable[bytes]) -> None:
    if any(each.startswith(b"object-format=") and each != b"object-format=sha1" for each in able):
        raise GitFault("Unsupported", "the repository is of the sha256 kind, which is not read yet", permanent=True)


def only(refs: Refs, prefixes: Sequence[str]) -> Refs:
    return {name: each for name, each in refs.items() if name.startswith(tuple(prefixes))}


def ask_refs_2(prefixes: Sequence[str]) -> bytes:
    return b"".join(
        (line(b"command=ls-refs\n"), line(_AGENT), DELIM, line(b"peel\n"), *(line(b"ref-prefix %s\n" % each.encode()) for each in prefixes), FLUSH)
    )


def ask_pack_2(wants: Sequence[str], haves: Iterable[str]) -> bytes:
    args = (
        b"thin-pack\n",
        b"no-progress\n",
        b"ofs-delta\n",
        *(b"want %s\n" % each.encode() for each in wants),
        *(b"have %s\n" % each.encode() for each in haves),
    )
    return b"".join((line(b"command=fetch\n"), line(_AGENT), DELIM, *map(line, args), line(b"done\n"), FLUSH))


def ask_pack_0(wants: Sequence[str], haves: Iterable[str], able: set[bytes]) -> bytes:
    usable = [each for each in (b"side-band-64k", b"thin-pack", b"no-progress", b"ofs-delta") if each in able]
    first, *others = (each.encode() for each in wants)
    asked = (b"want %s %s %s\n" % (first, b" ".join(usable), _AGENT), *(b"want %s\n" % each for each in others))
    return b"".join((*map(line, asked), FLUSH, *(line(b"have %s\n" % each.encode()) for each in haves), line(b"done\n")))


def read_pack_2(packets: Packets, most: int) -> Iterator[bytes]:
    while True:
        section = packets.next()
        if section is None:
            raise nonsense("no pack came")
        if section.rstrip(b"\n") == b"packfile":
            packets.allow(most)
            yield from _side_band(packets)
            return
        for _ in packets.lines():
            pass


def read_pack_0(packets: Packets, most: int, able: set[bytes], rest: Read) -> Iterator[bytes]:
    text = packets.next()
    while text is not None and not text.startswith((b"ACK", b"NAK")):
        text = packets.next()  # shallow lines
    if text is None:
        raise nonsense("no pack came")
    packets.allow(most)
    if b"side-band-64k" in able:
        yield from _side_band(packets)
        return
    while part := rest(1 << 16):
        most -= len(part)
        if most < 0:
            raise GitFault("TooLarge", "the pack is larger than one fetch may be: make the repository smaller, or use one of its own for tasks")
        yield part


def _side_band(packets: Packets) -> Iterator[bytes]:
    while (text := packets.next()) is not None:
        band = text[0] if text else PROGRESS
        if band == DATA:
            yield text[1:]
        elif band == FATAL:
            raise refused(text[1:])
        elif band != PROGRESS and not text.startswith((b"ACK", b"NAK")):
            raise nonsense("a band that does not exist")


# ── over HTTP ──


class OverHttp:
    """Each ask is a request of its own. `knows_2`: the remote was seen to speak version 2, so that it may be asked at once."""

    def __init__(self, http: Http, most_refs: int, most_pack: int, *, knows_2: bool = False) -> None:
        self._http = http
        self._most_refs = most_refs
        self._most_pack = most_pack
        self._able: set[bytes] = set()
        self.knows_2 = knows_2

    @property
    def path(self) -> str:
        """Of the repository, where redirects have led."""
        return self._http.path

    def refs(self, prefixes: Sequence[str]) -> Refs:
        if self.knows_2:
            return self._ls_refs(prefixes)
        answer = self._http.discover(VERSION_2)
        packets = Packets(answer.read, self._most_refs)
        text = packets.next()
        if text is not None and text.startswith(b"# service="):
            packets.next()
            text = packets.next()
        elif text is None or text.rstrip(b"\n") != b"version 2":
            raise nonsense("no list of refs came")
        if text is None or text.rstrip(b"\n") != b"version 2":
            if text is not None and text.rstrip(b"\n") == b"version 1":
                text = packets.next()
            refs, self._able = read_refs_0(packets, text)
            self._http.done_with(answer)
            return only(refs, prefixes)
        _check_format(packets.lines())
        self._http.done_with(answer)
        self.knows_2 = True
        return self._ls_refs(prefixes)

    def _ls_refs(self, prefixes: Sequence[str]) -> Refs:
        answer = self._http.post(ask_refs_2(prefixes), VERSION_2)
        refs = read_refs_2(Packets(answer.read, self._most_refs))
        self._http.done_with(answer)
        return refs

    def fetch(self, wants: Sequence[str], haves: Iterable[str]) -> Iterator[bytes]:
        if self.knows_2:
            answer = self._http.post(ask_pack_2(wants, haves), VERSION_2)
            yield from read_pack_2(Packets(answer.read, self._most_refs), self._most_pack)
        else:
            answer = self._http.post(ask_pack_0(wants, haves, self._able), {})
            yield from read_pack_0(Packets(answer.read, self._most_refs), self._most_pack, self._able, answer.read)

    def close(self) -> None:
        self._http.close()


# ── over a stream ──


class OverStream:
    """ssh and git://: one conversation, refs first, then at most one pack."""

    def __init__(self, stream: Stream, most_refs: int, most_pack: int) -> None:
        self._stream = stream
        self._most_pack = most_pack
        self._most_refs = most_refs
        self._packets = Packets(stream.reader.read, most_refs, stream.why)
        self._able: set[bytes] | None = None  # None: version 2
        self.spent = False  # a pack was asked for: the remote hears nothing more

    def refs(self, prefixes: Sequence[str]) -> Refs:
        self._flush()
        text = self._packets.next()
        if text is not None and text.rstrip(b"\n") == b"version 2":
            _check_format(self._packets.lines())
            self._say(ask_refs_2(prefixes))
            return read_refs_2(self._packets)
        if text is not None and text.rstrip(b"\n") == b"version 1":
            text = self._packets.next()
        refs, self._able = read_refs_0(self._packets, text)
        return only(refs, prefixes)

    def fetch(self, wants: Sequence[str], haves: Iterable[str]) -> Iterator[bytes]:
        self._packets.allow(self._most_refs)
        self.spent = True
        if self._able is None:
            self._say(ask_pack_2(wants, haves))
            yield from read_pack_2(self._packets, self._most_pack)
        else:
            self._say(ask_pack_0(wants, haves, self._able))
            yield from read_pack_0(self._packets, self._most_pack, self._able, self._stream.reader.read)

    def _say(self, text: bytes) -> None:
        try:
            self._stream.writer.write(text)
        except OSError:
            raise self._stream.why() from None
        self._flush()

    def _flush(self) -> None:
        try:
            self._stream.writer.flush()
        except OSError:
            raise self._stream.why() from None

    def close(self) -> None:
        self._stream.close()
