"""Every fault test tells its figures, and they are shown at the end: a promise is as good as its numbers."""

from collections.abc import Callable

import pytest


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Tell figures by name: `figures(kills=50, lost=0)`."""

    def tell(**told: object) -> None:
        for name, value in told.items():
            record_property(name, value)

    return tell


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [one for key in ("passed", "failed") for one in terminalreporter.getreports(key)]
    rows = [(one.nodeid, one.user_properties) for one in reports if one.user_properties and one.when == "call"]
    if rows:
        terminalreporter.section("figures")
        for name, told in sorted(rows):
            words = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in told)
            terminalreporter.line(f"{name.rpartition('/')[2]}: {words}")
