"""The house keeps its floors: arrows point down, neighbours do not talk, and every library has a landlord."""

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent / "ravi"

FLOORS = {
    "errors": 0,
    "core": 1,
    "store": 2, "bus": 2, "runners": 2, "config": 2,
    "engine": 3,
    "app": 4, "porcelain": 4,
    "cli": 5,
    "__main__": 6,
}  # fmt: skip
ABOVE_ITS_NEIGHBOUR = {("porcelain", "app")}  # porcelain are functions on an App
LANDLORDS = {
    "git": {"store"}, "filelock": {"store"},
    "watchdog": {"bus"}, "nats": {"bus"},
    "yaml": {"core"}, "frontmatter": {"core"},
    "click": {"cli"},
}  # fmt: skip
EFFECTFUL = {"perform", "loop", "lease"}  # of the engine; every other module there is pure
FORBIDDEN_IN_CORE = {
    "os", "io", "pathlib", "shutil", "tempfile", "subprocess", "socket", "threading", "time", "random", "secrets",
    "asyncio",
}  # fmt: skip
FORBIDDEN_IN_THE_PURE_ENGINE = FORBIDDEN_IN_CORE | {"uuid"}
FORBIDDEN_CALLS = {
    "open", "input", "print",
    "os.environ", "os.getenv", "os.urandom",
    "time.time", "time.monotonic",
    "datetime.now", "datetime.utcnow", "datetime.today", "date.today",
    "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today", "datetime.date.today",
}  # fmt: skip


@dataclass(frozen=True)
class Import:
    """One import: where it stands, and the module it names."""

    module: str  # importer, such as ravi.store.writer
    line: int
    target: str  # imported, such as ravi.core.ids or yaml
    typing_only: bool

    def __str__(self) -> str:
        return f"{self.module.replace('.', '/')}.py:{self.line} imports {self.target}"


def house(root: Path) -> dict[str, ast.Module]:
    """Every module below `root`, by its dotted name."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def imports(modules: Mapping[str, ast.Module]) -> list[Import]:
    """Every import of the house, those inside functions too. `from a import b` names a.b when that is a module."""
    return [found for name, tree in modules.items() for found in _imports(name, tree, modules, typing_only=False)]


def _imports(name: str, node: ast.AST, modules: Mapping[str, ast.Module], *, typing_only: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(name, child.lineno, alias.name, typing_only)
        elif isinstance(child, ast.ImportFrom):
            source = "." * child.level + (child.module or "")
            for alias in child.names:
                whole = f"{source}.{alias.name}"
                yield Import(name, child.lineno, whole if whole in modules else source, typing_only)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _imports(name, child, modules, typing_only=True)
        else:
            yield from _imports(name, child, modules, typing_only=typing_only)


def room(module: str) -> str:
    """The room of a module: `store` for ravi.store.writer, "" for the package itself."""
    return module.split(".")[1] if "." in module else ""


def floor_faults(found: Iterable[Import]) -> list[str]:
    """Arrows that point up, or sideways."""
    faults = []
    for one in found:
        if one.target.startswith("."):
            faults.append(f"{one}: imports are absolute here")
        here, there = room(one.module), room(one.target)
        if one.target.split(".")[0] != "ravi" or not here or not there or here == there:
            continue
        if here not in FLOORS or there not in FLOORS:
            faults.append(f"{one}: give `{there if here in FLOORS else here}` a floor")
        elif FLOORS[there] > FLOORS[here]:
            faults.append(f"{one}: {there} is on floor {FLOORS[there]}, above {here} on floor {FLOORS[here]}")
        elif FLOORS[there] == FLOORS[here] and (here, there) not in ABOVE_ITS_NEIGHBOUR:
            faults.append(f"{one}: {here} and {there} are neighbours on floor {FLOORS[here]}")
    return faults


def landlord_faults(found: Iterable[Import]) -> list[str]:
    """Libraries imported outside the rooms that own them."""
    faults = []
    for one in found:
        library = one.target.split(".")[0]
        if library in sys.stdlib_module_names or library in ("ravi", ""):
            continue
        landlords = LANDLORDS.get(library)
        if landlords is None:
            faults.append(f"{one}: `{library}` has no landlord")
        elif room(one.module) not in landlords:
            faults.append(f"{one}: `{library}` lives in {', '.join(sorted(landlords))}")
    return faults


def is_pure_engine(module: str) -> bool:
    """True for the half of the engine that only chooses."""
    return room(module) == "engine" and module.rpartition(".")[2] not in EFFECTFUL


def purity_faults(modules: Mapping[str, ast.Module], found: Iterable[Import]) -> list[str]:
    """Files, clocks, environment, chance and threads where only values may be: in core and in the pure engine."""
    faults = [f"{one}: {why}" for one in found if (why := _impurity(one))]
    for name, tree in modules.items():
        if room(name) == "core" or is_pure_engine(name):
            place = name.replace(".", "/")
            faults += [
                f"{place}.py:{line} calls {call}: the world comes in as arguments" for line, call in _calls(tree)
            ]
    return faults


def _impurity(one: Import) -> str:
    library, here, there = one.target.split(".")[0], room(one.module), room(one.target)
    if here == "core" and library in FORBIDDEN_IN_CORE:
        return "core is pure"
    if not is_pure_engine(one.module):
        return ""
    if library in FORBIDDEN_IN_THE_PURE_ENGINE:
        return "deciding is pure"
    if library == "ravi" and there not in ("core", "errors", "engine"):
        return "deciding needs core only"
    if there == "engine" and not is_pure_engine(one.target):
        return "choosing does not know doing"
    return ""


def _calls(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in FORBIDDEN_CALLS:
            yield node.lineno, ast.unparse(node.func)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "os.environ":
            yield node.lineno, ast.unparse(node)


def knots(found: Iterable[Import]) -> list[str]:
    """Modules that import each other in a ring; imports for types alone tie no knot."""
    arrows: dict[str, set[str]] = {}
    for one in found:
        if not one.typing_only and one.target.startswith("ravi."):
            arrows.setdefault(one.module, set()).add(one.target)
    tied: list[str] = []
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            tied.append(" -> ".join((*path[path.index(module) :], module)))
        elif module not in done:
            for target in sorted(arrows.get(module, ())):
                visit(target, (*path, module))
            done.add(module)

    for module in sorted(arrows):
        visit(module, ())
    return tied


@pytest.fixture(scope="module")
def modules() -> dict[str, ast.Module]:
    return house(HOUSE)


def test_arrows_only_point_down(modules: dict[str, ast.Module]) -> None:
    assert floor_faults(imports(modules)) == []


def test_every_library_is_imported_by_its_landlord_only(modules: dict[str, ast.Module]) -> None:
    assert landlord_faults(imports(modules)) == []


def test_core_and_the_choosing_half_of_the_engine_touch_no_world(modules: dict[str, ast.Module]) -> None:
    assert purity_faults(modules, imports(modules)) == []


def test_no_modules_are_tied_in_a_knot(modules: dict[str, ast.Module]) -> None:
    assert knots(imports(modules)) == []


@pytest.mark.parametrize(
    ("place", "text", "fault"),
    [
        ("core/ids", "import ravi.store.refs", "1 imports ravi.store.refs: store is on floor 2, above core on floor 1"),
        ("bus/log", "if 1:\n  import ravi.store", "2 imports ravi.store: bus and store are neighbours on floor 2"),
        ("bus/log", "from ravi.config import a", "1 imports ravi.config: bus and config are neighbours on floor 2"),
        ("cli/main", "from . import output", "1 imports .: imports are absolute here"),
        ("cli/main", "def f():\n  import git", "2 imports git: `git` lives in store"),
        ("bus/log", "import requests", "1 imports requests: `requests` has no landlord"),
        ("garden/tree", "import ravi.store", "1 imports ravi.store: give `garden` a floor"),
        ("core/ids", "import threading", "1 imports threading: core is pure"),
        ("core/ids", "text = open('x')", "1 calls open: the world comes in as arguments"),
        ("engine/decide", "import time", "1 imports time: deciding is pure"),
        ("engine/decide", "from ravi.store import refs", "1 imports ravi.store.refs: deciding needs core only"),
        ("engine/decide", "import ravi.engine.loop", "1 imports ravi.engine.loop: choosing does not know doing"),
        ("engine/policy", "datetime.now()", "1 calls datetime.now: the world comes in as arguments"),
    ],
)
def test_whoever_breaks_a_rule_is_named(tmp_path: Path, place: str, text: str, fault: str) -> None:
    modules = _built(tmp_path, {"store/refs.py": "", "engine/loop.py": "", f"{place}.py": text})
    found = imports(modules)
    faults = [*floor_faults(found), *landlord_faults(found), *purity_faults(modules, found)]
    assert faults == [f"ravi/{place}.py:{fault}"]


def test_a_knot_is_told_with_all_its_modules(tmp_path: Path) -> None:
    ring = {"store/a.py": "import ravi.store.b", "store/b.py": "def f():\n  from ravi.store import a"}
    types = {"bus/a.py": "import ravi.bus.b", "bus/b.py": "if TYPE_CHECKING:\n  import ravi.bus.a"}
    assert knots(imports(_built(tmp_path, {**ring, **types}))) == ["ravi.store.a -> ravi.store.b -> ravi.store.a"]


def _built(root: Path, files: Mapping[str, str]) -> dict[str, ast.Module]:
    for name, content in files.items():
        path = root / "ravi" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return house(root / "ravi")
