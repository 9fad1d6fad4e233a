"""Objects as they lie in the repository, loose and in packs, read without a word to git.

What it does not find, or does not understand, it leaves to git: None is never the last answer.
"""

import contextlib
import os
import re
import struct
from collections.abc import Collection

_KINDS = {1: "commit", 2: "tree", 3: "blob", 4: "tag"}
_BY_OFFSET, _BY_NAME = 6, 7  # two ways for a delta to name what it is based on
_DEEP = 12  # links of a chain of deltas after which git, which remembers the bases, is faster
_WHOLE = 1 << 20  # an index up to this size is kept in memory, a larger one is looked into
_PIECE = 4096
_NAME = re.compile(r"pack-[0-9a-f]{40}\.idx\Z")


class Stored:
    """The objects of a repository as files. Not thread-safe: its owner holds a lock."""

    def __init__(self, common_dir: str) -> None:
        self._folder = os.path.join(common_dir, "objects")
        self._packs: dict[str, _Pack] = {}  # the one used last comes last

    def read(self, oid: str) -> tuple[str, bytes] | None:
        """Kind and bytes of an object; None when git should be asked."""
        try:
            where = self._found(oid)
            return self._loose(oid) if where is None else where[0].read(where[1])
        except (OSError, ValueError, struct.error, IndexError):  # it went, it is damaged, or it is new to us
            return None

    def kind(self, oid: str) -> str | None:
        """The kind of an object; None when git should be asked."""
        try:
            self._list()  # whoever asks for no more than this asks whether it is there
            where = self._found(oid)
            if where is not None:
                return where[0].kind(where[1])
            loose = self._loose(oid)
            return loose and loose[0]
        except (OSError, ValueError, struct.error, IndexError):
            return None

    def keep(self, present: Collection[str]) -> None:
        """Forget the packs that are not `present` in the folder any more: an open file keeps its room on the disk."""
        for name in [name for name in self._packs if name not in present]:
            self._packs.pop(name).close()

    def close(self) -> None:
        """Forget every pack."""
        self.keep(())

    def _found(self, oid: str) -> "tuple[_Pack, int] | None":
        """The pack that holds an object, and where in it. Packs are listed anew when none does."""
        key = bytes.fromhex(oid)
        for name in reversed(self._packs):
            at = self._packs[name].find(key)
            if at is not None:
                pack = self._packs[name] = self._packs.pop(name)
                return pack, at
        for pack in self._list():
            at = pack.find(key)
            if at is not None:
                return pack, at
        return None

    def _list(self) -> "list[_Pack]":
        """Look which packs there are, and answer the new ones."""
        present = set(os.listdir(os.path.join(self._folder, "pack")))
        self.keep(present)
        found = []
        for name in present:
            if name not in self._packs and _NAME.match(name):
                with contextlib.suppress(OSError, ValueError, struct.error):  # gone already, or not one we can read
                    self._packs[name] = _Pack(os.path.join(self._folder, "pack", name[:-4]))
                    found.append(self._packs[name])
        return found

    def _loose(self, oid: str) -> tuple[str, bytes] | None:
        import zlib

        try:
            with open(os.path.join(self._folder, oid[:2], oid[2:]), "rb") as file:
                text = file.read()
        except FileNotFoundError:
            return None
        try:
            head, _, data = zlib.decompress(text).partition(b"\0")
        except zlib.error as fault:
            raise ValueError(oid) from fault
        kind, _, size = head.partition(b" ")
        if int(size) != len(data):
            raise ValueError(oid)
        return kind.decode(), data


class _Pack:
    """One pack and its index."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._pack = self._idx = -1
        self._idx = os.open(path + ".idx", os.O_RDONLY)
        self._text = b""
        size = os.fstat(self._idx).st_size
        head = os.pread(self._idx, size if size <= _WHOLE else 8 + 1024, 0)
        self._fanout = (0, *struct.unpack_from(">256I", head, 8))
        self._count = self._fanout[-1]
        if head[:8] != b"\377tOc\0\0\0\2" or size < 8 + 1024 + self._count * 28 + 40:
            raise ValueError(path)
        if size <= _WHOLE:
            self._text = head
            os.close(self._idx)
            self._idx = -1

    def close(self) -> None:
        for fd in (self._idx, self._pack):
            if fd >= 0:
                os.close(fd)
        self._idx = self._pack = -1

    def __del__(self) -> None:
        self.close()

    def find(self, key: bytes) -> int | None:
        """Where the object with this name begins."""
        first, end = self._fanout[key[0]], self._fanout[key[0] + 1]
        if first == end:
            return None
        oids = self._index(8 + 1024 + first * 20, (end - first) * 20)
        at = oids.find(key)
        while at % 20 > 0:  # across the border of two names; -1 % 20 is 19, so look there too
            if at < 0:
                return None
            at = oids.find(key, at + 1)
        number = first + at // 20
        (offset,) = struct.unpack(">I", self._index(8 + 1024 + self._count * 24 + number * 4, 4))
        if offset >> 31:  # a pack of more than 2 GiB
            place = 8 + 1024 + self._count * 28 + (offset & 0x7FFFFFFF) * 8
            (offset,) = struct.unpack(">Q", self._index(place, 8))
        return int(offset)

    def kind(self, at: int) -> str | None:
        """The kind of the object that begins `at`; a delta is of its base's kind."""
        for _ in range(_DEEP):
            kind, _, base, _ = self._head(at)
            if base is None:
                return _KINDS[kind]
            at = base
        return None

    def read(self, at: int) -> tuple[str, bytes] | None:
        """Kind and bytes of the object that begins `at`."""
        deltas: list[bytes] = []
        for _ in range(_DEEP):
            kind, size, base, text = self._head(at)
            data = self._inflated(at, size, text)
            if base is None:
                for delta in reversed(deltas):
                    data = _patched(data, delta)
                return _KINDS[kind], data
            deltas.append(data)
            at = base
        return None

    def _head(self, at: int) -> tuple[int, int, int | None, tuple[bytes, int]]:
        """Kind, size, base of a delta, and the first bytes with the place where the deflated data begins in them."""
        piece = self._read(at, _PIECE)
        byte = piece[0]
        kind, size, shift, n = byte >> 4 & 7, byte & 15, 4, 1
        while byte & 128:
            byte = piece[n]
            size |= (byte & 127) << shift
            shift += 7
            n += 1
        base: int | None = None
        if kind == _BY_OFFSET:
            byte = piece[n]
            n += 1
            back = byte & 127
            while byte & 128:
                byte = piece[n]
                n += 1
                back = (back + 1) << 7 | byte & 127
            base = at - back
        elif kind == _BY_NAME:
            base = self.find(piece[n : n + 20])
            n += 20
            if base is None:
                raise ValueError(self._path)
        elif kind not in _KINDS:
            raise ValueError(self._path)
        return kind, size, base, (piece, n)

    def _inflated(self, at: int, size: int, text: tuple[bytes, int]) -> bytes:
        import zlib

        piece, n = text
        inflate = zlib.decompressobj()
        try:
            parts = [inflate.decompress(piece[n:])]
            at += len(piece)
            while not inflate.eof and piece:
                piece = self._read(at, max(_PIECE, min(size, 1 << 20)))
                parts.append(inflate.decompress(piece))
                at += len(piece)
        except zlib.error as fault:
            raise ValueError(self._path) from fault
        data = b"".join(parts)
        if len(data) != size:
            raise ValueError(self._path)
        return data

    def _index(self, at: int, size: int) -> bytes:
        return self._text[at : at + size] if self._text else os.pread(self._idx, size, at)

    def _read(self, at: int, size: int) -> bytes:
        if self._pack < 0:
            self._pack = os.open(self._path + ".pack", os.O_RDONLY)
        return os.pread(self._pack, size, at)


def _patched(base: bytes, delta: bytes) -> bytes:
    """What a delta makes of its base: pieces of the base, and pieces it brings along."""
    n, sizes = 0, []
    for _ in range(2):
        size = shift = 0
        while True:
            byte = delta[n]
            n += 1
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        sizes.append(size)
    parts: list[bytes] = []
    end = len(delta)
    while n < end:
        op = delta[n]
        n += 1
        if op & 128:
            start = size = 0
            for bit in range(7):
                if op >> bit & 1:
                    if bit < 4:
                        start |= delta[n] << 8 * bit
                    else:
                        size |= delta[n] << 8 * (bit - 4)
                    n += 1
            size = size or 1 << 16
            parts.append(base[start : start + size])
        else:
            parts.append(delta[n : n + op])
            n += op
    data = b"".join(parts)
    if sizes != [len(base), len(data)]:
        raise ValueError("delta")
    return data
