"""Plan a run again from what it left, and say what differs now.

The run folder is taken at its word here (`swift-submit verify` proves it); what is checked is that its files belong
together. Relative paths in the specification start at the working directory, as they did then.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enforcer import manifest, tickets
from enforcer.manifest import Environment, Manifest
from enforcer.problems import ManifestInvalid, Problem, RegistryUnreachable
from enforcer.runspec import Model, RunSpec
from trainer import environment
from trainer.arguments import TAG_PARAMETERS, TrainingArguments
from trainer.client import Registry
from trainer.inputs import folders
from trainer.layout import RunFolder


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it was; `then` and `now` in words."""

    what: str
    then: str
    now: str


@dataclass(frozen=True)
class Again:
    """The run, as it would be asked for again. `manifest` is None for one that left nothing to sign for."""

    spec: RunSpec
    manifest: Manifest | None
    arguments: TrainingArguments


def read(folder: RunFolder) -> Again:
    """What ran.

    Raises:
        TicketInvalid, ManifestInvalid: the folder is not one of a run, or its files do not belong together.
    """
    try:
        claims = tickets.unverified_claims(folder.ticket.read_text("ascii").strip())
        bound, jkt = str(claims["run_spec_digest"]), str(claims["cnf"]["jkt"])
        spec = RunSpec.read(folder.run_spec.read_bytes(), expected_digest=bound)
        left = manifest.open_manifest(folder.manifest.read_bytes(), jkt) if folder.manifest.exists() else None
    except (OSError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ManifestInvalid(f"`{folder.root}` is not the folder of a run: {error}") from error
    return Again(spec, left, _arguments(spec))


def local_differences(again: Again) -> Iterator[Difference]:
    """What differs on this machine: code, data, model, packages, Python, hardware."""
    yield from _code(again.spec)
    yield from data_differences(again)
    yield from _model(again.spec)
    if again.manifest is not None:
        yield from _environment(again.manifest.environment, environment.look(again.spec.gpus))


def data_differences(again: Again) -> Iterator[Difference]:
    """What differs of the rows, and of the files that they point to."""
    yield from _data(again.spec)
    yield from _files(again)


def governed_differences(again: Again, registry: Registry, *, readable: bool) -> Iterator[Difference]:
    """What differs at the registry: the version in force, and whether it would permit the run to whoever is signed in.

    Permission can be asked for only while model and data are `readable`.

    Raises:
        RegistryUnreachable: it is away.
    """
    from trainer import contract  # which continues runs, and so reads them by this file
    from trainer.run import permit

    spec = again.spec
    try:
        tag = registry.tag(spec.task_type)
    except RegistryUnreachable:
        raise
    except Problem as problem:
        yield Difference("task type", f"{spec.task_type}@{spec.version}", problem.detail)
        return
    if (tag.version, tag.profile_digest) != (spec.version, spec.profile_digest):
        then = f"{spec.task_type}@{spec.version} {_short(spec.profile_digest)}"
        yield Difference("task type", then, f"{tag.name}@{tag.version} {_short(tag.profile_digest)}, {tag.state}")
    if not readable:
        return
    try:
        found, checked = contract.look(registry, again.arguments)
        planned = permit.plan(registry, again.arguments, found, checked)
    except RegistryUnreachable:
        raise
    except Problem as problem:
        yield Difference("permission", "permitted", problem.detail)
        return
    for name in sorted(planned.arguments.keys() | spec.arguments.keys()):
        was, would_be = spec.arguments.get(name), planned.arguments.get(name)
        if was != would_be:
            yield Difference(f"argument {name}", str(was), str(would_be))
    if planned.pool != spec.profile.pool:
        yield Difference("pool", spec.profile.pool, planned.pool)


def config(again: Again) -> dict[str, Any]:
    """The config that asks for the same run."""
    return again.arguments.model_dump(exclude_none=True, exclude_unset=True)


def _arguments(spec: RunSpec) -> TrainingArguments:
    inputs = spec.inputs
    files = {role: [data.name for data in inputs.datasets if data.role == role] for role in ("train", "eval")}
    chosen = {name: value for name, value in spec.arguments.items() if name in TAG_PARAMETERS and value is not None}
    return TrainingArguments(
        task_type=spec.task_type,
        model_name_or_path=inputs.model.name,
        dataset=files["train"],
        **({"eval_dataset": files["eval"]} if files["eval"] else {"eval_fraction": inputs.eval_fraction}),
        **({"columns": inputs.columns} if inputs.columns else {}),
        **({"allow_row_loss": inputs.allow_row_loss} if inputs.allow_row_loss else {}),
        business_unit=spec.business_unit,
        target=spec.target,
        gpus=spec.gpus,
        **chosen,
    )


def _code(spec: RunSpec) -> Iterator[Difference]:
    then, now = spec.inputs.code, folders.code()
    if then.commit != now.commit:
        yield Difference("code", then.commit or "no repository", now.commit or "no repository")
    words = {True: "changes beyond the commit, recorded nowhere", False: "clean", None: "no repository"}
    if then.dirty or now.dirty:
        yield Difference("code changes", words[then.dirty], words[now.dirty])


def _data(spec: RunSpec) -> Iterator[Difference]:
    for dataset in spec.inputs.datasets:
        if dataset.role == "file":
            continue
        what, then = f"data {dataset.role} {dataset.name}", _short(dataset.digest)
        if not Path(dataset.name).suffix:
            yield Difference(what, then, "rows in memory, which no file holds")
            continue
        path = Path(dataset.name).expanduser()
        try:
            now = folders.file_digest(path)
        except OSError as error:
            yield Difference(what, then, f"missing: {(error.strerror or '').lower()} (`{path.absolute()}`)")
            continue
        if now != dataset.digest:
            yield Difference(what, then, _short(now))


def _files(again: Again) -> Iterator[Difference]:
    """What rows point to; a dataset that cannot be read is told of already."""
    then = {data.name: data.digest for data in again.spec.inputs.datasets if data.role == "file"}
    if not then:
        return
    from trainer import preflight

    try:
        files = preflight.read_sources(again.arguments).files(again.spec.profile, again.spec.inputs.columns)
    except (Problem, OSError) as error:
        yield Difference("data file", ", ".join(then), str(error))
        return
    now = {data.name: data.digest for data in files}
    for name in then.keys() | now.keys():
        if then.get(name) != now.get(name):
            was, would_be = (_short(side[name]) if name in side else "not named" for side in (then, now))
            yield Difference(f"data file {name}", was, would_be)


def _model(spec: RunSpec) -> Iterator[Difference]:
    yield from _folder("model", spec.inputs.model)
    if spec.inputs.teacher is not None:
        yield from _folder("teacher", spec.inputs.teacher)


def _folder(what: str, model: Model) -> Iterator[Difference]:
    try:
        now = folders.folder_digest(folders.model_folder(model.name))
    except (Problem, OSError) as error:
        yield Difference(f"{what} {model.name}", _short(model.digest), f"missing: {error}")
        return
    if now != model.digest:
        yield Difference(f"{what} {model.name}", _short(model.digest), _short(now))


def _environment(then: Environment, now: Environment) -> Iterator[Difference]:
    for name in sorted(then.packages.keys() | now.packages.keys()):
        before, after = then.packages.get(name, "not installed"), now.packages.get(name, "not installed")
        if before != after:
            yield Difference(f"package {name}", before, after)
    if then.packages == now.packages and then.packages_digest != now.packages_digest:
        yield Difference("other packages", _short(then.packages_digest), _short(now.packages_digest))
    pairs = [("python", then.python, now.python), ("platform", then.platform, now.platform)]
    hardware = zip(then.hardware, now.hardware, strict=True)
    pairs += [(f"hardware {name}", _words(before), _words(after)) for (name, before), (_, after) in hardware]
    yield from (Difference(what, before, after) for what, before, after in pairs if before != after)


def _words(value: object) -> str:
    if value is None or value == []:
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _short(digest: str) -> str:
    return f"{digest[:19]}…"
