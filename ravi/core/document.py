"""A document: front matter between `---` lines, then a body. Read without trust, edited without touching other bytes.

A file whose name ends in `.yaml` or `.yml` is front matter from its first line to its last. `parse` looks, `edit`
changes the lines it means to, `render` writes a document of ravi's own, `merge_front` joins what two writers did.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from ravi.core import spelling
from ravi.core.front import LIMIT, Entry, quick
from ravi.errors import Malformed

Value = str | int | float | bool | datetime | Sequence[Any] | Mapping[str, Any] | None

BOM = b"\xef\xbb\xbf"
_OPENING = re.compile(rb"---[ \t]*(?:\r?\n|\Z)")
_CLOSING = re.compile(rb"^---[ \t]*\r?(?:\n|\Z)", re.MULTILINE)
_MARKER = re.compile(rb"^(?:<{7}|={7}|>{7}|\|{7})(?:[ \r\n]|\Z)", re.MULTILINE)
_BLOCK_HEADER = re.compile(r"[|>][-+0-9]*")
_UNIONS = frozenset({"labels", "depends_on", "links", "report_to", "tags"})  # lists that two writers may both add to
_YAML = (".yaml", ".yml")
_ABSENT: Any = object()


class Conflicted(Malformed):
    """The file has conflict markers: it can be repaired, and until then nothing acts on it."""

    code = "conflicted"


class Document(NamedTuple):
    """One file, read. Values are text, whole numbers, flags, None, lists and mappings; see `core.front` for which."""

    front: Mapping[str, Any]
    body: str = ""
    lines: Mapping[str, int] = MappingProxyType({})  # where each key stands in the file
    body_line: int = 1  # where the body begins in the file


class Merged(NamedTuple):
    """`theirs` with what only `ours` changed; `conflicts` names the keys that both changed, differently."""

    data: bytes
    conflicts: tuple[str, ...]


class _Fences(NamedTuple):
    """Where the front matter's text begins and ends, and where the body begins."""

    start: int
    end: int
    body: int
    line: int  # the file's line that `start` is on


def parse(data: bytes, path: str = "") -> Document:
    """Read a document. Raises Malformed with path, line and key; Conflicted when git left its markers in it."""
    fences = _fences(data, path)
    if fences is None:
        return Document({}, _text(data, 3 if data.startswith(BOM) else 0, len(data), path))
    entries, _ = _entries(data, fences, path)
    return Document(
        {entry.key: entry.value for entry in entries},
        _text(data, fences.body, len(data), path),
        {entry.key: entry.line for entry in entries},
        data.count(b"\n", 0, fences.body) + 1,
    )


def parse_yaml(data: bytes, path: str = "") -> Mapping[str, Any]:
    """The keys of a file that is YAML from its first line to its last, such as ravi.yaml."""
    return parse(data, path if path.endswith(_YAML) else path + ".yaml").front


def split(data: bytes, path: str = "") -> tuple[bytes, bytes]:
    """The front matter with its fences (and BOM), and the body; together they are `data`."""
    fences = _fences(data, path)
    at = fences.body if fences else 3 if data.startswith(BOM) else 0
    return data[:at], data[at:]


def conflict_line(data: bytes) -> int:
    """The line where the first complete set of git's conflict markers begins, or 0."""
    return next((hunk.start + 1 for hunk in _hunks(data.splitlines(keepends=True))), 0) if b"<<<<<<<" in data else 0


def sides(data: bytes) -> tuple[bytes, bytes]:
    """The two texts that a file with conflict markers stands for: as the first side has it, as the second has it."""
    lines = data.splitlines(keepends=True)
    first, second, at = b"", b"", 0
    for hunk in _hunks(lines):
        shared = b"".join(lines[at : hunk.start])
        first += shared + b"".join(lines[hunk.start + 1 : hunk.base])
        second += shared + b"".join(lines[hunk.middle + 1 : hunk.end])
        at = hunk.end + 1
    shared = b"".join(lines[at:])
    return first + shared, second + shared


class _Hunk(NamedTuple):
    """The lines of one conflict's markers; `base` is the middle where git shows no base."""

    start: int
    base: int
    middle: int
    end: int


def _hunks(lines: Sequence[bytes]) -> Iterator[_Hunk]:
    """The complete sets of conflict markers, in one pass."""
    start = base = middle = -1
    for at, line in enumerate(lines):
        sign = line[:7] if line[7:8] in (b"", b" ", b"\r", b"\n") else b""
        if sign == b"<<<<<<<":
            start, base, middle = at, -1, -1
        elif sign == b"|||||||" and start >= 0 > middle:
            base = at
        elif sign == b"=======" and start >= 0 > middle:
            middle = at
        elif sign == b">>>>>>>" and middle >= 0:
            yield _Hunk(start, middle if base < 0 else base, middle, at)
            start = base = middle = -1


def render(front: Mapping[str, Value], body: str = "") -> bytes:
    """A new document, keys in the order given, None left out; one empty line before the body, one line end after it.

    What no text file can hold (a NUL, half a letter) becomes U+FFFD: it never fails for what an agent printed.
    """
    wanted = {name: spelling.model(value) for name, value in front.items() if value is not None}
    text = "\n".join(["---", *(line for name, value in wanted.items() for line in _lines(name, value)), "---", ""])
    if body:
        body = spelling.clean(body)
        text += ("" if body.startswith(("\n", "\r\n")) else "\n") + body + ("" if body.endswith("\n") else "\n")
    return _checked(_bytes(text), wanted, "")


def edit(data: bytes, changes: Mapping[str, Value], body: str | None = None, *, path: str = "") -> bytes:
    """`data` with these keys changed (None removes) and no other line touched; a new key comes last.

    A file without front matter gets one. The result is read again: unless it says exactly what was meant, and all the
    rest as before, Malformed is raised and there is nothing to write.
    """
    fences = _fences(data, path)
    if fences is None:
        return _begun(data, changes, body, path)
    entries, is_flow = _entries(data, fences, path)
    before = {entry.key: entry.value for entry in entries}
    wanted = {name: None if value is None else spelling.model(value) for name, value in changes.items()}
    after = {name: value for name, value in {**before, **wanted}.items() if wanted.get(name, _ABSENT) is not None}
    text = _text(data, fences.start, fences.end, path)
    newline = "\r\n" if data[: fences.start].endswith(b"\r\n") or (fences.line == 1 and "\r\n" in text) else "\n"
    rest = data[fences.body :]
    if body is not None:
        rest = _bytes(body if "\r" in body else body.replace("\n", newline))
        if rest and fences.body == len(data) and not data.endswith(b"\n"):  # the fence was the last line
            rest = _bytes(newline) + rest
    head, tail = data[: fences.start], data[fences.end : fences.body] + rest
    if is_flow:
        return _checked(head + _bytes(_reflowed(text, before, after, newline, path)) + tail, after, path)
    try:
        return _checked(head + _bytes(_spliced(text, entries, after, newline)) + tail, after, path)
    except Malformed:  # text over several lines does not go everywhere: not above an indented comment, say
        return _checked(head + _bytes(_spliced(text, entries, after, newline, on_one_line=True)) + tail, after, path)


def merge_front(base: bytes, ours: bytes, theirs: bytes, prefer: str | None = None, *, path: str = "") -> Merged:
    """Three-way merge by key: the text of `theirs`, body included, with what only `ours` changed.

    A key's lines go as they are, comments above it included. Where both changed a key differently `prefer` (`ours` or
    `theirs`; None is `theirs`) decides and the key is named; labels and the like are joined, the later `updated` wins.
    """
    was, mine, yours = (_Pieces(side, path) for side in (base, ours, theirs))
    merge = _Merge(prefer)
    changes: dict[str, Any] = {}  # of `theirs`; _ABSENT where a key goes
    lines: dict[str, str] = {}  # keys that only `ours` changed go with their lines, comments and all
    for name in [*yours.values, *(name for name in mine.values if name not in yours.values)]:
        if mine.lines.get(name) == was.lines.get(name):
            continue
        if yours.lines.get(name) == was.lines.get(name):
            changes[name] = mine.values.get(name, _ABSENT)
            lines |= {name: mine.lines[name]} if name in mine.lines else {}
            continue
        base_value, our_value, their_value = (side.said(name) for side in (was, mine, yours))
        if not _alike(value := merge.value(name, base_value, our_value, their_value), their_value):
            changes[name] = value
    wanted = {name: value for name, value in {**yours.values, **changes}.items() if value is not _ABSENT}
    try:
        data = _checked(yours.with_lines(lines, changes, list(mine.lines)), wanted, path)
    except Malformed:  # laid out in ways that do not fit together: by value then
        data = edit(theirs, {name: wanted.get(name) for name in changes}, path=path)
    return Merged(data, tuple(merge.conflicts))


class _Merge:
    """Three-way merge of values; it remembers where it had to take a side."""

    def __init__(self, prefer: str | None) -> None:
        self.prefer = prefer
        self.conflicts: list[str] = []

    def value(self, name: str, base: Any, ours: Any, theirs: Any) -> Any:
        """What a key says that both sides may have changed; _ABSENT where it is gone."""
        if _alike(ours, theirs) or _alike(ours, base):
            return theirs
        if _alike(theirs, base):
            return ours
        if name.partition(".")[0] in _UNIONS and isinstance(ours, list) and isinstance(theirs, list):
            old = base if isinstance(base, list) else []
            kept = [entry for entry in theirs if entry in ours or entry not in old]
            return kept + [entry for entry in ours if entry not in old and entry not in kept]
        if isinstance(ours, dict) and isinstance(theirs, dict):
            return self.mapping(name, base if isinstance(base, dict) else {}, ours, theirs)
        if name == "updated" and isinstance(ours, str) and isinstance(theirs, str):
            return max(ours, theirs)
        self.conflicts.append(name)
        return ours if self.prefer == "ours" else theirs

    def mapping(self, name: str, *sides: Mapping[str, Any]) -> dict[str, Any]:
        """A mapping that both sides changed, key by key."""
        _, ours, theirs = sides
        joined = {
            key: self.value(f"{name}.{key}", *(side.get(key, _ABSENT) for side in sides))
            for key in [*theirs, *(key for key in ours if key not in theirs)]
        }
        return {key: value for key, value in joined.items() if value is not _ABSENT}


def _begun(data: bytes, changes: Mapping[str, Value], body: str | None, path: str) -> bytes:
    """An edit of a file that has no front matter yet."""
    _text(data, 0, len(data), path)
    start = 3 if data.startswith(BOM) else 0
    if not any(value is not None for value in changes.values()):
        return data if body is None else data[:start] + _bytes(body)
    newline = b"\r\n" if data.partition(b"\n")[0].endswith(b"\r") else b"\n"
    return edit(data[:start] + (b"---" + newline) * 2 + data[start:], changes, body, path=path)


class _Pieces:
    """Front matter cut into the lines of each key: its own, and the comments and blank lines above it."""

    def __init__(self, data: bytes, path: str) -> None:
        fences = _fences(data, path)
        self.data, self.fences, self.path = data, fences, path
        self.values: dict[str, Any] = {}
        self.raw: dict[str, str] = {}
        self.lines: dict[str, str] = {}  # with `\n`, whatever the file has, so that sides can be compared
        self.text = _text(data, fences.start, fences.end, path) if fences else ""
        self.newline = "\r\n" if "\r\n" in self.text else "\n"
        at = 0
        for entry in _entries(data, fences, path)[0] if fences else ():
            end = _line_end(self.text, entry.end)
            self.values[entry.key] = entry.value
            self.raw[entry.key] = self.text[at:end]
            self.lines[entry.key] = self.text[at:end].replace("\r\n", "\n")
            at = end
        self.rest = self.text[at:]

    def said(self, name: str) -> Any:
        """The value of a key; a key with nothing after it says as much as none."""
        value = self.values.get(name)
        return _ABSENT if value is None else value

    def with_lines(self, lines: Mapping[str, str], changes: Mapping[str, Any], order: list[str]) -> bytes:
        """This side's file with `lines` of the other put in (new ones where its `order` has them), `changes` made."""
        edits = {name: None if value is _ABSENT else value for name, value in changes.items() if name not in lines}
        if self.fences is None or not lines:
            return edit(self.data, {name: changes[name] for name in lines} | edits, path=self.path)
        pieces = {**self.raw, **{name: text.replace("\n", self.newline) for name, text in lines.items()}}
        names = list(self.raw)
        for name in (name for name in order if name in lines and name not in self.raw):
            before = [other for other in order[: order.index(name)] if other in names]
            names.insert(names.index(before[-1]) + 1 if before else len(names), name)
        text = "".join(pieces[name] for name in names) + self.rest
        joined = self.data[: self.fences.start] + _bytes(text) + self.data[self.fences.end :]
        return edit(joined, edits, path=self.path)


def _alike(one: Any, other: Any) -> bool:
    """The same value, or both none."""
    return one is other or (one is not _ABSENT and other is not _ABSENT and spelling.same(one, other))


def _fences(data: bytes, path: str) -> _Fences | None:
    """Where the front matter lies; None when there is none."""
    start = 3 if data.startswith(BOM) else 0
    if b"\0" in data:
        at = data.index(b"\0")
        raise Malformed(f"holds a NUL (byte {at})", path=path, line=data.count(b"\n", 0, at) + 1)
    if path.endswith(_YAML):
        return _Fences(start, len(data), len(data), 1)
    opening = _OPENING.match(data, start)
    if opening is None:
        if data.startswith(b"<<<<<<< ", start) and (line := conflict_line(data)):
            raise _conflicted(path, line)
        if data.startswith(b"---\r", start):
            raise Malformed("line ends are bare carriage returns; save it with LF or CRLF", path=path, line=1)
        return None
    closing = _CLOSING.search(data, opening.end())
    if closing is None:
        if line := conflict_line(data):
            raise _conflicted(path, line)
        hint = "close it with a line of `---`; a rule at the top of a text is written `***`"
        raise Malformed("the front matter that opens here has no end", path=path, line=1, hint=hint)
    return _Fences(opening.end(), closing.start(), closing.end(), 2)


def _entries(data: bytes, fences: _Fences, path: str) -> tuple[list[Entry], bool]:
    """The entries of the front matter, and whether it is one `{…}`."""
    if fences.end - fences.start > LIMIT:
        raise Malformed(
            f"front matter of {fences.end - fences.start} bytes; {LIMIT} are allowed", path=path, line=fences.line
        )
    text = _text(data, fences.start, fences.end, path)
    entries = quick(text, fences.line)
    if entries is not None:
        return entries, False
    if marker := _MARKER.search(data, fences.start, fences.end):
        raise _conflicted(path, data.count(b"\n", 0, marker.start()) + 1)
    from ravi.core import yaml_guard  # costs 20 ms, and most documents do without

    return yaml_guard.entries(text, fences.line, path)


def _conflicted(path: str, line: int) -> Conflicted:
    hint = "keep one side of each pair, remove the <<<<<<< ======= >>>>>>> lines, and save"
    return Conflicted("has conflict markers", path=path, line=line, hint=hint)


def _text(data: bytes, start: int, end: int, path: str) -> str:
    try:
        return data[start:end].decode()
    except UnicodeDecodeError as fault:
        at = start + fault.start
        raise Malformed(
            f"is not UTF-8: byte 0x{data[at]:02X} at {at}",
            path=path,
            line=data.count(b"\n", 0, at) + 1,
            hint="save it as UTF-8",
        ) from None


def _bytes(text: str) -> bytes:
    return spelling.clean(text).encode()


_Splice = tuple[int, str, int]  # from here, this text, up to there


def _spliced(
    text: str, entries: list[Entry], after: Mapping[str, Any], newline: str, *, on_one_line: bool = False
) -> str:
    """`text` with the lines changed that must change for it to say `after`."""
    ended = text.endswith("\n") or not text
    text += "" if ended else newline
    splices = sorted(_splices(text, entries, after, newline, on_one_line=on_one_line), key=lambda splice: splice[0])
    for start, new, end in reversed(splices):
        text = text[:start] + new + text[end:]
    return text if ended else text.removesuffix(newline)


def _splices(
    text: str, entries: list[Entry], after: Mapping[str, Any], newline: str, *, on_one_line: bool
) -> Iterator[_Splice]:
    """What to cut out and put in."""
    indent = entries[0].start - _line_start(text, entries[0].start) if entries else 0
    for entry in entries:
        value = after.get(entry.key, _ABSENT)
        if _alike(value, entry.value):
            continue
        if entry.colon < 0:
            raise Malformed("is written in a way that cannot be edited", line=entry.line, key=entry.key)
        if value is _ABSENT:
            yield _line_start(text, entry.start), "", _line_end(text, entry.end)
        else:
            yield from _replaced(text, entry, value, newline, on_one_line=on_one_line)
    known = {entry.key for entry in entries}
    added = [(name, value) for name, value in after.items() if name not in known]
    lines = [line for name, value in added for line in _lines(name, value, on_one_line=on_one_line)]
    yield len(text), "".join((" " * indent if line else "") + line + newline for line in lines), len(text)


def _replaced(text: str, entry: Entry, value: Any, newline: str, *, on_one_line: bool) -> Iterator[_Splice]:
    """The splices that put `value` in the place of an entry's, leaving the comments on the key's line."""
    indent = entry.start - _line_start(text, entry.start)
    key_end, last_end = _line_end(text, entry.colon), _line_end(text, entry.end)
    if entry.items and isinstance(value, list) and value:
        yield _relisted(text, entry, value, newline)
        return
    head, below = spelling.spell(value, indent=indent, style=entry.style, on_one_line=on_one_line)
    lines = "".join(line + newline for line in below)
    if entry.head >= key_end:  # the old value stands on the lines below the key
        yield entry.colon, head and " " + head, entry.colon
        yield _line_start(text, entry.head), lines, last_end
        return
    gap = text[entry.colon : entry.head] or " "
    header = _BLOCK_HEADER.match(text, entry.head) if entry.style in ("|", ">") else None
    old_end = header.end() if header else entry.end
    after = " " if text[old_end : old_end + 1] == "#" else ""  # `[a]# note` is a comment, `a# note` is not
    yield entry.colon, gap + head + after if head else after, old_end
    yield key_end if header else last_end, lines, last_end


def _relisted(text: str, entry: Entry, value: list[Any], newline: str) -> _Splice:
    """A block list with other items: the lines of those that stay are kept as they are, comments included."""
    starts = [_line_start(text, start) for start, _ in entry.items]
    ends = [*starts[1:], _line_end(text, entry.end)]
    pad = " " * (entry.items[0][0] - starts[0])
    old = [(known, text[start:end]) for known, start, end in zip(entry.value, starts, ends, strict=True)]
    lines = ""
    for new in value:
        at = next((n for n, (known, _) in enumerate(old) if spelling.same(known, new)), None)
        lines += f"{pad}- {spelling.one_line(new)}{newline}" if at is None else old.pop(at)[1]
    return starts[0], lines, ends[-1]


def _lines(name: str, value: Any, *, on_one_line: bool = False) -> list[str]:
    head, below = spelling.spell(value, indent=0, on_one_line=on_one_line)
    return [f"{spelling.key(name)}:{head and ' ' + head}", *below]


def _reflowed(text: str, before: Mapping[str, Any], after: Mapping[str, Any], newline: str, path: str) -> str:
    """Front matter that is one `{…}` is one value, and is written anew as lines; its comments would be lost, so no."""
    if _alike(before, after):
        return text
    if "#" in text:
        raise Malformed("front matter in braces with a `#` is not edited; write `key: value` lines", path=path, line=1)
    return "".join(line + newline for name, value in after.items() for line in _lines(name, value))


def _line_start(text: str, at: int) -> int:
    return text.rfind("\n", 0, at) + 1


def _line_end(text: str, at: int) -> int:
    found = text.find("\n", at)
    return len(text) if found < 0 else found + 1


def _checked(data: bytes, wanted: Mapping[str, Any], path: str) -> bytes:
    """`data`, if it says what was meant; bytes that do not are never handed out."""
    front = parse(data, path).front
    for name in {**wanted, **front}:
        if not _alike(front.get(name, _ABSENT), wanted.get(name, _ABSENT)):
            message = "cannot be changed here without changing something else; edit it by hand"
            raise Malformed(message, path=path, key=name)
    return data
