"""docs/cli.md, made from the help of every command: `python -m ravi.cli.reference > docs/cli.md`."""

import sys
from collections.abc import Iterator

import click

from ravi.cli.main import cli

_HEAD = """\
# The command line

Made from the help texts by `just docs`; what stands here is what `ravi --help` says.

`ravi NOUN VERB`: nouns are plural, the singular works too, the bare noun lists. Ids may be shortened while they are
unique. `--json` may stand anywhere: then stdout is JSON, and an error is one object on stderr.

| exit code | `code` | it means |
|---|---|---|
| 0 | | it is done |
| 1 | `failed`, `malformed` | it failed, or a document is not right |
| 2 | `usage` | the words of the call are off |
| 3 | `timeout` | it was not finished in the time given; nothing was undone |
| 4 | `not_found` | there is no such thing |
| 5 | `refused`, `conflict`, `deposed` | the state of things does not allow it |
| 6 | `not_permitted` | who asks may not do this |
| 7 | `unavailable` | a program or service that is needed is away |
"""


def reference() -> str:
    """The whole page."""
    sections = (f"## {name}\n\n```\n{text}\n```\n" for name, text in _helps("ravi", cli, None))
    return "\n".join([_HEAD, *sections])


def _helps(name: str, command: click.Command, parent: click.Context | None) -> Iterator[tuple[str, str]]:
    context = click.Context(
        command, info_name=name.rpartition(" ")[2], parent=parent, terminal_width=100, **command.context_settings
    )
    yield name, "\n".join(line.rstrip() for line in command.get_help(context).split("\n"))
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None, below
            yield from _helps(f"{name} {below}", found, context)


if __name__ == "__main__":
    sys.stdout.write(reference())
