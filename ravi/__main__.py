"""Where the program starts and ends. `ravi --version` is answered here, before anything is imported."""

import gc
import os
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    gc.disable()  # a command is over before there is garbage worth looking for; the daemon turns it on again
    if sys.argv[1:] in (["--version"], ["--version", "--json"], ["--json", "--version"]):
        from ravi import __version__

        line = f'{{"version": "{__version__}"}}' if "--json" in sys.argv else f"ravi {__version__}"
        if sys.stdout is not None:  # it may be closed
            sys.stdout.write(f"{line}\n")
        return
    try:
        from ravi.cli.main import main as run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while modules were loaded; from then on `run` answers it
        code = 130
    os._exit(code)  # all is closed and flushed by now; taking the interpreter apart would only take 10 ms


if __name__ == "__main__":
    main()
