"""What a framework calls things, read from its own source and without running any of it.

Importing ms-swift or TRL imports torch, and takes seconds; their lists are literals in files, which `ast` reads in
milliseconds, from an installed package as from an unpacked wheel. A list that is not where it was is an error, never an
empty list: that would read as "everything was removed".
"""

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from enforcer.drift import Framework
from enforcer.problems import FrameworkUnreadable

Axes = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Reader:
    """`package` is what is imported, under the distribution's folder; the readers take that folder."""

    package: str
    axes: Callable[[Path], Axes]
    others: Callable[[Path], Axes]


def read(name: str, path: Path | None = None, version: str | None = None) -> Framework:
    """The framework as it is installed here, or as it lies unpacked at `path`.

    Raises:
        FrameworkUnreadable: it is not there, has no version, or its lists are not where they were.
    """
    reader = reader_of(name)
    folder = _installed(name, reader.package) if path is None else _unpacked(name, reader.package, path)
    found = version or _version(name, None if path is None else folder.parent)
    return Framework(name, found, reader.axes(folder), reader.others(folder))


def reader_of(name: str) -> Reader:
    """Raises FrameworkUnreadable."""
    if name not in READERS:
        raise FrameworkUnreadable(f"nobody here can read the words of `{name}`; there are {', '.join(READERS)}")
    return READERS[name]


def commands_of(name: str, args: Mapping[str, object]) -> set[str]:
    """The sub-commands by which a run can have been started, from its record alone.

    An args.json of ms-swift does not name its sub-command, but of those that train only `rlhf` has an `rlhf_type`.
    """
    assert name == "ms-swift"
    return {"rlhf"} if args.get("rlhf_type") else {"pt", "sft"}


# --- where it is ------------------------------------------------------------------------------------------------------


def _installed(name: str, package: str) -> Path:
    found = util.find_spec(package)  # of a top-level name: imports nothing
    places = list(found.submodule_search_locations or []) if found else []
    if not places:
        raise FrameworkUnreadable(f"`{name}` is not installed here; unpack its wheel and name the folder with `--path`")
    return Path(places[0])


def _unpacked(name: str, package: str, path: Path) -> Path:
    for folder in (path / package, path):
        if folder.name == package and (folder / "__init__.py").is_file():
            return folder
    raise FrameworkUnreadable(f"`{path}` holds no package `{package}`, which is what `{name}` is imported as")


def _version(name: str, site: Path | None) -> str:
    there = metadata.distributions(name=name) if site is None else metadata.distributions(name=name, path=[str(site)])
    for found in there:
        return str(found.version)
    raise FrameworkUnreadable(f"the version of `{name}` is written nowhere there; say it with `--framework-version`")


# --- what it says -----------------------------------------------------------------------------------------------------


def _swift_axes(swift: Path) -> Axes:
    return {
        "command": _keys(swift / "cli" / "main.py", "ROUTE_MAPPING"),
        "task_type": _choices(swift / "arguments", "task_type"),
        "rlhf_type": _choices(swift / "arguments", "rlhf_type"),
    }


def _trl_axes(trl: Path) -> Axes:
    return {"command": frozenset(name for name in _trl_names(trl) if name.endswith("Trainer"))}


def _trl_others(trl: Path) -> Axes:
    return {"config": frozenset(name for name in _trl_names(trl) if name.endswith("Config"))}


def _trl_names(trl: Path) -> Iterator[str]:
    yield from _words(trl / "__init__.py", "_import_structure")
    for file in sorted((trl / "experimental").glob("*/__init__.py")):
        names = _words(file, "__all__", required=False)
        yield from (f"experimental.{file.parent.name}.{name}" for name in names)


def _st_axes(package: Path) -> Axes:
    return {"command": frozenset(name for name in _st_names(package) if name.endswith("Trainer"))}


def _st_others(package: Path) -> Axes:
    return {
        "config": frozenset(name for name in _st_names(package) if name.endswith("TrainingArguments")),
    }


def _st_names(package: Path) -> Iterable[str]:
    return _words(package / "__init__.py", "__all__")


READERS = {
    "ms-swift": Reader("swift", _swift_axes, lambda _: {}),
    "trl": Reader("trl", _trl_axes, _trl_others),
    "sentence-transformers": Reader("sentence_transformers", _st_axes, _st_others),
}


# --- how Python says it -----------------------------------------------------------------------------------------------


def _keys(file: Path, name: str) -> frozenset[str]:
    """The keys of a dictionary that a module assigns to a name."""
    for value in _assigned(file, name):
        if isinstance(value, ast.Dict) and (found := frozenset(_texts(key for key in value.keys if key))):
            return found
    raise _moved(f"dictionary `{name}`", file)


def _words(file: Path, name: str, *, required: bool = True) -> frozenset[str]:
    """Every text in what a module assigns to a name: the members of `__all__`, or of a lazy module's structure."""
    found = frozenset(text for value in _assigned(file, name) for text in _texts(ast.walk(value)))
    if not found and required:
        raise _moved(f"list `{name}`", file)
    return found


def _choices(folder: Path, name: str) -> frozenset[str]:
    """The values of a field `name: Literal[...]`, in whichever file of the folder it stands."""
    found: set[str] = set()
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(_parsed(file)):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
                found |= set(_texts(part for inner in _literals(node.annotation) for part in ast.walk(inner)))
    if not found:
        raise _moved(f"field `{name}: Literal[...]`", folder)
    return frozenset(found)


def _literals(annotation: ast.expr) -> Iterator[ast.expr]:
    for node in ast.walk(annotation):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value).rpartition(".")[2] == "Literal":
            yield node.slice


def _assigned(file: Path, name: str) -> Iterator[ast.expr]:
    for node in _parsed(file).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=target)], value=value) if target == name:
                yield value
            case ast.AnnAssign(target=ast.Name(id=target), value=ast.expr() as value) if target == name:
                yield value


def _texts(nodes: Iterable[ast.AST]) -> Iterator[str]:
    return (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes(), filename=str(file))
    except (OSError, SyntaxError, ValueError) as error:
        raise FrameworkUnreadable(f"`{file}` cannot be read: {error}") from error


def _moved(what: str, where: Path) -> FrameworkUnreadable:
    return FrameworkUnreadable(
        f"there is no {what} in `{where}`, where earlier versions have it; this version cannot be read"
    )
