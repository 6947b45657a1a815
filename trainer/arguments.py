"""`TrainingArguments`: what a person asks for, from Python keywords, a config file, or flags.

Two kinds of fields. *Place* fields say what is trained and where it goes. *Tag parameters* are those of the task type's
profile: they stay unset here, because the registry fills in the defaults, and only what was set outright is sent.
"""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from enforcer.problems import ArgumentInvalid, NotConfigured

DEFAULT_EVAL_FRACTION = 0.1
THE_NUMBER = "score"  # what a regression predicts, where nobody names it
# As long as `enforcer.wire` and `enforcer.runspec` take them.
Name = Annotated[str, Field(min_length=1, max_length=200)]
Files = Annotated[list[str], Field(min_length=1, max_length=32)]
_TASK_TYPE = re.compile(r"(?P<tag>[^@\s]{1,200})(?:@(?P<version>[1-9][0-9]{0,8}))?")


class TrainingArguments(BaseModel):
    """One run as it is asked for. Relative paths start at the working directory.

    `resume` is the folder of a run that stopped, to be continued. `save_steps` are the optimizer steps between two
    checkpoints; left out, one is saved each half hour, and with 0 only when the run is told to stop.

    Raises:
        ArgumentInvalid: an argument that does not exist or cannot be meant; `pointer` names it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    task_type: str
    model_name_or_path: str = Field(min_length=1, max_length=500)
    dataset: str | Files | None = None
    eval_dataset: str | Files | None = None
    eval_fraction: float = Field(default=DEFAULT_EVAL_FRACTION, ge=0, lt=1)
    columns: dict[str, str] = Field(default_factory=dict, max_length=64)
    allow_row_loss: float | None = Field(default=None, ge=0, le=1)
    output_dir: str = "output"
    business_unit: Name | None = None
    target: Name = "local"
    gpus: int = Field(default=0, ge=0, le=4096)
    redeem: Literal["online", "offline"] = "online"
    change_ticket: Annotated[str, StringConstraints(min_length=1, max_length=300)] | None = None
    resume: str | None = None
    save_steps: int | None = Field(default=None, ge=0)

    backend: str | None = None
    nproc: int | None = None
    sequence_parallel_size: int | None = None
    problem_type: str | None = None
    num_labels: int | None = None
    label_names: list[str] | None = None
    pooling_method: str | None = None
    normalize_embeddings: bool | None = None
    use_inbatch_negatives: bool | None = None
    temperature: float | None = None
    loss_type: str | None = None
    beta: float | None = None
    label_smoothing: float | None = None
    cpo_alpha: float | None = None
    simpo_gamma: float | None = None
    desirable_weight: float | None = None
    undesirable_weight: float | None = None
    center_rewards_coefficient: float | None = None
    num_generations: int | None = None
    max_completion_length: int | None = None
    reward_functions: list[str] | None = None
    teacher_model: str | None = None
    lmbda: float | None = None
    judge_model: str | None = None
    use_lora: bool | None = None
    lora_rank: int | None = None
    lora_alpha: int | None = None
    lora_dropout: float | None = None
    max_length: int | None = None
    truncation: bool | None = None
    learning_rate: float | None = None
    num_train_epochs: float | None = None
    max_steps: int | None = None
    per_device_train_batch_size: int | None = None
    per_device_eval_batch_size: int | None = None
    gradient_accumulation_steps: int | None = None
    gradient_checkpointing: bool | None = None
    packing: bool | None = None
    warmup_ratio: float | None = None
    weight_decay: float | None = None
    lr_scheduler_type: str | None = None
    seed: int | None = None
    logging_steps: int | None = None

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(
                **{name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
            )
        except ValidationError as error:
            raise _readable(error) from None
        if not _TASK_TYPE.fullmatch(self.task_type):
            raise ArgumentInvalid(
                f"`task_type`: `{self.task_type}` is not a task type; it looks like `embedding` or `embedding@2`",
                pointer="/task_type",
            )

    @property
    def tag(self) -> str:
        return _TASK_TYPE.fullmatch(self.task_type)["tag"]  # type: ignore[index]  # __init__ checked it

    @property
    def version(self) -> int | None:
        said = _TASK_TYPE.fullmatch(self.task_type)["version"]  # type: ignore[index]  # __init__ checked it
        return int(said) if said else None

    @property
    def tag_arguments(self) -> dict[str, Any]:
        """The tag parameters that were set outright: what a ticket request carries as `arguments`."""
        said = {
            name: value for name in TAG_PARAMETERS & self.model_fields_set if (value := getattr(self, name)) is not None
        }
        if said.get("problem_type") == "regression":
            said.setdefault("label_names", [THE_NUMBER])
        return said

    @property
    def train_files(self) -> list[str]:
        return _as_list(self.dataset)

    @property
    def eval_files(self) -> list[str]:
        return _as_list(self.eval_dataset)


PLACE_FIELDS = frozenset(
    """task_type model_name_or_path dataset eval_dataset eval_fraction columns allow_row_loss output_dir business_unit
    target gpus redeem change_ticket resume save_steps""".split()
)
TAG_PARAMETERS = frozenset(TrainingArguments.model_fields) - PLACE_FIELDS


def from_file(path: Path, changes: Mapping[str, Any]) -> TrainingArguments:
    """A config in YAML, JSON or TOML, with `changes` (flags) on top."""
    return TrainingArguments(**{**read_document(path), **changes})


def read_document(path: Path) -> dict[str, Any]:
    """A mapping from a `.yaml`, `.json` or `.toml` file.

    Raises:
        NotConfigured: missing, another format, or not a mapping.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "it is not UTF-8 text"
        raise NotConfigured(f"the file `{path}` cannot be read: {why}") from error
    try:
        document = _parse(text, path.suffix.lower())
    except ValueError as error:
        raise NotConfigured(f"`{path}` cannot be read: {error}") from error
    if not isinstance(document, dict) or not all(isinstance(name, str) for name in document):
        raise NotConfigured(f"`{path}` must hold `name: value` lines")
    return document


def parse_setting(setting: str) -> tuple[str, Any]:
    """`KEY=VALUE` with the value in YAML: `lora_rank=64`, `label_names=[科技, 体育]`, `columns={text: review}`.

    Raises:
        ArgumentInvalid: no `=`, or no YAML behind it.
    """
    name, equals, value = setting.partition("=")
    if not equals or not name.strip():
        raise ArgumentInvalid(f"`--set {setting}` is not `KEY=VALUE`")
    try:
        return name.strip(), _parse(value, ".yaml")
    except ValueError as error:
        raise ArgumentInvalid(f"`--set {setting}`: {error}", pointer=f"/{name.strip()}") from error


def _parse(text: str, suffix: str) -> Any:
    if suffix == ".json":
        return json.loads(text)
    if suffix == ".toml":
        import tomllib

        return tomllib.loads(text)
    if suffix not in (".yaml", ".yml"):
        raise ValueError(f"`{suffix or 'no suffix'}` is not a format of configs; use .yaml, .json or .toml")
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _as_list(files: str | Sequence[str] | None) -> list[str]:
    return [] if files is None else [files] if isinstance(files, str) else list(files)


def _readable(error: ValidationError) -> ArgumentInvalid:
    """The first mistake as a sentence with what to do, in the terms of a config and not of pydantic."""
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    name, given = where[0] if where else "", first["input"]
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name.replace("-", "_"), TrainingArguments.model_fields, n=1)
        hint = (
            f"did you mean `{close[0]}`?" if close else f"there are {', '.join(sorted(TrainingArguments.model_fields))}"
        )
        return ArgumentInvalid(f"`{name}` is not a training argument; {hint}", pointer=f"/{name}")
    if first["type"] == "missing":
        return ArgumentInvalid(
            f"`{name}` is missing; give it in the config, as a flag or as a keyword", pointer=f"/{name}"
        )
    quoted = (
        " (a bare yes, no, on, off or number in YAML is no text; put it in quotes)"
        if first["type"] == "string_type"
        else ""
    )
    pointer = "/" + "/".join(part for part in where if not part.startswith(("str", "list[", "constrained", "function")))
    return ArgumentInvalid(f"`{name}`: {given!r}: {first['msg'][0].lower()}{first['msg'][1:]}{quoted}", pointer=pointer)
