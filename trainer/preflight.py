"""Everything that can be known to go wrong before a ticket is asked for, and what a person should know of their data.

In this order, so that the cheapest mistake is told first: output folder, arguments, model, columns and labels, lengths.
No torch, no network. Findings inform; refusals are raised.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from enforcer.problems import ArgumentInvalid, DatasetInvalid
from enforcer.profiles import Profile
from enforcer.runspec import Dataset, Inputs, Model
from trainer.arguments import TrainingArguments
from trainer.inputs import columns, folders, lengths, relevance, rows
from trainer.inputs.cleaning import Cleaned, clean
from trainer.inputs.meant import refuse_rows_of_another_word
from trainer.inputs.rows import Source
from trainer.job import Row

MAX_LABELS_SHOWN = 50
FEW_DOCUMENTS = 100
NO_INTERVAL = "will have no interval, so a gate that asks for confidence cannot be passed"


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


def read_sources(args: TrainingArguments, train: Any = None, held_out: Any = None) -> Sources:
    """Read the files that the arguments name, or take the rows that were given instead of them.

    Raises:
        DatasetInvalid: nothing to train on, or anything `trainer.inputs.rows` refuses.
    """
    train_sources = _sources(train, args.train_files, "train_dataset")
    if not train_sources:
        raise DatasetInvalid("there is no dataset; name one with `dataset` (or `--dataset`), or give `train_dataset`")
    return Sources(train_sources, _sources(held_out, args.eval_files, "eval_dataset"))


def gather(args: TrainingArguments, sources: Sources, model: Path) -> Inputs:
    """Digests of all that the run reads; needs no profile."""
    return Inputs(
        model=Model(name=args.model_name_or_path, digest=folders.folder_digest(model)),
        datasets=sources.listed(),
        code=folders.code(),
        eval_fraction=0.0 if sources.eval else args.eval_fraction,
        columns=args.columns,
    )


def check(args: TrainingArguments, profile: Profile, train: Any = None, held_out: Any = None) -> Preflight:
    """Look at arguments, model, data and output folder against one version of a task type.

    Raises:
        OutputInvalid, ArgumentInvalid, ModelInvalid, DatasetInvalid: the first thing that forbids the run.
    """
    folders.check_writable(Path(args.output_dir))
    arguments = _arguments(args, profile, train, held_out)
    _check_something_is_trained(arguments)
    _check_labels(arguments)
    model = folders.model_folder(args.model_name_or_path)
    sources = read_sources(args, train, held_out)
    cleaned = rows_of(sources, profile, args.columns, arguments, args.eval_fraction)
    profile = profile.concerning(arguments)
    train_rows, eval_rows = cleaned.train, cleaned.eval
    if not train_rows:
        raise DatasetInvalid("no row is left for training; give more rows or a smaller `eval_fraction`")
    findings_of_pairs: list[str] = []
    if set(relevance.COLUMNS) <= profile.columns.keys():
        findings_of_pairs = relevance.check(arguments, train_rows, eval_rows)
    elif "positive" in profile.columns:
        _check_negatives(arguments, train_rows)
        relevance.refuse_grades_of_nothing((*train_rows, *eval_rows))
    relevance.refuse_one_score(train_rows)
    findings, facts = _findings(args, profile, arguments, train_rows, eval_rows, held_apart=bool(sources.eval))
    more, length_facts = _lengths(profile, arguments, [*train_rows, *eval_rows], model)
    return Preflight(
        arguments=arguments,
        sources=sources,
        model=model,
        inputs=gather(args, sources, model),
        train_rows=train_rows,
        eval_rows=eval_rows,
        findings=[*cleaned.findings, *findings_of_pairs, *findings, *more],
        facts={**facts, "dropped": cleaned.dropped, **length_facts},
    )


def rows_of(
    sources: Sources, profile: Profile, mapping: Mapping[str, str], arguments: Mapping[str, Any], eval_fraction: float
) -> Cleaned:
    """Train and held-out rows, cleaned; the worker calls this again on what it read itself.

    Raises:
        DatasetInvalid: anything `trainer.inputs` refuses.
    """

    for source in (*sources.train, *sources.eval):
        refuse_rows_of_another_word(source, profile, mapping, arguments)
    profile = profile.concerning(arguments)

    def side(sources: Sequence[Source]) -> list[Row]:
        parts = [columns.examples(source, profile, mapping, arguments) for source in sources]
        columns.alike(sources, parts)
        return [row for part in parts for row in part]

    train = side(sources.train)
    if sources.eval:
        return clean(profile, train, side(sources.eval))
    seed = int(arguments.get("seed") or 0)
    return clean(profile, *columns.split(train, columns.subject(profile, train), eval_fraction, seed))


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


def _sources(given: Any, files: Sequence[str], name: str) -> list[Source]:
    return [rows.read(file) for file in files] if given is None else [rows.hold(given, name)]


def _findings(
    args: TrainingArguments,
    profile: Profile,
    arguments: Mapping[str, Any],
    train: Sequence[Row],
    held_out: Sequence[Row],
    *,
    held_apart: bool,
) -> tuple[list[str], dict[str, Any]]:
    """What does not forbid the run but may explain its result."""
    findings = []
    if not held_out:
        findings.append("nothing is held out, so no score will be measured and every gate will be missed")
    kinds = Counter(map(columns.content, train))
    duplicates = len(train) - len(kinds)
    if duplicates:
        findings.append(f"{duplicates:,} of {len(train):,} training rows say the same as another one")
    subject = columns.subject(profile, train)
    known = {columns.about(row, subject) for row in train}
    leaked = sum(columns.about(row, subject) in known for row in held_out)
    if leaked:
        findings.append(
            f"{leaked:,} of {len(held_out):,} evaluation rows have a training row's `{subject}`: scores will flatter"
        )
    facts: dict[str, Any] = {
        "train_rows": len(train), "eval_rows": len(held_out), "duplicates": duplicates, "leaked": leaked,
    }  # fmt: skip
    label = next((name for name, column in profile.columns.items() if column.type in ("label", "labels")), None)
    if label is not None:
        labels = arguments.get("label_names") or []
        balance = Counter(dict.fromkeys(labels, 0))
        balance.update(name for row in train for name in _labels_of(row, label))
        facts["labels"] = dict(balance)
        missing = [name for name, count in balance.items() if count == 0]
        if missing:
            findings.append(f"no training row has the label {', '.join(f'`{name}`' for name in missing[:10])}")
        asked = {name for row in held_out for name in _labels_of(row, label)}
        unseen = sorted(set(labels) - asked) if held_out else []
        if unseen:
            names = ", ".join(f"`{name}`" for name in unseen[:10])
            findings.append(f"no evaluation row has the label {names}: `macro_f1` {NO_INTERVAL}")
        most, least = max(balance.values()), min(balance.values())
        if least and most >= 10 * least:
            findings.append(
                f"the labels are uneven: the most frequent has {most / least:.0f} times the rows of the rarest"
            )
    if "positive" in profile.columns and held_out:
        findings += _few_documents(profile, len({row["positive"] for row in held_out}))
    if args.eval_fraction and not held_apart and held_out:
        findings.append(
            f"{len(held_out):,} of {len(train) + len(held_out):,} rows are held out for evaluation, drawn by `seed`"
        )
    return findings, facts


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
        return [f"{few}, and every search looks at {looked_at}: its scores {NO_INTERVAL}"]
    return [f"{few}: chance alone finds {looked_at} of them in every search"]


def _lengths(
    profile: Profile, arguments: Mapping[str, Any], all_rows: Sequence[Row], model: Path
) -> tuple[list[str], dict[str, Any]]:
    limit = arguments.get("max_length")
    text_columns = [name for name, column in profile.columns.items() if column.type == "text" and name in all_rows[0]]
    if limit is None or not text_columns:
        return [], {}
    try:
        measured = lengths.measure(all_rows, text_columns, model)
    except lengths.NoTokenizer as why:
        return [f"text lengths were not checked before the start: {why}"], {"lengths": None}
    over = measured.over(limit)
    whole = measured.keeping()
    facts = {
        "lengths": measured.histogram(), "longest": measured.longest, "over_max_length": over,
        "keeps_99_percent": whole,
    }  # fmt: skip
    positions = folders.max_positions(model)
    if positions is not None and limit > positions < measured.longest:
        raise ArgumentInvalid(
            f"`max_length`: {limit} is more than the {positions} tokens that this model reads, and the longest text "
            f"has {measured.longest}; set `max_length: {positions}` with `truncation: true`, or take a model that "
            "reads more",
            pointer="/max_length",
        )
    if not over:
        return [], facts
    of_all = f"{over:,} of {len(measured.counts):,} rows ({over / len(measured.counts):.1%})"
    share = f"{of_all} are longer than `max_length` {limit}"
    keeps = f"the longest has {measured.longest} tokens, and {whole} is the smallest `max_length` that keeps 99 % whole"
    if not arguments.get("truncation"):
        raise DatasetInvalid(f"{share}; {keeps}. Raise it, shorten them, or allow `truncation: true`", **facts)
    return [f"{share} and will be cut; {keeps}"], facts
