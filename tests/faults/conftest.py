"""Every fault test tells its figures, and they are shown at the end of the run: a promise is as good as its numbers."""

from collections.abc import Callable

import pytest


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Tell figures by name: `figures(kills=50, lost=0)`."""

    def tell(**told: object) -> None:
        for name, value in told.items():
            record_property(name, value)

    return tell
