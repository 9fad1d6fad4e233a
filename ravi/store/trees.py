"""Git trees: what a folder holds, as bytes and as names; and which names may be in one at all."""

import re
from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ravi.errors import Malformed

FILE, EXECUTABLE, LINK, FOLDER, SUBMODULE = 0o100644, 0o100755, 0o120000, 0o040000, 0o160000
EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"

_ROW = re.compile(rb"([0-7]+) ([^\0]+)\0(.{20})", re.DOTALL)
_MODES = {b"100644": FILE, b"100755": EXECUTABLE, b"120000": LINK, b"40000": FOLDER, b"160000": SUBMODULE}
_WRITTEN = {mode: text for text, mode in _MODES.items()}
_WIDE = 4096  # bytes; the parsed form of a tree is six times as large as the tree, so only a few wide ones keep it
_IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")  # HFS+ does not see these


class TreeEntry(NamedTuple):
    """What a name stands for in a tree."""

    mode: int
    oid: str

    @property
    def is_folder(self) -> bool:
        return self.mode == FOLDER

    @property
    def is_file(self) -> bool:
        """True for a regular file, executable or not; not for a link or a submodule."""
        return self.mode & 0o170000 == 0o100000


_Rows = dict[bytes, tuple[bytes, bytes]]  # name -> mode and oid, as they are written


class Tree:
    """A tree object, parsed as far as it was asked for. It never changes; `changed` makes another one."""

    __slots__ = ("_entries", "_rows", "oid", "raw")

    def __init__(self, raw: bytes, oid: str = "") -> None:
        self.raw = raw
        self.oid = oid  # "" until it is put
        self._rows: _Rows | None = None
        self._entries: dict[str, TreeEntry] | None = None

    def get(self, name: str) -> TreeEntry | None:
        """What a name stands for here."""
        row = self._parsed().get(name.encode("utf-8", "surrogateescape"))
        return row and TreeEntry(_MODES.get(row[0]) or int(row[0], 8), row[1].hex())

    def entries(self) -> Mapping[str, TreeEntry]:
        """All of it by name, in git's order."""
        entries = self._entries
        if entries is None:
            modes, make = _MODES, TreeEntry
            entries = self._entries = {
                name.decode("utf-8", "surrogateescape"): make(modes.get(mode) or int(mode, 8), oid.hex())
                for mode, name, oid in _ROW.findall(self.raw)
            }
            self._note()
        return entries

    def changed(self, name: str, now: TreeEntry | None) -> "Tree":
        """This tree with one name standing for something else, or gone.

        Only the bytes of that entry are made anew, so that a wide tree stays cheap.
        """
        key = name.encode("utf-8", "surrogateescape")
        rows = self._parsed()
        was = rows.get(key)
        new = None if now is None else (_mode(now.mode, name), bytes.fromhex(now.oid))
        if was is not None and new is not None and _place(key, was) == _place(key, new):
            return self._with(key, was, _row(key, new), {**rows, key: new})
        if was is not None:
            left = {other: row for other, row in rows.items() if other != key}
            without = self._with(key, was, b"", left)
            return without if now is None else without.changed(name, now)
        if new is None:
            return self
        place = _place(key, new)
        after = next(((other, row) for other, row in rows.items() if _place(other, row) > place), None)
        if after is None:
            return Tree(self.raw + _row(key, new))
        return self._with(*after, _row(key, new) + _row(*after), None)

    def _with(self, key: bytes, row: tuple[bytes, bytes], text: bytes, rows: _Rows | None) -> "Tree":
        """The tree in which `text` takes the place of a row; `rows` is its parsed form, when that is at hand."""
        old = _row(key, row)
        if self.raw.count(old) == 1:
            tree = Tree(self.raw.replace(old, text))
        else:  # an oid can look like a row: all of it is put together again
            parts = (text if other == key else _row(other, one) for other, one in self._parsed().items())
            tree = Tree(b"".join(parts))
        if rows is not None:
            tree._rows = rows
            tree._note()
        return tree

    def _parsed(self) -> _Rows:
        rows = self._rows
        if rows is None:
            rows = self._rows = {name: (mode, oid) for mode, name, oid in _ROW.findall(self.raw)}
            self._note()
        return rows

    def forget(self) -> None:
        """Let go of the parsed form; it is made again when asked for."""
        self._rows = self._entries = None

    def _note(self) -> None:
        """Of the wide trees only those parsed last stay so."""
        if len(self.raw) > _WIDE:
            _parsed_last.append(self)
            if len(_parsed_last) > 48:
                old = _parsed_last.popleft()
                if old is not self:
                    old.forget()


_parsed_last: deque[Tree] = deque()


def render_tree(entries: Iterable[tuple[str, TreeEntry]]) -> bytes:
    """The bytes of a tree with these entries, in any order. Raises Malformed for a name that may not be in one."""
    rows = []
    for name, entry in entries:
        check_path(name, whole=False)
        row = (_mode(entry.mode, name), bytes.fromhex(entry.oid))
        key = name.encode("utf-8", "surrogateescape")
        rows.append((_place(key, row), _row(key, row)))
    return b"".join(text for _, text in sorted(rows))


def check_path(path: str, *, whole: bool = True) -> None:
    """Raise Malformed for a path (or, not `whole`, a name) that git would not check out, or that leads elsewhere."""
    for name in path.split("/") if whole else (path,):
        if name in ("", ".", "..") or "\0" in name or "/" in name or _is_dotgit(name):
            raise Malformed(f"{name!r} may not be a name in a commit", path=path)
    try:
        path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise Malformed("the path is not text", path=path.encode("utf-8", "replace").decode()) from None


def _is_dotgit(name: str) -> bool:
    """True for `.git` in any spelling that some file system takes for it."""
    if name.isascii():
        if name[0] != "." and "~" not in name and "\\" not in name:
            return False
    else:
        name = _IGNORED.sub("", name)
    return any(part.lower().partition(":")[0].rstrip(" .") in (".git", "git~1") for part in name.split("\\"))


def _place(name: bytes, row: tuple[bytes, bytes]) -> bytes:
    """What git sorts by: the name, and for a folder a slash."""
    return name + b"/" if row[0] in (b"40000", b"040000") else name


def _row(name: bytes, row: tuple[bytes, bytes]) -> bytes:
    return b"%b %b\0%b" % (row[0], name, row[1])


def _mode(mode: int, name: str) -> bytes:
    text = _WRITTEN.get(mode)
    if text is None:  # old tools wrote 100664
        if mode & 0o170000 != 0o100000:
            raise Malformed(f"{mode:o} is not a mode that git knows", path=name)
        text = b"100755" if mode & 0o100 else b"100644"
    return text
