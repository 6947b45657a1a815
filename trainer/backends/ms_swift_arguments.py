"""Our arguments as ms-swift spells them, and back. What it would do otherwise than asked is refused.

ours                                    theirs
the task type                           sub-command and arguments of the binding
those of `SAME`                         the same name
use_lora, lora_*                        tuner_type and the same names, on every linear layer
max_length, truncation                  max_length, truncation_strategy (`delete` never drops a row: all were counted)
problem_type, label_names               problem_type, num_labels; it stores no names, so we write them afterwards
loss_mask                               loss_scale
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from enforcer.bindings import Binding
from enforcer.columns import LossMask
from enforcer.problems import ArgumentInvalid, ModelInvalid
from trainer.inputs import folders

SAME = """learning_rate num_train_epochs max_steps per_device_train_batch_size per_device_eval_batch_size
    gradient_accumulation_steps gradient_checkpointing warmup_ratio weight_decay lr_scheduler_type seed logging_steps
    max_length beta loss_type label_smoothing""".split()
LORA = ("lora_rank", "lora_alpha", "lora_dropout")
PROBLEMS = {
    "single-label": "single_label_classification",
    "multi-label": "multi_label_classification",
    "regression": "regression",
}
# Several of its model types load by one architecture and it will not choose. They differ in the chat template alone,
# which is not used: rows are rendered here, by the model's own.
MODEL_TYPES = {
    "BertModel": "bert", "BertForMaskedLM": "bert", "BertForSequenceClassification": "bert",
    "LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral", "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}  # fmt: skip
ROWS, OUT = "train.jsonl", "out"  # where it works: in a folder of its own inside the run's
FIXED: Mapping[str, Any] = {
    "template": "dummy", "torch_dtype": "float32", "fp16": False, "dataset": ROWS, "output_dir": OUT,
    "add_version": False, "load_args": False, "strict": True, "split_dataset_ratio": 0, "dataset_num_proc": 1,
    "eval_strategy": "no", "save_strategy": "steps", "save_steps": 10**9, "save_only_model": True,
    "save_total_limit": 1, "report_to": "none", "use_hf": True,
    "adam_beta2": 0.999,  # transformers' own; ms-swift's is 0.95
}  # fmt: skip


def refuse(arguments: Mapping[str, Any], model: Path) -> None:
    """Raise for what ms-swift cannot do, or would do in another way than is asked.

    Raises:
        ArgumentInvalid: an argument that says something else there.
        ModelInvalid: a model with code of its own. ms-swift runs it, and has no switch against that.
    """
    if arguments.get("packing"):
        raise ArgumentInvalid(
            "`packing`: ms-swift packs rows with flash attention only, and this run does not choose that; set "
            "`packing: false`",
            pointer="/packing",
        )
    for name in ("nproc", "sequence_parallel_size"):
        if arguments.get(name, 1) > 1:
            raise ArgumentInvalid(
                f"`{name}`: {arguments[name]}: `backend: ms-swift` trains in one process; leave it at 1, or train with "
                "`backend: hugging-face`",
                pointer=f"/{name}",
            )
    if code := _own_code(model):
        raise ModelInvalid(
            f"`{model.name}` brings code of its own (`{code}`), and ms-swift runs a model's code without asking; train "
            "it with `backend: hugging-face`, which never does"
        )


def _own_code(model: Path) -> str | None:
    """The file by which transformers would run code of this folder: with `trust_remote_code` it follows `auto_map`."""
    for path in sorted(model.rglob("*")):
        if path.suffix == ".py":
            return path.name
        if (
            path.suffix == ".json"
            and path.stat().st_size < 1 << 20
            and '"auto_map"' in path.read_text("utf-8", "replace")
        ):
            return path.name
    return None


def spelled(
    arguments: Mapping[str, Any], binding: Binding, model: Path, loss_mask: LossMask | None, *, on_gpu: bool
) -> dict[str, Any]:
    """Everything that is said to ms-swift, by its own names."""
    said = {name: arguments[name] for name in SAME if name in arguments}
    said |= {"gradient_checkpointing": False} if "gradient_checkpointing" not in arguments else {}
    said |= {**FIXED, **binding.args, "model": str(folders.weights_folder(model)), "data_seed": arguments["seed"]}
    said |= {"bf16": on_gpu, "truncation_strategy": "right" if arguments["truncation"] else "delete"}
    said |= {"tuner_type": "lora" if arguments["use_lora"] else "full"}
    if arguments["use_lora"]:
        said |= {name: arguments.get(name, 0.0) for name in LORA} | {"target_modules": "all-linear"}
    if "problem_type" in arguments:
        said |= {"problem_type": PROBLEMS[arguments["problem_type"]], "num_labels": len(arguments["label_names"])}
    if loss_mask == "all":
        said |= {"loss_scale": "all"}
    if (known := _model_type(model)) is not None:
        said |= {"model_type": known}
    return said


def _model_type(model: Path) -> str | None:
    architectures = folders.config(folders.weights_folder(model)).get("architectures") or [""]
    return MODEL_TYPES.get(str(architectures[0]))


def command(python: Path, binding: Binding, said: Mapping[str, Any]) -> list[str]:
    """The program itself, without the launcher that would load torch once more to start it."""
    words = [word for name, value in sorted(said.items()) for word in (f"--{name}", *_words(value))]
    return [str(python), "-P", "-m", f"swift.cli.{binding.command}", *words]


def _words(value: Any) -> Sequence[str]:
    if isinstance(value, list | tuple):
        return [str(item) for item in value]
    return [str(value).lower() if isinstance(value, bool) else str(value)]


def read_back(document: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """An `args.json` of ms-swift as training arguments of ours, and what of it could not be carried over.

    The task type is not among them: `enforcer.bindings.tags_of` tells it.
    """
    ours = {name: document[name] for name in SAME if document.get(name) is not None}
    if isinstance(ours.get("loss_type"), list):
        ours["loss_type"] = ours["loss_type"][0]
    ours |= {"use_lora": document.get("tuner_type", document.get("train_type")) == "lora"}
    if ours["use_lora"]:
        ours |= {name: document[name] for name in LORA if document.get(name) is not None}
    back = {theirs: own for own, theirs in PROBLEMS.items()}
    if document.get("problem_type") in back:
        ours |= {"problem_type": back[document["problem_type"]], "num_labels": document.get("num_labels")}
    ours |= {"truncation": document.get("truncation_strategy") in ("left", "right")}
    ours |= {"model_name_or_path": document.get("model") or "", "dataset": list(document.get("dataset") or [])}
    lost = [f"{name}: {json.dumps(document[name])}" for name in OTHERWISE if document.get(name) not in EMPTY]
    return ours, lost


# What may be set there, changes what is learned, and has no counterpart here.
OTHERWISE = """system loss_scale template_backend agent_template deepspeed fsdp optimizer neftune_noise_alpha
    use_dora use_rslora quant_method quant_bits padding_free packing resume_from_checkpoint
    adapters external_plugins callbacks""".split()
EMPTY: tuple[Any, ...] = (None, "", [], {}, False, "default", "swift")
