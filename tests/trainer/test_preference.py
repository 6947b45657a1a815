"""Models learn from preferences what their data sheets say, and compute what plain TRL scripts compute."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import LANGUAGE, Watcher, contents, judged_rows, losses, make_chat, make_job, preferred_rows

from enforcer.problems import DatasetInvalid
from trainer import export, recipes
from trainer.job import Job, Outcome, Row

SHARED = {name: value for name, value in LANGUAGE.items() if name not in ("lora_dropout", "packing")}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "dpo": {"beta": 0.1, "loss_type": "sigmoid", "label_smoothing": 0.0},
    "cpo": {"beta": 0.1, "cpo_alpha": 1.0},
    "simpo": {"beta": 2.0, "simpo_gamma": 1.0},
    "orpo": {"beta": 0.1},
    "kto": {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
    "reward-modeling": {"center_rewards_coefficient": 0.01},
}


def tags(*fast: str) -> Any:
    """Every task type, of which these are tried each time: the others run the same code with another formula."""
    marked = [pytest.param(tag, marks=[pytest.mark.slow] * (tag not in fast)) for tag in ARGUMENTS]
    return pytest.mark.parametrize("tag", marked)


SAYS = {"prompt": "user", "chosen": "assistant", "rejected": "assistant", "completion": "assistant"}


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat(tmp_path_factory.mktemp("chat"))


def job_of(tag: str, root: Path, base: Path, run_id: str = "run-1", **changes: Any) -> Job:
    make = judged_rows if tag == "kto" else preferred_rows
    rows = {"train_rows": make(48, 1), "eval_rows": make(20, 2)}
    arguments = {**SHARED, **ARGUMENTS[tag], "max_steps": 3}
    return make_job(root, base, arguments, run_id, task_type=tag, **{**rows, **changes})


def train(job: Job) -> Outcome:
    return recipes.load(job.task_type).train(job)


# The script that people write with TRL, told what stays on this machine


def plain(job: Job) -> Any:
    """Train as a plain script does; returns its trainer."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, set_seed
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    config, trainer, own = {
        "dpo": (DPOConfig, DPOTrainer, {}),
        "kto": (KTOConfig, KTOTrainer, {}),
        "cpo": (CPOConfig, CPOTrainer, {}),
        "simpo": (CPOConfig, CPOTrainer, {"loss_type": "simpo", "cpo_alpha": 0.0}),
        "orpo": (ORPOConfig, ORPOTrainer, {}),
        "reward-modeling": (RewardConfig, RewardTrainer, {}),
    }[job.task_type]
    asked, rewarding = job.arguments, job.task_type == "reward-modeling"
    set_seed(asked["seed"])
    args = config(
        output_dir=str(job.folder.root / "plain"), learning_rate=asked["learning_rate"], max_steps=asked["max_steps"],
        per_device_train_batch_size=asked["per_device_train_batch_size"], warmup_steps=asked["warmup_ratio"],
        per_device_eval_batch_size=asked["per_device_eval_batch_size"], logging_steps=1, seed=asked["seed"], bf16=False,
        gradient_checkpointing=False, report_to="none", save_strategy="no", disable_tqdm=True,
        **{**{name: asked[name] for name in ARGUMENTS[job.task_type]}, **own},
    )  # fmt: skip
    if rewarding:
        model = AutoModelForSequenceClassification.from_pretrained(job.model_dir, num_labels=1)
    else:
        model = AutoModelForCausalLM.from_pretrained(job.model_dir)
    adapter = LoraConfig(
        task_type="SEQ_CLS" if rewarding else "CAUSAL_LM", r=asked["lora_rank"], lora_alpha=asked["lora_alpha"],
        lora_dropout=0.05, target_modules="all-linear",
    )  # fmt: skip

    def conversations(rows: Any) -> Dataset:
        return Dataset.from_list(
            [{k: [{"role": SAYS[k], "content": v}] if k in SAYS else v for k, v in row.items()} for row in rows]
        )

    run = trainer(
        model=model, args=args, train_dataset=conversations(job.train_rows), eval_dataset=conversations(job.eval_rows),
        processing_class=AutoTokenizer.from_pretrained(job.model_dir),
        peft_config=adapter if asked["use_lora"] else None,
    )  # fmt: skip
    run.train()
    return run


FULL = {tag: pytest.param(tag, False, id=f"{tag}-full", marks=[pytest.mark.slow] * (tag != "dpo")) for tag in ARGUMENTS}


@pytest.mark.parametrize(
    ("tag", "use_lora"), [*FULL.values(), *(pytest.param(tag, True, id=f"{tag}-lora") for tag in ARGUMENTS)]
)
def test_losses_scores_and_the_saved_model_are_those_of_a_plain_script(
    tag: str, use_lora: bool, chat: Path, tmp_path: Path
) -> None:
    """Its dropout has no say: TRL turns it off. Of the scores it knows the means, over one batch here."""
    job = job_of(tag, tmp_path, chat, use_lora=use_lora, per_device_eval_batch_size=20, learning_rate=1e-2)

    outcome, theirs = train(job), plain(job)

    said = [entry["loss"] for entry in theirs.state.log_history if "loss" in entry]
    assert len(said) == 3
    assert np.abs(np.array(losses(outcome)) - said).max() < 1e-4
    measured = theirs.evaluate()
    for ours, names in {
        "eval_loss": ["eval_loss"],
        "reward_margin": ["eval_rewards/margins", "eval_margin"],
        "reward_accuracy": ["eval_rewards/accuracies", "eval_accuracy"],
    }.items():
        if ours in outcome.scores:
            (known,) = [measured[name] for name in names if name in measured]
            assert outcome.scores[ours].value == pytest.approx(known, abs=1e-4)
    reward_N = rewards_of_saved(job)
    if tag == "kto":
        good_N = np.array([row["label"] for row in job.eval_rows])
        assert outcome.scores["accuracy"].value == ((reward_N > 0) == good_N).mean()
    else:
        assert outcome.scores["reward_margin"].value == pytest.approx(reward_N.mean(), abs=1e-4)
        assert outcome.scores["reward_accuracy"].value == (reward_N > 0).mean()


@tags("dpo", "cpo", "kto", "reward-modeling")
def test_an_adapter_learns_what_is_preferred(tag: str, chat: Path, tmp_path: Path) -> None:
    job = job_of(tag, tmp_path, chat, use_lora=True, max_steps=20, learning_rate=1e-2)

    outcome = train(job)

    told = losses(outcome)
    assert np.mean(told[-5:]) < 0.95 * np.mean(told[:2])
    assert outcome.scores["accuracy" if tag == "kto" else "reward_accuracy"].value >= 0.95
    for score in outcome.scores.values():
        assert score.n == len(job.eval_rows)
        assert score.low <= score.value <= score.high
    learned = {name for name, weight in outcome.model.named_parameters() if weight.requires_grad}
    assert all("lora_" in name or "score" in name for name in learned)
    assert outcome.details["trainable_parameters"] < 0.1 * outcome.details["parameters"]


@tags("dpo")
def test_the_same_seed_gives_the_same_losses_and_another_seed_others(tag: str, chat: Path, tmp_path: Path) -> None:
    def run(name: str, seed: int) -> list[float]:
        return losses(train(job_of(tag, tmp_path, chat, name, use_lora=True, max_steps=3, seed=seed)))

    assert run("first", 7) == run("again", 7) != run("other", 8)


@tags("dpo", "cpo", "reward-modeling")
def test_a_stop_request_leaves_a_checkpoint_and_no_scores(tag: str, chat: Path, tmp_path: Path) -> None:
    job = job_of(tag, tmp_path, chat, listener=Watcher(stop_at=1))

    outcome = train(job)

    assert (outcome.stopped, outcome.steps, outcome.scores) == ("interrupted", 1, {})
    assert (job.folder.checkpoints / "checkpoint-1" / "optimizer.pt").exists()
    assert not job.folder.model.exists()


@pytest.mark.parametrize(
    "use_lora", [pytest.param(False, id="full", marks=pytest.mark.slow), pytest.param(True, id="lora")]
)
def test_a_run_leaves_no_pickle_and_says_nothing_of_this_machine(use_lora: bool, tmp_path: Path) -> None:
    base = make_chat(tmp_path / "li" / "base")
    job = job_of("reward-modeling", tmp_path, base, use_lora=use_lora, max_steps=1)

    train(job)

    files = contents(job.folder.model)
    assert {Path(name).suffix for name in files} == {".json", ".safetensors", ".jinja"}
    assert not [name for name, content in files.items() if bytes(tmp_path) in content]


@tags("dpo", "reward-modeling")
def test_a_merged_model_rewards_as_its_adapter_does(tag: str, chat: Path, tmp_path: Path) -> None:
    job = job_of(tag, tmp_path, chat, use_lora=True, learning_rate=1e-2)
    outcome = train(job)

    merged = export.export(job, outcome, "merged")

    assert json.loads((merged / "merge.json").read_text())["max_abs_difference"] < 1e-4
    assert not (merged / "adapter_config.json").exists()
    assert rewards_of_saved(job, merged) == pytest.approx(rewards_of_saved(job), abs=1e-4)


ANSWER = {"kto": "completion"}
LONG = "so " * 60  # 180 tokens of the 128 that are allowed


def with_one(tag: str, column: str) -> list[Row]:
    """Rows of a kind, of which the first has a long text."""
    first, *rows = judged_rows(8, 1) if tag == "kto" else preferred_rows(8, 1)
    return [{**first, column: LONG}, *rows]


@tags("dpo", "cpo", "kto", "reward-modeling")
@pytest.mark.parametrize("side", ["train_rows", "eval_rows"])
def test_rows_that_are_too_long_are_refused_and_neither_cut_nor_dropped(
    tag: str, side: str, chat: Path, tmp_path: Path
) -> None:
    with pytest.raises(DatasetInvalid, match=r"^1 rows are longer than `max_length` 128"):
        train(job_of(tag, tmp_path, chat, **{side: with_one(tag, ANSWER.get(tag, "chosen"))}))


@tags("dpo", "cpo", "kto", "reward-modeling")
def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused(tag: str, chat: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetInvalid, match=r"^1 rows have nothing left to learn after 128 tokens"):
        train(job_of(tag, tmp_path, chat, train_rows=with_one(tag, "prompt"), truncation=True))


@tags("cpo", "kto", "reward-modeling")
def test_with_truncation_a_long_answer_is_cut(tag: str, chat: Path, tmp_path: Path) -> None:
    rows = with_one(tag, ANSWER.get(tag, "chosen"))

    outcome = train(job_of(tag, tmp_path, chat, train_rows=rows, truncation=True, max_steps=1))

    assert outcome.steps == 1
    assert np.isfinite(losses(outcome)).all()


# Other rows, other models


def test_a_model_without_a_chat_template_reads_prompt_and_answer_as_one_text(tmp_path: Path) -> None:
    base = make_chat(tmp_path / "base", template=None)
    job = job_of("dpo", tmp_path, base, use_lora=True)

    outcome = train(job)

    assert outcome.scores["reward_margin"].value == pytest.approx(rewards_of_saved(job).mean(), abs=1e-4)


def test_rewards_are_learned_from_answers_without_a_prompt_and_by_encoders(encoder: Path, tmp_path: Path) -> None:
    def bare(rows: list[Row]) -> list[Row]:
        return [{name: f"say {row[name][:4]} today" for name in ("chosen", "rejected")} for row in rows]

    rows = {"train_rows": bare(preferred_rows(48, 1)), "eval_rows": bare(preferred_rows(20, 2))}
    job = job_of("reward-modeling", tmp_path, encoder, use_lora=True, max_steps=20, learning_rate=1e-2, **rows)

    outcome = train(job)

    assert outcome.scores["reward_accuracy"].value == 1.0
    assert outcome.scores["reward_margin"].value == pytest.approx(rewards_of_saved(job).mean(), abs=1e-4)


def rewards_of_saved(job: Job, merged: Path | None = None) -> Any:
    """Rewards (kto) or margins, each row by itself, by the library's own loss on what was saved, or merged."""
    import torch

    from trainer.inputs.chat import Reader

    recipe: Any = recipes.load(job.task_type)
    base = job.model_dir if job.arguments["use_lora"] and merged is None else None
    model, tokenizer = recipe.load(merged or job.folder.model, base)
    reader, beta = Reader(job.folder.model), job.arguments.get("beta")
    before = recipe.load(job.model_dir)[0] if job.task_type in ("dpo", "kto") else None

    @torch.inference_mode()
    def reward(row: Mapping[str, Any], name: str) -> float:
        if job.task_type == "reward-modeling":
            return float(model(input_ids=torch.tensor([recipe.answer(reader, row.get("prompt"), row[name])])).logits)
        tokens = reader.answer(row["prompt"], row[name])
        # The template's last word is a line break, behind which TRL's CPO and ORPO put another end token.
        end = [tokenizer.eos_token_id] * (job.task_type in ("cpo", "simpo", "orpo"))
        ids, labels = torch.tensor([[*tokens.ids, *end]]), torch.tensor([[*tokens.labels, *end]])
        mean = float(model(input_ids=ids, labels=labels).loss) - (
            0.0 if before is None else float(before(input_ids=ids, labels=labels).loss)
        )
        return -beta * mean * (1 if job.task_type in ("simpo", "orpo") else sum(tokens.trained) + len(end))

    if job.task_type == "kto":
        return np.array([reward(row, "completion") for row in job.eval_rows])
    return np.array([reward(row, "chosen") - reward(row, "rejected") for row in job.eval_rows])
