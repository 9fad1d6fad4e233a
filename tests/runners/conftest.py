"""What the tests of runners share: one fork server, and orders that need few words."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ravi.runners.base import Order
from ravi.runners.process import Processes

PATH = "/usr/local/bin:/usr/bin:/bin"


@pytest.fixture
def processes() -> Iterator[Processes]:
    with Processes() as processes:
        yield processes


@pytest.fixture
def order(tmp_path: Path) -> Callable[..., Order]:
    """An order for `command` in a directory of its own, with any field said otherwise."""

    def make(*command: str, **fields: Any) -> Order:
        cwd = tmp_path / "work"
        cwd.mkdir(exist_ok=True)
        env = {"PATH": PATH, "RAVI_RUN": "login-7f3k2a.1", "RAVI_WORKSPACE": str(tmp_path)}
        given = {"run": "login-7f3k2a.1", "prompt": "", "cwd": cwd, "env": env, "timeout": 20.0, "grace": 0.1}
        return Order(**{**given, "command": command, "log": tmp_path / "logs" / "run.log", **fields})

    return make
