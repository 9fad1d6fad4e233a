"""Seeing processes live and die, without waiting a moment longer than that takes."""

import os
import select
import threading
from collections.abc import Callable
from concurrent.futures import Future

from ravi.runners.base import Order, Stop
from ravi.runners.process import Exit, Processes


def is_gone(pid: int, within: float = 2.0) -> bool:
    """True as soon as `pid` lives no more; False when it still does after `within` seconds."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], within)[0])
    finally:
        os.close(fd)


class Watched:
    """One run in a thread of its own: what it said so far, its pid, its stop, and its end."""

    def __init__(self, processes: Processes, order: Order) -> None:
        self.said = b""
        self.pid = 0
        self.stop: Stop = lambda reason: None
        self.end: Future[Exit] = Future()
        self._heard = threading.Condition()
        self._thread = threading.Thread(target=self._run, args=(processes, order))
        self._thread.start()

    def hears(self, word: bytes, within: float = 10.0) -> bytes:
        """Wait until `word` was said, and give all that was."""
        with self._heard:
            assert self._heard.wait_for(lambda: word in self.said or self.end.done(), within), self.said
            assert word in self.said, (self.said, self.end.result(0))
        return self.said

    def result(self, within: float = 20.0) -> Exit:
        end = self.end.result(within)
        self._thread.join()
        return end

    def _run(self, processes: Processes, order: Order) -> None:
        try:
            self.end.set_result(processes.run(order, self._hear, self._started, self._hold))
        except BaseException as fault:
            self.end.set_exception(fault)
        with self._heard:
            self._heard.notify_all()

    def _hear(self, data: bytes) -> None:
        with self._heard:
            self.said += data
            self._heard.notify_all()

    def _started(self, pid: int, moment: int) -> None:
        self.pid = pid

    def _hold(self, stop: Stop) -> None:
        self.stop = stop


Make = Callable[..., Order]
