"""What an agent prints, kept within bounds: the log on disk, and its last words in memory."""

import os

_BLOCK = 256 * 1024
_LINE = 64  # bytes of the line that says what is left out


class Log:
    """A file that keeps the first and the last half of `limit` bytes, and between them a line that says what lacks.

    It is readable while it grows, and then up to half as large again. A disk that is full ends the log, never the
    run: `fault` says so.
    """

    def __init__(self, path: str | os.PathLike[str], limit: int) -> None:
        self.fault = ""
        self.left_out = 0
        self._half = max(limit // 2, 4 * _LINE)
        self._floor = self._half  # where what may be left out begins
        self._size = 0
        try:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as fault:
            self._fd, self.fault = -1, f"no log: {fault.strerror}"

    def write(self, data: bytes) -> None:
        """Add `data` at the end."""
        if self.fault:
            return
        try:
            for start in range(0, len(data), self._half):
                self._append(data[start : start + self._half])
        except OSError as fault:
            self.fault = f"the log is not complete: {fault.strerror}"

    def close(self) -> None:
        """Bring the file down to its limit. What is written later is lost."""
        if self._fd < 0:
            return
        try:
            if not self.fault and self._size > self._floor + self._half:
                self._fold()
        except OSError as fault:
            self.fault = f"the log is not complete: {fault.strerror}"
        os.close(self._fd)
        self._fd, self.fault = -1, self.fault or "closed"

    def _append(self, data: bytes) -> None:
        if self._size + len(data) > self._floor + 2 * self._half:
            self._fold()
        _write_at(self._fd, data, self._size)
        self._size += len(data)

    def _fold(self) -> None:
        """Leave out what lies between the first half and the last, which moves down in place, block by block."""
        target = self._half + _LINE
        start = max(self._size - self._half, target)
        self.left_out += start - self._floor
        for offset in range(start, self._size, _BLOCK):
            block = os.pread(self._fd, min(_BLOCK, self._size - offset), offset)
            _write_at(self._fd, block, offset - start + target)
        self._size -= start - target
        os.ftruncate(self._fd, self._size)
        line = f"\n[ravi: {self.left_out:,} bytes are left out here]"
        _write_at(self._fd, line.ljust(_LINE - 1).encode() + b"\n", self._half)
        self._floor = target


class Words:
    """The last `limit` bytes of a stream, as text that may lie in a document."""

    def __init__(self, limit: int = 8 * 1024) -> None:
        self._limit = limit
        self._kept = bytearray()
        self._cut = False

    def add(self, data: bytes) -> None:
        """Hear more."""
        self._kept += data[-2 * self._limit :]
        if len(self._kept) > 2 * self._limit:
            del self._kept[: -self._limit]
            self._cut = True

    def text(self) -> str:
        """What was said last, without blank ends. Bytes that are no text are shown as U+FFFD."""
        kept = bytes(self._kept[-self._limit :])
        cut = self._cut or len(self._kept) > self._limit
        for _ in range(3 if cut else 0):  # bytes that may be left of a character that was cut in two
            kept = kept[1:] if kept[:1] and kept[0] & 0xC0 == 0x80 else kept
        said = kept.decode("utf-8", "replace").replace("\0", "\ufffd").strip()
        return f"…{said}" if cut and said else said


def _write_at(fd: int, data: bytes, offset: int) -> None:
    while data:
        count = os.pwrite(fd, data, offset)
        data, offset = data[count:], offset + count
