"""Notes beside files: what is wrong with a document is said where its author looks, in `NAME.problem`."""

import contextlib
import json
import os
from collections.abc import Iterable, Mapping

ENDING = ".problem"


class Notes:
    """The notes in one workspace, ignored by git. They are kept in a list too, so that a mended file loses its note."""

    def __init__(self, root: str, private: str) -> None:
        self._root = root
        self._list = os.path.join(private, "problems.json")

    def read(self) -> dict[str, str]:
        """What is noted now, by path of the file."""
        try:
            with open(self._list, encoding="utf-8") as file:
                told = json.load(file)
        except (OSError, ValueError):
            return {}
        return {str(path): str(text) for path, text in told.items()} if isinstance(told, dict) else {}

    def update(self, problems: Mapping[str, str], folders: Iterable[str]) -> None:
        """Make the notes say this and no more. A note that cannot be written is no fault: `ravi status` says it too."""
        there = self.read()
        if there == dict(problems):
            return
        if not there and not os.path.exists(self._list):  # the list was deleted: old notes may lie about
            there = dict.fromkeys(self._strays(folders), "")
        for path in there.keys() - problems.keys():
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._root, path + ENDING))
        for path, text in problems.items():
            if there.get(path) != text:
                self._write(path, text)
        os.makedirs(os.path.dirname(self._list), exist_ok=True)
        with open(f"{self._list}.part", "w", encoding="utf-8") as file:
            json.dump(dict(problems), file)
        os.replace(f"{self._list}.part", self._list)

    def _write(self, path: str, text: str) -> None:
        place = os.path.join(self._root, path + ENDING)
        with contextlib.suppress(OSError):
            fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666)
            with open(fd, "w", encoding="utf-8", errors="replace") as file:
                file.write(text + "\n")

    def _strays(self, folders: Iterable[str]) -> Iterable[str]:
        for folder in folders:
            for here, _, names in os.walk(os.path.join(self._root, folder)):
                inside = os.path.relpath(here, self._root)
                yield from (f"{inside}/{name[: -len(ENDING)]}" for name in names if name.endswith(ENDING))
