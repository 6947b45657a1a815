"""Everything that can be known to go wrong before a ticket is asked for, and what a person should know of their data.

In this order, so that the cheapest mistake is told first: output folder, arguments, model, columns and labels,
cleaning; then one look after the other, a file each: what repeats, labels, pairs, encodings, tool calls, queries,
lengths in the model's own tokens and what of them is learned, memory. No torch, no network. Findings inform; refusals
are raised.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from enforcer.problems import ArgumentInvalid, DatasetInvalid
from enforcer.profiles import Profile
from enforcer.runspec import Dataset, Inputs, Model
from trainer import resume
from trainer.arguments import TrainingArguments
from trainer.inputs import columns, folders, named_files, numbered, proposals, relevance, rows, teachers
from trainer.inputs.cleaning import Cleaned, clean
from trainer.inputs.meant import refuse_rows_of_another_word
from trainer.inputs.places import Places
from trainer.inputs.rows import Source
from trainer.job import Row
from trainer.preflight import (
    calls,
    encodings,
    labels,
    lengths,
    memory,
    models,
    pairs,
    processes,
    queries,
    repeats,
    unknown,
)
from trainer.preflight.found import Found
from trainer.recipes import _rewards as rewards

MAX_LABELS_SHOWN = 50
FEW_DOCUMENTS = 100


@dataclass(frozen=True)
class Sources:
    """The datasets of a run as they were given, read once."""

    train: Sequence[Source]
    eval: Sequence[Source]

    def listed(self) -> list[Dataset]:
        sides: list[tuple[Literal["train", "eval"], Sequence[Source]]] = [("train", self.train), ("eval", self.eval)]
        return [
            Dataset(role=role, name=source.name[:500], digest=source.digest, rows=len(source.rows))
            for role, side in sides
            for source in side
        ]

    def files(self, profile: Profile, mapping: Mapping[str, str]) -> list[Dataset]:
        """The files that rows point to."""
        return named_files.listed([*self.train, *self.eval], profile, mapping)


@dataclass(frozen=True)
class Preflight:
    """A run that may be asked for: resolved arguments, the rows both sides will see, the digests a ticket binds."""

    arguments: dict[str, Any]
    sources: Sources
    model: Path
    inputs: Inputs
    train_rows: list[Row] = field(repr=False)
    eval_rows: list[Row] = field(repr=False)
    findings: list[str]
    facts: dict[str, Any]
    checkpoint: Path | None = None
    teacher: Path | None = None

    def in_json(self) -> bytes:
        """What stays in the run folder. The row that was shown does not: texts lie in the datasets."""
        facts = {name: value for name, value in self.facts.items() if name != "row"}
        return json.dumps({"findings": self.findings, **facts}, ensure_ascii=False, indent=2).encode() + b"\n"


def read_sources(args: TrainingArguments, train: Any = None, held_out: Any = None) -> Sources:
    """Read the files that the arguments name, or take the rows that were given instead of them.

    Raises:
        DatasetInvalid: nothing to train on, or anything `trainer.inputs.rows` refuses.
    """
    train_sources = _sources(train, args.train_files, "train_dataset")
    if not train_sources:
        raise DatasetInvalid("there is no dataset; name one with `dataset` (or `--dataset`), or give `train_dataset`")
    return Sources(train_sources, _sources(held_out, args.eval_files, "eval_dataset"))


def gather(
    args: TrainingArguments,
    sources: Sources,
    model: Path,
    teacher: Path | None = None,
    files: Sequence[Dataset] = (),
) -> Inputs:
    """Digests of all that the run reads; needs no profile, which says what `files` the rows point to (`sources.files`).
    What it continues comes after, once it is known to."""
    learned_from = None
    if teacher is not None:
        learned_from = Model(name=str(args.teacher_model or teacher.name), digest=folders.folder_digest(teacher))
    return Inputs(
        model=Model(name=args.model_name_or_path, digest=folders.folder_digest(model)),
        teacher=learned_from,
        datasets=[*sources.listed(), *files],
        code=folders.code(),
        eval_fraction=0.0 if sources.eval else args.eval_fraction,
        columns=args.columns,
        allow_row_loss=args.allow_row_loss,
    )


def check(args: TrainingArguments, profile: Profile, train: Any = None, held_out: Any = None) -> Preflight:
    """Look at arguments, model, data and output folder against one version of a task type.

    Raises:
        OutputInvalid, ArgumentInvalid, ModelInvalid, DatasetInvalid: the first thing that forbids the run.
        NotContinued, CheckpointInvalid: `resume` names a run that it does not continue, or cannot.
    """
    folders.check_writable(Path(args.output_dir))
    arguments = _arguments(args, profile, train, held_out)
    _check_something_is_trained(arguments)
    _check_smoothing(arguments)
    _check_labels(arguments)
    model = folders.model_folder(args.model_name_or_path)
    models.check(profile.recipe, arguments, model)
    processes.check(args.gpus, arguments, model)
    teacher = teachers.folder(arguments, model)
    sources = read_sources(args, train, held_out)
    cleaned = rows_of(sources, profile, args.columns, arguments, args.eval_fraction, args.allow_row_loss)
    whole, profile = profile, profile.concerning(arguments)
    train_rows, eval_rows = cleaned.train, cleaned.eval
    if not train_rows:
        raise DatasetInvalid("no row is left for training; give more rows or a smaller `eval_fraction`")
    of_pairs: list[str] = []
    if set(relevance.COLUMNS) <= profile.columns.keys():
        of_pairs = relevance.check(arguments, train_rows, eval_rows)
    elif "positive" in profile.columns:
        _check_negatives(arguments, train_rows)
        relevance.refuse_grades_of_nothing((*train_rows, *eval_rows))
    relevance.refuse_one_score(train_rows)
    _check_rewards(arguments, [*train_rows, *eval_rows])
    if arguments.get("judge_model") and not eval_rows:
        raise ArgumentInvalid(
            "`judge_model`: a judge compares answers to held-out prompts, and none are; give an `eval_dataset`, "
            "or an `eval_fraction` above 0",
            pointer="/judge_model",
        )
    found = _looks(args, profile, arguments, model, teacher, cleaned, apart=bool(sources.eval))
    if unread := columns.not_read([*sources.train, *sources.eval], profile, args.columns):
        found.findings.append(f"nothing is read from {proposals.quoted(unread)}")
    found.facts["not_read"] = unread
    inputs, checkpoint = gather(args, sources, model, teacher, sources.files(whole, args.columns)), None
    if args.resume is not None:
        earlier = resume.find(Path(args.resume))
        earlier.check(args.tag, whole, arguments, inputs, args.gpus)
        inputs, checkpoint = inputs.model_copy(update={"continues": earlier.continued}), earlier.checkpoint
        found.findings.append(f"continues run `{earlier.spec.run_id}` after step {earlier.continued.step}")
    return Preflight(
        arguments=arguments,
        sources=sources,
        model=model,
        inputs=inputs,
        train_rows=train_rows,
        eval_rows=eval_rows,
        findings=[*cleaned.findings, *of_pairs, *found.findings],
        facts=found.facts,
        checkpoint=checkpoint,
        teacher=teacher,
    )


def rows_of(
    sources: Sources,
    profile: Profile,
    mapping: Mapping[str, str],
    arguments: Mapping[str, Any],
    eval_fraction: float,
    allow_row_loss: float | None = None,
) -> Cleaned:
    """Train and held-out rows, cleaned; the worker calls this again on what it read itself.

    Raises:
        DatasetInvalid: anything `trainer.inputs` refuses.
    """
    places = Places()

    for source in (*sources.train, *sources.eval):
        refuse_rows_of_another_word(source, profile, mapping, arguments)
    profile = profile.concerning(arguments)
    numbered.refuse_other_counts([*sources.train, *sources.eval], profile, mapping, arguments.get("label_names") or ())

    def side(sources: Sequence[Source]) -> list[Row]:
        parts = [columns.examples(source, profile, mapping, arguments) for source in sources]
        columns.alike(sources, parts)
        for source, part in zip(sources, parts, strict=True):
            places.remember(source, part)
        return [row for part in parts for row in part]

    train, held_out = side(sources.train), side(sources.eval)
    if not sources.eval:
        by, seed = columns.subject(profile, train), int(arguments.get("seed") or 0)
        train, held_out = columns.split(train, by, eval_fraction, seed)
    left_out = sum((Counter(source.left_out) for source in (*sources.train, *sources.eval)), Counter[str]())
    cleaned = clean(profile, train, held_out, left_out=left_out, allowed=allow_row_loss)
    return replace(cleaned, places=places)


def _arguments(args: TrainingArguments, profile: Profile, train: Any, held_out: Any) -> dict[str, Any]:
    """Resolved as the registry will; when the labels are not named, the refusal names those that the data holds."""
    try:
        return profile.resolve(args.tag_arguments)
    except ArgumentInvalid as refusal:
        several = args.problem_type == "multi-label"
        kind = "labels" if several else "label"
        label = next((name for name, column in profile.columns.items() if column.type == kind), None)
        if refusal.facts.get("pointer") != "/label_names" or args.label_names is not None or label is None:
            raise
        sources = read_sources(args, train, held_out).train
        names = columns.names_in(sources, args.columns.get(label, label), several=several)
        hint = f"; the data holds `label_names: {_as_yaml(names[:MAX_LABELS_SHOWN])}`" if names else ""
        raise ArgumentInvalid(f"{refusal.detail}{hint}", **refusal.facts) from None


def _as_yaml(names: list[str]) -> str:
    import yaml

    return yaml.safe_dump(names, default_flow_style=True, allow_unicode=True, width=10**6).strip()


def _check_something_is_trained(arguments: Mapping[str, Any]) -> None:
    steps, epochs = arguments.get("max_steps"), arguments.get("num_train_epochs")
    if steps == 0:
        raise ArgumentInvalid(
            "`max_steps`: 0 steps train nothing; give a number, or -1 to go by `num_train_epochs`", pointer="/max_steps"
        )
    if epochs == 0 and (steps is None or steps < 0):
        raise ArgumentInvalid(
            "`num_train_epochs`: 0 passes over the data train nothing; give a number above 0, or `max_steps`",
            pointer="/num_train_epochs",
        )


def _check_smoothing(arguments: Mapping[str, Any]) -> None:
    """Both or none: the robust loss without smoothing is `sigmoid`, and the other losses take none."""
    robust, smoothing = arguments.get("loss_type") == "robust", arguments.get("label_smoothing")
    if smoothing is not None and robust != (smoothing > 0):
        raise ArgumentInvalid(
            f"`label_smoothing`: {smoothing:g} with `loss_type` {arguments['loss_type']}; the `robust` loss needs a "
            "share above 0 of pairs that are the wrong way round, and the others know none: set both or neither",
            pointer="/label_smoothing",
        )


def _check_labels(arguments: Mapping[str, Any]) -> None:
    """How many labels there are, against what is done with them."""
    problem, names = arguments.get("problem_type"), arguments.get("label_names") or []
    if problem == "single-label" and len(names) < 2:
        raise ArgumentInvalid(
            f"`label_names` holds {_as_yaml(names)} alone, and of one label every text has it; name them all, or take "
            "`problem_type: multi-label`",
            pointer="/label_names",
        )
    if problem == "regression" and len(names) != 1:
        raise ArgumentInvalid(
            f"`label_names` holds {len(names)} names, and a regression predicts one number; leave it out, or say what "
            "that number is called",
            pointer="/label_names",
        )


def _check_negatives(arguments: Mapping[str, Any], train: Sequence[Row]) -> None:
    """Pairs are learned against what does not belong together. Without any the loss is 0 and so is the gradient."""
    inbatch = arguments.get("use_inbatch_negatives")
    if inbatch is None or "negative" in train[0]:
        return
    if not inbatch:
        raise DatasetInvalid(
            "`use_inbatch_negatives` is off and the rows have no `negative`; add that column, or turn it on",
            pointer="/negative",
        )
    if arguments["per_device_train_batch_size"] < 2:
        raise ArgumentInvalid(
            "`per_device_train_batch_size`: in a batch of 1 no other row is a negative; take 2, or add a `negative`",
            pointer="/per_device_train_batch_size",
        )
    for column in ("anchor", "positive"):  # a batch holds no text twice
        if len({row[column] for row in train}) < 2:
            raise DatasetInvalid(
                f"all training rows have the same `{column}`, so none can be the negative of another; give more rows, "
                "or add a `negative`",
                pointer=f"/{column}",
            )


def _check_rewards(arguments: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Answers come in groups, whole ones to an optimizer step, and each is rewarded by a rule that exists."""
    if (names := arguments.get("reward_functions")) is None:
        return
    rewards.check(names, rows)
    group, batch = arguments["num_generations"], arguments["per_device_train_batch_size"]
    answers = batch * arguments["gradient_accumulation_steps"]
    if answers % group:
        raise ArgumentInvalid(
            f"`num_generations`: groups of {group} do not fill the {answers} answers of a step "
            f"(`per_device_train_batch_size` {batch} by `gradient_accumulation_steps`); make it a multiple of {group}",
            pointer="/num_generations",
        )


def _sources(given: Any, files: Sequence[str], name: str) -> list[Source]:
    return [rows.read(file) for file in files] if given is None else [rows.hold(given, name)]


def _looks(
    args: TrainingArguments,
    profile: Profile,
    arguments: Mapping[str, Any],
    model: Path,
    teacher: Path | None,
    rows: Cleaned,
    *,
    apart: bool,
) -> Found:
    """What does not forbid the run but may explain its result; in part it does forbid it."""
    train, held_out, columns = rows.train, rows.eval, profile.columns
    found = Found(facts={"train_rows": len(train), "eval_rows": len(held_out), "dropped": rows.dropped})
    if profile.maturity == "experimental":
        found.findings.append("this task type is experimental: the library below may change or drop it in any release")
    if not held_out:
        found.findings.append("nothing is held out, so no score will be measured and every gate will be missed")
    found.add(repeats.look(profile, train, held_out))
    found.findings += _one_sided(profile, train)
    label = next((name for name, column in columns.items() if column.type in ("label", "labels")), None)
    if label is not None:
        found.add(labels.look(label, arguments.get("label_names") or [], train, held_out))
    found.add(pairs.look(profile, [*train, *held_out]))
    found.add(encodings.look([*train, *held_out]))
    found.add(unknown.look(profile, [*train, *held_out], model))
    if "tools" in columns:
        found.add(calls.look([*train, *held_out], rows.places))
    if "database" in columns:
        found.add(queries.look(train, held_out, rows.places))
    if "positive" in columns and held_out:
        found.findings += _few_documents(profile, len({row["positive"] for row in held_out}))
    if args.eval_fraction and not apart and held_out:
        found.findings.append(
            f"{len(held_out):,} of {len(train) + len(held_out):,} rows are held out for evaluation, drawn by `seed`"
        )
    found.add(lengths.look(profile, arguments, train, held_out, model, rows.places))
    if (tokens := _tokens_at_once(arguments, found.facts.get("longest"))) is not None:
        found.add(
            memory.look(profile.recipe, arguments, model, tokens, gpus=args.gpus, pool=profile.pool, teacher=teacher)
        )
    return found


def _tokens_at_once(arguments: Mapping[str, Any], longest: int | None) -> int | None:
    """Of one sequence in a batch; None where nobody counted."""
    limit = arguments.get("max_length")
    if limit is None or longest is None:
        return None
    return int(limit if arguments.get("packing") else min(limit, longest))


def _one_sided(profile: Profile, train: Sequence[Row]) -> list[str]:
    """Answers that are all good, or all bad, teach no difference."""
    flags = [name for name, column in profile.columns.items() if column.type == "flag"]
    held = {name: {row[name] for row in train if name in row} for name in flags}
    return [
        f"every training row's `{name}` is {str(min(values)).lower()}: nothing tells good from bad"
        for name, values in held.items()
        if len(values) == 1
    ]


def _labels_of(row: Row, column: str) -> list[str]:
    said = row[column]
    return said if isinstance(said, list) else [said]


def _few_documents(profile: Profile, documents: int) -> list[str]:
    """That a search among few documents says little: `metric@k` looks at k of them, whatever the model does."""
    looked_at = max((int(metric.partition("@")[2] or 0) for metric in profile.metrics), default=0)
    if documents >= FEW_DOCUMENTS or not looked_at:
        return []
    few = f"the evaluation rows hold {documents} distinct `positive`"
    if documents <= looked_at:
        return [f"{few}, and every search looks at {looked_at}: its scores {labels.NO_INTERVAL}"]
    return [f"{few}: chance alone finds {looked_at} of them in every search"]
