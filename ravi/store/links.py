"""`open/ID -> tasks/…/ID`: links to the tasks that are not closed, ignored by git, for people who look with `ls`."""

import contextlib
import os
from collections.abc import Mapping

FOLDER = "open"


class OpenLinks:
    """The links in one workspace. They are a convenience: what cannot be linked is no fault."""

    def __init__(self, root: str) -> None:
        self._root = os.path.join(root, FOLDER)

    def set(self, id: str, folder: str) -> None:
        """Have `open/ID` lead to `folder`, or be gone when `folder` is "". A file of a person's there is left alone."""
        place, target = os.path.join(self._root, id), os.path.join("..", folder)
        with contextlib.suppress(OSError):
            there = _target(place)
            if there == (target if folder else None):
                return
            if there is not None:
                os.unlink(place)
            if folder:
                os.makedirs(self._root, exist_ok=True)
                os.symlink(target, place, target_is_directory=True)

    def reconcile(self, wanted: Mapping[str, str]) -> None:
        """Have links to these tasks (id -> folder) and to no others."""
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._root):
                if name not in wanted:
                    self.set(name, "")
        for id, folder in wanted.items():
            self.set(id, folder)


def _target(place: str) -> str | None:
    """Where a link leads; None when there is nothing. Raises OSError for what is no link."""
    try:
        return os.readlink(place)
    except FileNotFoundError:
        return None
