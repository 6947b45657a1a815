"""Language models learn what their data sheets say, and compute what a plain TRL script computes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import LANGUAGE, Watcher, asked_rows, contents, labelled_rows, losses, make_chat, make_job

from enforcer.problems import DatasetInvalid
from trainer.inputs.chat import Reader
from trainer.job import Job
from trainer.recipes import _language, pre_training, sft

TEXTS = [{"text": row["text"]} for row in labelled_rows(64, 1)]
KINDS = pytest.mark.parametrize(
    ("recipe", "rows"), [(sft, {}), (pre_training, {"train_rows": TEXTS, "eval_rows": TEXTS[:16]})], ids=["sft", "pt"]
)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat(tmp_path_factory.mktemp("chat"))


def plain_sft(job: Job) -> list[float]:
    """The script that people write with TRL: conversations in, completions learned."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
    from trl import SFTConfig, SFTTrainer

    asked = job.arguments
    set_seed(asked["seed"])
    rows = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": row["completion"]}],
        }
        for row in job.train_rows
    ]
    adapter = LoraConfig(
        task_type="CAUSAL_LM", r=asked["lora_rank"], lora_alpha=asked["lora_alpha"], target_modules="all-linear"
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(job.model_dir),
        args=SFTConfig(
            output_dir=str(job.folder.root / "plain"), learning_rate=asked["learning_rate"],
            max_steps=asked["max_steps"], per_device_train_batch_size=asked["per_device_train_batch_size"],
            warmup_steps=asked["warmup_ratio"], logging_steps=1, seed=asked["seed"], bf16=False,
            gradient_checkpointing=False, report_to="none", save_strategy="no", disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(job.model_dir),
        peft_config=adapter if asked["use_lora"] else None,
    )  # fmt: skip
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("use_lora", [False, True], ids=["full", "lora"])
def test_the_losses_are_those_of_a_plain_script(use_lora: bool, chat: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, chat, LANGUAGE, use_lora=use_lora, max_steps=6)

    ours, theirs = losses(sft.train(job)), plain_sft(job)

    assert len(ours) == 6
    assert np.abs(np.array(ours) - theirs).max() < 1e-4


@KINDS
def test_training_learns_and_every_score_has_an_interval(recipe: Any, rows: Any, chat: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, chat, LANGUAGE, max_steps=40, learning_rate=1e-2, **rows)

    outcome = recipe.train(job)

    told = losses(outcome)
    assert np.mean(told[-5:]) < 0.7 * np.mean(told[:5])
    assert set(outcome.scores) == {"eval_loss", "perplexity", "token_accuracy"}
    for score in outcome.scores.values():
        assert score.n == len(job.eval_rows)
        assert score.low < score.value < score.high
    assert outcome.scores["perplexity"].value == pytest.approx(np.exp(outcome.scores["eval_loss"].value))


def test_scores_are_those_of_the_model_that_was_saved(chat: Path, tmp_path: Path) -> None:
    import torch

    job = make_job(tmp_path, chat, LANGUAGE, max_steps=3, use_lora=True)
    outcome = sft.train(job)

    model, tokenizer = sft.load(job.folder.model, job.model_dir)
    total, count = 0.0, 0
    for row in _language.tokens(job, Reader(chat), job.eval_rows):  # one by one, by the library's own loss
        ids, labels = torch.tensor([row.ids]), torch.tensor([row.labels])
        with torch.inference_mode():
            total += float(model(input_ids=ids, labels=labels).loss) * sum(row.trained)
        count += sum(row.trained)
    assert outcome.scores["eval_loss"].value == pytest.approx(total / count, abs=1e-5)
    assert "chat_template" in str(contents(job.folder.model).keys())
    assert tokenizer.chat_template


def test_the_mask_of_the_profile_decides_what_is_learned(chat: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, chat, LANGUAGE, max_steps=1)

    answers, everything = sft.train(job), sft.train(replace(job, loss_mask="all"))

    assert answers.details["trained_token_share"] < 0.3
    assert everything.details["trained_token_share"] == 1.0


def test_rows_that_are_packed_do_not_see_each_other(chat: Path, tmp_path: Path) -> None:
    """One packed step has the loss of the same rows side by side: with a look at a neighbour it would be another."""
    rows = asked_rows(8, 3)
    changes = {"max_steps": 1, "max_length": 1024, "train_rows": rows}
    padded = sft.train(make_job(tmp_path, chat, LANGUAGE, "padded", **changes))
    packed = sft.train(make_job(tmp_path, chat, LANGUAGE, "packed", packing=True, **changes))

    assert losses(packed) == pytest.approx(losses(padded), abs=1e-5)


@KINDS
def test_the_same_seed_gives_the_same_losses(recipe: Any, rows: Any, chat: Path, tmp_path: Path) -> None:
    def run(name: str, seed: int) -> list[float]:
        changes = {"use_lora": True, "lora_dropout": 0.1, "max_steps": 3, "seed": seed, **rows}
        return losses(recipe.train(make_job(tmp_path, chat, LANGUAGE, name, **changes)))

    assert run("first", 7) == run("again", 7) != run("other", 8)


def test_a_stop_request_leaves_a_checkpoint_and_no_scores(chat: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, chat, LANGUAGE, listener=Watcher(stop_at=2))

    outcome = sft.train(job)

    assert (outcome.stopped, outcome.steps, outcome.scores) == ("interrupted", 2, {})
    assert (job.folder.checkpoints / "checkpoint-2" / "optimizer.pt").exists()
    assert not job.folder.model.exists()


def test_what_is_too_long_is_refused_and_never_dropped(chat: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetInvalid, match="192 rows are longer than `max_length` 16"):
        sft.train(make_job(tmp_path / "long", chat, LANGUAGE, max_length=16))
    with pytest.raises(DatasetInvalid, match="nothing left to learn after 16 tokens"):
        sft.train(make_job(tmp_path / "cut", chat, LANGUAGE, max_length=16, truncation=True))


@pytest.mark.parametrize("use_lora", [False, True], ids=["full", "lora"])
def test_a_run_leaves_no_pickle_and_says_nothing_of_this_machine(use_lora: bool, tmp_path: Path) -> None:
    base = make_chat(tmp_path / "li" / "base")
    job = make_job(tmp_path, base, LANGUAGE, use_lora=use_lora, max_steps=1)

    sft.train(job)

    files = contents(job.folder.model)
    assert {Path(name).suffix for name in files} == {".json", ".safetensors", ".jinja"}
    assert not [name for name, content in files.items() if bytes(tmp_path) in content]
    if use_lora:
        assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "base"


def test_an_answer_ends_where_the_model_ends_it(chat: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, chat, LANGUAGE, max_steps=60, learning_rate=1e-2)
    outcome = sft.train(job)
    model, tokenizer = sft.load(job.folder.model)
    reader = Reader(job.folder.model)
    rows = job.eval_rows[:12]

    said = _language.answers(model, tokenizer, [reader.prompt(row) for row in rows], max_new_tokens=24, batch=5)

    right = sum(answer.strip() == row["completion"] for answer, row in zip(said, rows, strict=True))
    assert outcome.scores["token_accuracy"].value > 0.9
    assert right >= 11
