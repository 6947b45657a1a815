"""Files that rows point to, as a question points to its database: found beside the dataset, and digested with it.

A dataset from elsewhere is no reason to open whatever it names, so what a file's rows name lies in the file's own
folder or below it. Rows in memory come from a program on this machine, which may name any file.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from enforcer import runspec
from enforcer.problems import DatasetInvalid
from enforcer.profiles import Profile
from enforcer.runspec import Dataset
from trainer.inputs import folders
from trainer.inputs.rows import Source

MAX_DATASETS = 64  # of a run specification
MAX_LISTED = 32  # of more files it holds one digest over all
# What benchmarks write instead of a path: the name of a database (Spider, BIRD: `database/<name>/<name>.sqlite`).
_SPELLINGS = ("{0}", "{0}.sqlite", "{0}/{0}.sqlite", "database/{0}/{0}.sqlite")


def find(name: str, folder: Path | None) -> Path:
    """The file that a row of a dataset in `folder` means by `name`.

    Raises:
        DatasetInvalid: there is none, or it lies elsewhere.
    """
    if folder is not None and (Path(name).is_absolute() or ".." in Path(name).parts):
        raise DatasetInvalid(f"`{name}` leaves the folder of its dataset; put the file beside it, or below")
    base = (folder or Path()).expanduser().absolute()
    with contextlib.suppress(OSError, ValueError):  # no name of a file: too long, or with a NUL
        for spelling in _SPELLINGS:
            if (path := base / spelling.format(name)).is_file():
                return path
    raise DatasetInvalid(f"there is no file `{name[:200]}` in `{base}`")


def listed(sources: Sequence[Source], profile: Profile, mapping: Mapping[str, str]) -> list[Dataset]:
    """Each file that the rows of all sources point to, once, in the order that they are first named.

    Raises:
        DatasetInvalid: one is not there.
    """
    columns = [mapping.get(role, role) for role, column in profile.columns.items() if column.type == "file"]
    names: dict[Path, str] = {}
    rows: Counter[Path] = Counter()
    for (name, folder), count in Counter(_named(sources, columns)).items():
        path = find(name, folder)
        names.setdefault(path, name)
        rows[path] += count
    digests = {path: folders.file_digest(path) for path in names}
    if len(digests) > min(MAX_LISTED, MAX_DATASETS - len(sources)):
        whole = runspec.folder_digest(
            {f"{i} {names[path]}": digest for i, (path, digest) in enumerate(digests.items())}
        )
        return [Dataset(role="file", name=f"{len(digests)} files", digest=whole, rows=rows.total())]
    return [
        Dataset(role="file", name=names[path][:500], digest=digest, rows=rows[path]) for path, digest in digests.items()
    ]


def _named(sources: Sequence[Source], columns: Sequence[str]) -> Iterable[tuple[str, Path | None]]:
    for source in sources:
        for row in source.rows:
            yield from ((row[name], source.folder) for name in columns if isinstance(row.get(name), str))
