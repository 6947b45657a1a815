"""Recipes that sample answers while they learn: they compute what a plain TRL script does, and repeat themselves."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import LANGUAGE, Watcher, asked_rows, contents, make_chat, make_job

from enforcer.problems import ArgumentInvalid, DatasetInvalid
from trainer import sealed
from trainer.inputs.chat import Reader, Tokens
from trainer.job import Job, Outcome
from trainer.recipes import gkd, grpo
from trainer.recipes._rewards import as_trl, named

SAMPLING = {
    **LANGUAGE, "max_completion_length": 8, "max_steps": 4, "per_device_train_batch_size": 8, "logging_steps": 1,
    "per_device_eval_batch_size": 8,
}  # fmt: skip
GRPO = {
    **SAMPLING,
    "num_generations": 4, "temperature": 1.0, "beta": 0.0, "reward_functions": ["at-most-1-words", "contains-answer"],
}  # fmt: skip
GKD = {**SAMPLING, "lmbda": 0.5, "beta": 0.5, "temperature": 0.9}
WATCHED = ("loss", "grad_norm", "reward")


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def teacher(chat: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_teacher(tmp_path_factory.mktemp("teacher") / "teacher", chat)


def make_teacher(folder: Path, chat: Path) -> Path:
    """The same model with each weight moved a little: what it prefers is something else."""
    import torch
    from transformers import AutoModelForCausalLM

    shutil.copytree(chat, folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    model.save_pretrained(folder)
    return folder


Make = Callable[..., Job]


@pytest.fixture
def make(chat: Path, teacher: Path, tmp_path: Path) -> Make:
    def job(recipe: Any, name: str = "run-1", **changes: Any) -> Job:
        arguments = GRPO if recipe is grpo else GKD
        # The adapter's learning rate is large, so that four steps show.
        rows = [as_asked(row) if recipe is grpo else as_talk(row) for row in asked_rows(24, 1)]
        given = {"train_rows": rows[:16], "eval_rows": rows[16:], "loss_mask": "assistant", **changes}
        made = make_job(tmp_path, chat, arguments, name, task_type=recipe.__name__.rpartition(".")[2], **given)
        return replace(made, teacher_dir=teacher if recipe is gkd else None)

    return job


def as_asked(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"prompt": row["prompt"], "answer": row["completion"]}


def as_talk(row: Mapping[str, Any]) -> dict[str, Any]:
    said = [("user", "hello"), ("assistant", "yes?"), ("user", row["prompt"]), ("assistant", row["completion"])]
    return {"messages": [{"role": role, "content": content} for role, content in said]}


def told(outcome: Outcome) -> list[list[float]]:
    return _numbers(outcome.details["log_history"])


def _numbers(log_history: list[dict[str, Any]]) -> list[list[float]]:
    return [[entry[name] for name in WATCHED if name in entry] for entry in log_history if "loss" in entry]


def plain_grpo(job: Job, common: dict[str, Any], adapter: Any) -> Any:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    rows = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in job.train_rows]
    return GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(job.model_dir),
        reward_funcs=[as_trl(name, reward) for name, reward in named(GRPO["reward_functions"]).items()],
        args=GRPOConfig(**common, num_generations=4, max_completion_length=8, temperature=1.0, beta=0.0),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(job.model_dir),
        peft_config=adapter,
    )


def plain_gkd(job: Job, common: dict[str, Any], adapter: Any) -> Any:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    return GKDTrainer(
        model=AutoModelForCausalLM.from_pretrained(job.model_dir),
        teacher_model=AutoModelForCausalLM.from_pretrained(job.teacher_dir),
        args=GKDConfig(**common, max_length=128, max_new_tokens=8, lmbda=0.5, beta=0.5, temperature=0.9),
        train_dataset=Dataset.from_list(list(job.train_rows)),
        processing_class=AutoTokenizer.from_pretrained(job.model_dir),
        peft_config=adapter,
    )


BOTH = pytest.mark.parametrize(("recipe", "plain"), [(grpo, plain_grpo), (gkd, plain_gkd)], ids=["grpo", "gkd"])


@BOTH
@pytest.mark.parametrize("use_lora", [pytest.param(False, marks=pytest.mark.slow), True], ids=["full", "lora"])
def test_losses_gradients_and_rewards_are_those_of_a_plain_script(
    recipe: Any, plain: Any, use_lora: bool, make: Make
) -> None:
    from peft import LoraConfig
    from transformers import set_seed

    job = make(recipe, use_lora=use_lora)
    ours = told(recipe.train(job))
    set_seed(job.arguments["seed"])
    common = {
        "output_dir": str(job.folder.root / "plain"), "learning_rate": 3e-3, "max_steps": 4, "warmup_steps": 0.1,
        "per_device_train_batch_size": 8, "logging_steps": 1, "seed": 7, "bf16": False, "report_to": "none",
        "gradient_checkpointing": False, "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip
    adapter = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")
    script = plain(job, common, adapter if use_lora else None)
    script.train()

    theirs = _numbers(script.state.log_history)

    assert (len(ours), len(ours[0])) == (4, 3 if recipe is grpo else 2)
    assert np.abs(np.array(ours) - theirs).max() < 1e-4


@BOTH
def test_a_run_scores_what_it_held_out_and_leaves_a_model(recipe: Any, plain: Any, make: Make) -> None:
    job = make(recipe)

    outcome = recipe.train(job)

    names = {"mean_reward", "greedy_reward"} if recipe is grpo else {"distillation_loss", "eval_loss"}
    assert outcome.scores.keys() == names
    assert {score.n for score in outcome.scores.values()} == {8}
    assert all(score.low <= score.value <= score.high for score in outcome.scores.values())
    model, _tokenizer = recipe.load(job.folder.model)
    assert not model.training


@BOTH
def test_a_continued_run_samples_the_answers_that_would_have_come(recipe: Any, plain: Any, make: Make) -> None:
    """grpo takes 2 of 8 prompts a step, gkd 4 of 16 rows: after 4 steps the second pass begins, and is stopped."""
    changes = {
        "use_lora": True, "lora_dropout": 0.2, "max_steps": 6,
        "train_rows": make(recipe, "rows").train_rows[: 8 if recipe is grpo else 16],
        "per_device_train_batch_size": 8 if recipe is grpo else 4,
    }  # fmt: skip
    whole = make(recipe, "whole", **changes)
    stopped = make(recipe, "stopped", **changes, listener=Watcher(stop_at=5))

    uninterrupted = recipe.train(whole)
    recipe.train(stopped)
    rest = make(recipe, "rest", **changes, resume_from=sealed.newest(stopped.folder.checkpoints))
    continued = recipe.train(rest)

    assert told(continued) == told(uninterrupted)
    assert contents(rest.folder.model) == contents(whole.folder.model)
    assert continued.scores == uninterrupted.scores


@pytest.mark.slow
def test_the_student_comes_nearer_to_its_teacher(make: Make) -> None:
    far = gkd.train(make(gkd, "far", max_steps=1, learning_rate=1e-9)).scores["distillation_loss"]

    near = gkd.train(make(gkd, "near", max_steps=15, learning_rate=1e-2, lmbda=0.0)).scores["distillation_loss"]

    assert near.value < 0.7 * far.value


@pytest.mark.slow
def test_answers_that_are_rewarded_come_more_often(make: Make) -> None:
    """One word is what is wanted; a random model says a space now and then."""
    before = grpo.train(make(grpo, "before", max_steps=1, learning_rate=1e-9))
    after = grpo.train(make(grpo, "after", max_steps=30, per_device_train_batch_size=16))

    assert after.scores["mean_reward"].value > before.scores["mean_reward"].value


def test_of_a_conversation_the_last_answer_is_distilled() -> None:
    row = Tokens([1, 2, 3, 4, 5, 6, 7], [False, True, False, False, True, True, False])

    assert gkd._last_answer(row) == Tokens([1, 2, 3, 4, 5, 6], [False, False, False, False, True, True])


def test_a_prompt_has_to_leave_room_for_its_answer(make: Make, chat: Path) -> None:
    longest = max(len(Reader(chat).prompt(row)) for row in make(grpo, "rows").train_rows)

    with pytest.raises(DatasetInvalid, match=f"prompts are longer than the {longest - 1} tokens"):
        grpo.train(make(grpo, "long", max_length=longest + 7))
    with pytest.raises(ArgumentInvalid, match="leaves no room for a prompt"):
        grpo.train(make(grpo, "none", max_length=8))
