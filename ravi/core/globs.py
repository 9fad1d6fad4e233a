"""Globs over workspace paths: `*` and `?` stay within a folder, `**` goes below, `folder/` is all that it holds."""

from fnmatch import fnmatchcase


def matches(path: str, glob: str) -> bool:
    """True when `glob` names the file at `path`: `notes/*.md`, `docs/**`, `notes/`. Never slow, whatever the glob."""
    wanted = glob.removeprefix("./").split("/")
    if wanted == [""]:
        return False
    if wanted[-1] == "":
        wanted[-1] = "**"
    if wanted[-1] == "**":
        wanted.append("*")  # what is below a folder is not the folder
    reached = _skipping({0}, wanted)  # how much of the glob may be used up by now
    for part in path.split("/"):
        stepped = {at for at in reached if at < len(wanted) and wanted[at] == "**"}
        stepped |= {at + 1 for at in reached if at < len(wanted) and fnmatchcase(part, wanted[at])}
        reached = _skipping(stepped, wanted)
    return len(wanted) in reached


def _skipping(reached: set[int], wanted: list[str]) -> set[int]:
    """The same, and past each `**`, which may stand for nothing."""
    found = set(reached)
    for at in range(len(wanted)):
        if at in found and wanted[at] == "**":
            found.add(at + 1)
    return found
