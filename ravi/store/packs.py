"""Packs: how new objects come to lie in the repository, durable, and how many small packs become one.

A pack of ours holds whole objects, never deltas; git's own repacking makes those. Nothing here removes an object
that is not, durable, somewhere else.
"""

import contextlib
import os
import re
import struct
import time
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate, pairwise

from ravi.store.durable import hurry, sync, sync_folder, write_all
from ravi.store.locks import Lock

FOLD_ABOVE = 32  # so many small packs may lie there; git's own limit, where `git gc --auto` begins, is 50
FOLD_LIMIT = 16 << 20  # bytes; a pack this large, or of this many objects, is left to git
_FOLD_OBJECTS = 100_000
_HEAD = 12  # bytes before the first object of a pack
_PREFIX = ".ravi-"  # not tmp_: `git prune` takes away what begins so, however young
_ABANDONED = 600.0  # seconds after which a temporary file, or a mark, of ours has no living maker
_OTHERS = (".keep", ".bitmap", ".promisor", ".mtimes", ".rev")  # a pack that has one of these is git's affair
_MIDX = "multi-pack-index"
_NAME = re.compile(r"pack-[0-9a-f]{40}\Z")
_KINDS = {"commit": 1, "tree": 2, "blob": 3, "tag": 4}
_count = iter(range(1 << 62))


def entry(kind: str, data: bytes) -> bytes:
    """An object as it lies in a pack: kind and size, then the bytes deflated."""
    import zlib

    size = len(data)
    head = bytearray([_KINDS[kind] << 4 | size & 15])
    size >>= 4
    while size:
        head[-1] |= 128
        head.append(size & 127)
        size >>= 7
    # a window and tables no larger than needed: zlib spends 50 µs on clearing the usual ones, 5 on a small object
    window, memory = (12, 6) if len(data) < 1 << 12 else (13, 8) if len(data) < 1 << 16 else (15, 8)
    deflate = zlib.compressobj(1, zlib.DEFLATED, window, memory)
    return bytes(head) + deflate.compress(data) + deflate.flush()


def write(folder: str, objects: Sequence[tuple[bytes, bytes]], *, mode: int = 0o444) -> str:
    """Put (oid, entry) pairs into one new pack, durable when this returns. Answers its path without the suffix.

    The pack bears a `.keep`, so that a repack which runs meanwhile does not drop what no ref names yet; take it
    away with `release` when the ref is written. After a fault nothing of it can be seen.
    """
    import zlib

    sizes = [len(packed) for _, packed in objects]
    offsets = accumulate(sizes, initial=_HEAD)
    table = [(oid, zlib.crc32(packed), offset) for (oid, packed), offset in zip(objects, offsets, strict=False)]
    return _written(folder, [packed for _, packed in objects], table, mode)


def release(path: str) -> None:
    """Let git repack what `write` answered: a ref names it now."""
    with contextlib.suppress(OSError):  # else it is swept some day
        os.unlink(path + ".keep")


def names(folder: str) -> list[str]:
    """What lies in the folder of packs."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def count(present: Iterable[str]) -> int:
    """How many packs there are, of any size."""
    return sum(name.endswith(".idx") for name in present)


def sweep(folder: str, present: Iterable[str]) -> None:
    """Remove what a killed process of ours left behind: temporary files, marks, an index without its pack."""
    before = time.time() - _ABANDONED
    there = set(present)
    for name in there:
        path = os.path.join(folder, name)
        with contextlib.suppress(OSError):
            if name.startswith(_PREFIX):
                if os.stat(path).st_mtime < before:
                    os.unlink(path)
            elif name.endswith(".keep"):
                if os.stat(path).st_mtime < before and _is_our_mark(path):
                    os.unlink(path)
            elif name.endswith(".idx") and f"{name[:-4]}.pack" not in there and os.stat(path).st_mtime < before:
                os.unlink(path)


def mend(folder: str, present: Collection[str]) -> None:
    """Remove git's index over many packs when it names one that is gone: it was written while we folded.

    Git looks into the packs themselves without it, and removes it likewise when it repacks.
    """
    if _MIDX not in present:
        return
    there = set(names(folder))
    if any(stem + ".idx" not in there for stem in _named_together(folder)):
        for name in there:
            if name == _MIDX or name.startswith(f"{_MIDX}-"):  # its bitmap and its reverse index
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(folder, name))


def fold(folder: str, lock: Lock, refused: set[str], *, mode: int = 0o444) -> int:
    """Make one pack of many small ones, and answer how many it replaced. `refused` collects those that cannot be.

    Sizes grow geometrically, so that an object is copied only a few times in its life. The new pack is durable
    before the first old one goes; whoever looks in between finds every object at least once.
    """
    if not lock.try_acquire():
        return 0  # somebody is at it
    try:
        chosen = _chosen(folder, refused)
        if not chosen:
            return 0
        old, pieces, table = _merged(chosen, refused)
        if len(old) < 2:
            return 0
        new = _written(folder, pieces, table, mode)
        pieces.clear()
        for path in old:
            if path == new:
                continue
            # the pack first: an index alone is what `git gc` cleans up, should we die in between
            for suffix in (".pack", ".idx"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path + suffix)
        release(new)
        return len(old)
    finally:
        lock.release()


def _merged(
    chosen: Iterable[str], refused: set[str]
) -> tuple[list[str], list[bytes | memoryview], list[tuple[bytes, int, int]]]:
    """The packs that can be folded, what of them to copy one after the other, and (oid, crc, offset) of the whole."""
    old: list[str] = []
    pieces: list[bytes | memoryview] = []
    table: list[tuple[bytes, int, int]] = []
    seen: set[bytes] = set()
    at = _HEAD
    for path in chosen:
        whole = _whole(path)
        if whole is None:
            refused.add(path)
            continue
        old.append(path)
        pack, rows = whole
        start = copied = _HEAD  # of the stretch to copy: objects that are new to us and lie side by side
        for oid, crc, begin, end in rows:
            if oid in seen:
                pieces.append(pack[start:begin])
                start = end
                continue
            seen.add(oid)
            table.append((oid, crc, at))
            at += end - begin
            copied = end
        pieces.append(pack[start : max(copied, start)])
    return old, pieces, table


def _chosen(folder: str, refused: set[str]) -> list[str]:
    """The packs to fold: all but the largest ones that are each twice as large as all smaller ones together."""
    present = set(names(folder))
    if f"{_MIDX}.d" in present:  # a chain of them: whoever set that up lets git do the repacking
        return []
    named = _named_together(folder) if _MIDX in present else ()
    sizes: list[tuple[int, str]] = []
    for name in present:
        stem, suffix = os.path.splitext(name)
        if suffix != ".pack" or not _NAME.match(stem):  # `.tmp-1234-pack-…` is a repack at work
            continue
        if stem + ".idx" not in present or stem in named or any(stem + other in present for other in _OTHERS):
            continue
        path = os.path.join(folder, stem)
        if path in refused:
            continue
        with contextlib.suppress(FileNotFoundError):
            size = os.stat(path + ".pack").st_size
            if size < FOLD_LIMIT:
                sizes.append((size, path))
    if len(sizes) <= FOLD_ABOVE:
        return []
    sizes.sort(reverse=True)
    smaller = sum(size for size, _ in sizes)
    for kept, (size, _) in enumerate(sizes):
        smaller -= size
        if size < 2 * smaller:
            return [path for _, path in sizes[kept:]]
    return []


def _whole(path: str) -> tuple[memoryview, list[tuple[bytes, int, int, int]]] | None:
    """A pack and its objects as (oid, crc, begin, end), in the order in which they lie there.

    None when it went away, is damaged, holds deltas, or too much.
    """
    try:
        with open(path + ".idx", "rb") as file:
            idx = file.read(8 + 1024 + _FOLD_OBJECTS * 28 + 40)
        with open(path + ".pack", "rb") as file:
            pack = file.read()
    except FileNotFoundError:
        return None
    if idx[:8] != b"\377tOc\0\0\0\2" or pack[:8] != b"PACK\0\0\0\2" or idx[-40:-20] != pack[-20:]:
        return None
    if _sha1(pack[:-20]) != pack[-20:]:
        return None
    (count,) = struct.unpack_from(">I", idx, 8 + 255 * 4)
    if count > _FOLD_OBJECTS:
        return None
    oids = 8 + 256 * 4
    crcs = struct.unpack_from(f">{count}I", idx, oids + count * 20)
    offsets = struct.unpack_from(f">{count}I", idx, oids + count * 24)
    order = sorted(range(count), key=offsets.__getitem__)
    ends = [*(offsets[n] for n in order[1:]), len(pack) - 20]
    rows = []
    for n, end in zip(order, ends, strict=True):
        begin = offsets[n]
        if begin >= end or not 1 <= pack[begin] >> 4 & 7 <= 4:
            return None
        rows.append((idx[oids + n * 20 : oids + n * 20 + 20], crcs[n], begin, end))
    return memoryview(pack), rows


def _written(folder: str, pieces: Sequence[bytes | memoryview], table: list[tuple[bytes, int, int]], mode: int) -> str:
    """A new pack of these pieces, and its index of these (oid, crc, offset)."""
    import hashlib  # with OpenSSL, 3 ms: whoever only reads does without

    pack = [b"PACK" + struct.pack(">II", 2, len(table)), *pieces]
    digest = hashlib.sha1(usedforsecurity=False)
    for piece in pack:
        digest.update(piece)
    check = digest.digest()
    files = ((".pack", [*pack, check]), (".idx", [_index(sorted(table), check)]))
    path = os.path.join(folder, f"pack-{check.hex()}")
    temporary = os.path.join(folder, f"{_PREFIX}{os.getpid()}-{next(_count)}")
    made: list[str] = []
    try:
        fds = []
        try:
            for suffix, parts in files:
                made.append(f"{temporary}{suffix}.tmp")  # git takes whatever ends in .idx for an index
                fds.append(os.open(made[-1], os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
                write_all(fds[-1], *parts)
                hurry(fds[-1])
            for fd in fds:  # after both are written: the second finds most of its work done by the first
                sync(fd)
        finally:
            for fd in fds:
                os.close(fd)
        _mark(path)
        made.append(path + ".keep")
        os.rename(temporary + ".pack.tmp", path + ".pack")
        os.rename(temporary + ".idx.tmp", path + ".idx")  # last: from here on git sees the pack
        sync_folder(folder)
    except BaseException:
        for leftover in made:
            with contextlib.suppress(OSError):
                os.unlink(leftover)
        raise
    return path


def _index(table: list[tuple[bytes, int, int]], check: bytes) -> bytes:
    """The index of a pack, version 2, from rows of (oid, crc, offset) in the order of oids."""
    counts = [0] * 256
    for oid, _, _ in table:
        counts[oid[0]] += 1
    number = len(table)
    body = b"".join(
        (
            b"\377tOc\0\0\0\2",
            struct.pack(">256I", *accumulate(counts)),
            *(oid for oid, _, _ in table),
            struct.pack(f">{number}I", *(crc for _, crc, _ in table)),
            struct.pack(f">{number}I", *(offset for _, _, offset in table)),
            check,
        )
    )
    return body + _sha1(body)


def _sha1(data: bytes) -> bytes:
    import hashlib  # with OpenSSL, 3 ms: whoever only reads does without

    return hashlib.sha1(data, usedforsecurity=False).digest()


def _mark(path: str) -> None:
    """Write the `.keep` of a pack that is about to appear."""
    fd = os.open(path + ".keep", os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.write(fd, b"ravi %d\n" % os.getpid())
    finally:
        os.close(fd)


def _is_our_mark(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(5) == b"ravi "


def _named_together(folder: str) -> frozenset[str]:
    """The packs that git's index over many packs covers, by name without a suffix."""
    try:
        with open(os.path.join(folder, _MIDX), "rb") as file:
            head = file.read(12)
            if head[:4] != b"MIDX":
                return frozenset()
            table = file.read(12 * (head[6] + 1))
            chunks = list(struct.iter_unpack(">4sQ", table))
            for (kind, start), (_, end) in pairwise(chunks):
                if kind == b"PNAM":
                    file.seek(start)
                    words = file.read(end - start).split(b"\0")
                    return frozenset(os.path.splitext(os.fsdecode(word))[0] for word in words if word)
    except (FileNotFoundError, struct.error, IndexError):
        pass
    return frozenset()
