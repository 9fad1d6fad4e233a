"""Front matter, entry by entry: what one scalar means, and a reader for the plain lines most documents are made of.

YAML 1.2 in spirit, and never behind the author's back: only `true`, `false`, `null`, `~`, nothing at all, and whole
numbers in their one canonical spelling become something else than text. So `on`, `no`, `True`, `1.10`, `007`, `12:30`
and `2026-11-20` stay text as written, and every value can be spelled again exactly as its author did. Where a field
wants a number, a flag or a moment, its table (`core.field`) reads the text.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

LIMIT = 64 * 1024  # bytes of front matter
SCALAR_LIMIT = 32 * 1024  # letters of one value
DEPTH = 32  # lists and mappings in one another
_QUICK_LIMIT = 16 * 1024  # below this no plain document can reach the limits that `yaml_guard` counts

_CONSTANTS: Mapping[str, bool | None] = {"": None, "~": None, "null": None, "true": True, "false": False}
_WHOLE = re.compile(r"(?:0|-?[1-9][0-9]{0,17})\Z")
_NOT_TEXT = (  # what YAML 1.2's core schema would not read as text; such a key needs quotes
    r"|~|null|Null|NULL|true|True|TRUE|false|False|FALSE"
    r"|[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"
    r"|[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_INDICATORS = frozenset("-?:,[]{}#&*!|>'\"%@`")
_KEY = re.compile(r"(?!(?i:true|false|null):)([A-Za-z_][A-Za-z0-9_-]{0,63}):(?= |\Z)")
_FLOW = re.compile(r"\w[\w ./+-]*\Z")


class Entry(NamedTuple):
    """One `key: value` of the front matter: what it says, and where, as offsets into the front matter's text."""

    key: str
    value: Any
    line: int  # of the key, in the file, from 1
    start: int  # where the key begins
    colon: int  # just after the colon; -1 when the key is written in a way that is not edited (`? key`)
    head: int  # where the value begins
    end: int  # just after the value's last letter
    style: str = ""  # "" plain · ' or " quoted · | or > block text · [ or { flow · - block list · : block mapping
    items: tuple[tuple[int, int], ...] = ()  # of a block list: where each item begins (at its dash) and ends


def resolve(text: str) -> bool | int | str | None:
    """The value of the plain scalar `text`."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    return int(text) if _WHOLE.match(text) else text


def is_text(key: str) -> bool:
    """True when the plain scalar `key` is text for every reader of YAML 1.2."""
    return re.fullmatch(_NOT_TEXT, key) is None


def is_plain(text: str) -> bool:
    """True when `text`, printable, not empty and without outer blanks, stands unquoted after `key: `."""
    return text[0] not in _INDICATORS and ": " not in text and " #" not in text and text[-1] != ":"


def quick(text: str, first: int) -> list[Entry] | None:
    """The entries of front matter so plain that no YAML parser is needed, else None; `first` is its line in the file.

    It reads `key: value` from the first column with a plain, quoted or `[a, b]` value, lists of one-line items, `|` and
    `|-` texts, comments and blank lines; exactly as `yaml_guard.entries` does, but faster and without its import.
    """
    if len(text) > _QUICK_LIMIT:
        return None
    entries: list[Entry] = []
    seen: set[str] = set()
    lines = text.split("\n")
    count, offset, at = len(lines), 0, 0
    while at < count:
        line, begin = lines[at].removesuffix("\r"), offset
        offset += len(lines[at]) + 1
        at += 1
        if not line.isprintable():
            return None
        if line[:1] in ("", "#", " "):
            if line.lstrip(" ")[:1] in ("", "#"):
                continue
            return None
        match = _KEY.match(line)
        if match is None or match[1] in seen:
            return None
        key, number, colon = match[1], first + at - 1, match.end()
        seen.add(key)
        value = line[colon:].strip(" ")
        if value[:1] in ("", "#"):
            items = _items(lines, at, offset)
            if items is None:
                return None
            values, spans, at, offset = items
            if values:
                head, end = spans[0][0], spans[-1][1]
                entries.append(Entry(key, values, number, begin, begin + colon, head, end, "-", spans))
            else:
                entries.append(Entry(key, None, number, begin, begin + colon, begin + colon, begin + colon))
            continue
        head = begin + len(line) - len(line[colon:].lstrip(" "))
        if value[0] == "|":
            block = _block(lines, at, offset, value)
            if block is None:
                return None
            content, end, at, offset = block
            entries.append(Entry(key, content, number, begin, begin + colon, head, end, "|"))
            continue
        found = _inline(value)
        if found is None:
            return None
        content, style, length = found
        entries.append(Entry(key, content, number, begin, begin + colon, head, head + length, style))
    return entries


def _inline(value: str) -> tuple[Any, str, int] | None:
    """A value on one line, a trailing comment left out: what it is, its style, its length."""
    first = value[0]
    if first in "\"'":
        inner = value[1:-1]
        if len(value) < 2 or value[-1] != first or first in inner or (first == '"' and "\\" in inner):
            return None
        return inner, first, len(value)
    if first == "[":
        if value[-1] != "]":
            return None
        inner = value[1:-1].strip(" ")
        parts = [part.strip(" ") for part in inner.split(",")] if inner else []
        if not all(_FLOW.match(part) for part in parts):
            return None
        return [resolve(part) for part in parts], "[", len(value)
    if " #" in value:
        value = value[: value.index(" #")].rstrip(" ")
    return (resolve(value), "", len(value)) if is_plain(value) else None


_Items = tuple[list[Any], tuple[tuple[int, int], ...], int, int]


def _items(lines: list[str], at: int, offset: int) -> _Items | None:
    """The block list that starts at line `at`, or an empty one; then where to go on."""
    values: list[Any] = []
    spans: list[tuple[int, int]] = []
    indent, stop = -1, (at, offset)
    while at < len(lines):
        line = lines[at].removesuffix("\r")
        bare = line.lstrip(" ")
        if bare[:1] in ("", "#"):
            if not line.isprintable():
                return None
        elif bare.startswith("- ") and indent in (-1, len(line) - len(bare)):
            indent = len(line) - len(bare)
            found = _inline(item) if line.isprintable() and (item := bare[2:].strip(" ")) else None
            if found is None or found[1] == "[":
                return None
            start = offset + indent + len(bare) - len(bare[2:].lstrip(" "))
            values.append(found[0])
            spans.append((offset + indent, start + found[2]))
            stop = (at + 1, offset + len(lines[at]) + 1)
        else:
            break
        offset += len(lines[at]) + 1
        at += 1
    return values, tuple(spans), *stop


def _block(lines: list[str], at: int, offset: int, header: str) -> tuple[str, int, int, int] | None:
    """The `|` or `|-` text that starts at line `at`: what it says, where it ends, where to go on."""
    if header not in ("|", "|-"):
        return None
    content: list[str] = []
    indent, end, stop = 0, 0, (at, offset)
    while at < len(lines):
        line = lines[at].removesuffix("\r")
        bare = line.lstrip(" ")
        pad = len(line) - len(bare)
        if not line.isprintable() or (pad and not bare) or (bare and not content and not pad):
            return None
        if not bare and not content:
            return None  # blank lines before the first letter: the parser's business
        if bare:
            indent = indent or pad
            if pad < indent:
                if pad:
                    return None
                break
            end = offset + len(line)
            stop = (at + 1, offset + len(lines[at]) + 1)
        content.append(line[indent:])
        offset += len(lines[at]) + 1
        at += 1
    if not content or stop[0] == len(lines):  # nothing there, or no line break after the last letter
        return None
    said = "\n".join(content).rstrip("\n")
    return said + ("\n" if header == "|" else ""), end, *stop
