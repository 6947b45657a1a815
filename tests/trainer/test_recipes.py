"""A recipe trains what its data sheet says, repeats itself, listens, and computes what the plain library computes."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from tiny import CLASSIFICATION, EMBEDDING, LABELS, Watcher, make_job

from trainer import recipes
from trainer.job import Job, Outcome
from trainer.recipes import embedding, sequence_classification

BOTH = pytest.mark.parametrize(
    ("recipe", "arguments"),
    [(sequence_classification, CLASSIFICATION), (embedding, EMBEDDING)],
    ids=["classify", "embed"],
)


def losses(outcome: Outcome) -> list[float]:
    return [entry["loss"] for entry in outcome.details["log_history"] if "loss" in entry]


# Finding a recipe


def test_every_recipe_in_the_folder_is_known_and_shared_parts_are_not() -> None:
    assert {"embedding", "sequence-classification"} <= set(recipes.known())
    assert not any("steps" in name for name in recipes.known())


@pytest.mark.parametrize("name", ["dpo2", "_steps", "-steps", "sequence_classification", "../embedding", "os", ""])
def test_an_unknown_recipe_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(recipes.UnknownRecipe, match="`embedding`") as refusal:
        recipes.load(name)

    assert f"`{name}` is no recipe" in str(refusal.value)


def test_every_recipe_has_a_data_sheet_for_a_head() -> None:
    for name in recipes.known():
        sheet = recipes.load(name).__doc__ or ""

        assert sheet.startswith(f"{name} -- ")
        assert re.findall(r"^(Row|Loss|Trains|Scores) ", sheet, re.MULTILINE) == ["Row", "Loss", "Trains", "Scores"]


# What both recipes promise


@BOTH
def test_training_learns_and_scores_with_intervals(
    recipe: Any, arguments: Mapping[str, Any], encoder: Path, tmp_path: Path
) -> None:
    watcher = Watcher()
    job = make_job(tmp_path, encoder, arguments, max_steps=40, listener=watcher)

    outcome = recipe.train(job)

    assert np.mean(watcher.losses[-5:]) < 0.7 * np.mean(watcher.losses[:5])
    assert outcome.steps == 40
    assert outcome.stopped is None
    assert outcome.peak_memory_bytes > 50 * 2**20
    for score in outcome.scores.values():
        assert score.n == len(job.eval_rows)
        assert score.confidence == 0.95
    assert [(step, total) for step, total, _ in watcher.steps] == [(step, 40) for step in range(1, 41)]


@BOTH
def test_steps_between_log_steps_are_told_without_logs(
    recipe: Any, arguments: Mapping[str, Any], encoder: Path, tmp_path: Path
) -> None:
    watcher = Watcher()

    recipe.train(make_job(tmp_path, encoder, arguments, max_steps=6, logging_steps=3, listener=watcher))

    assert [bool(logs) for _, _, logs in watcher.steps] == [False, False, True, False, False, True]


@BOTH
@pytest.mark.parametrize("use_lora", [False, True], ids=["full", "lora"])
def test_the_same_seed_gives_the_same_losses_and_another_seed_others(
    recipe: Any, arguments: Mapping[str, Any], use_lora: bool, encoder: Path, tmp_path: Path
) -> None:
    def run(name: str, seed: int) -> list[float]:
        changes = {"use_lora": use_lora, "lora_dropout": 0.1 if use_lora else 0.0, "max_steps": 5, "seed": seed}
        return losses(recipe.train(make_job(tmp_path, encoder, arguments, name, **changes)))

    first, again, other = run("first", 7), run("again", 7), run("other", 8)

    assert first == again
    assert first != other


@BOTH
def test_a_stop_request_leaves_a_checkpoint_and_no_scores(
    recipe: Any, arguments: Mapping[str, Any], encoder: Path, tmp_path: Path
) -> None:
    job = make_job(tmp_path, encoder, arguments, listener=Watcher(stop_at=3))

    outcome = recipe.train(job)

    assert (outcome.stopped, outcome.steps, outcome.scores) == ("interrupted", 3, {})
    assert (job.folder.checkpoints / "checkpoint-3" / "trainer_state.json").exists()
    assert (job.folder.checkpoints / "checkpoint-3" / "optimizer.pt").exists()
    assert not job.folder.model.exists()


@BOTH
def test_a_run_leaves_no_pickle_beside_its_model(
    recipe: Any, arguments: Mapping[str, Any], encoder: Path, tmp_path: Path
) -> None:
    job = make_job(tmp_path, encoder, arguments, max_steps=1)

    recipe.train(job)

    suffixes = {file.suffix for file in job.folder.model.rglob("*") if file.is_file()}
    assert suffixes == {".json", ".safetensors"}
    assert not list(job.folder.checkpoints.rglob("*"))


@BOTH
def test_the_board_says_which_task_this_is(
    recipe: Any, arguments: Mapping[str, Any], encoder: Path, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    job = make_job(tmp_path, encoder, arguments, max_steps=2)

    outcome = recipe.train(job)

    (events,) = job.folder.tensorboard.rglob("*")  # one file: arguments and scores are no second run
    board = EventAccumulator(str(events)).Reload()
    (task,) = board.Tensors("task/text_summary")
    assert task.tensor_proto.string_val == [f"task={job.task_type}".encode()]
    assert [event.step for event in board.Scalars("train/loss")] == [1, 2]
    assert {f"eval/{name}" for name in outcome.scores} <= set(board.Tags()["scalars"])


@BOTH
def test_rows_that_are_too_long_are_refused_and_not_cut(
    recipe: Any, arguments: Mapping[str, Any], encoder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="rows are longer than `max_length` 4"):
        recipe.train(make_job(tmp_path / "refused", encoder, arguments, max_length=4))

    cut = recipe.train(make_job(tmp_path / "cut", encoder, arguments, max_length=4, truncation=True, max_steps=1))

    assert cut.steps == 1


@BOTH
def test_lora_trains_the_adapter_and_a_new_head_only(
    recipe: Any, arguments: Mapping[str, Any], encoder: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    job = make_job(tmp_path, encoder, arguments, use_lora=True, max_steps=3)

    outcome = recipe.train(job)

    learned = {name for name, weight in outcome.model.named_parameters() if weight.requires_grad}
    assert learned
    assert all("lora_" in name or "classifier" in name for name in learned)
    saved = load_file(job.folder.model / "adapter_model.safetensors")
    assert all("lora_" in name or "classifier" in name for name in saved)
    assert outcome.details["trainable_parameters"] < 0.2 * outcome.details["parameters"]


# Nothing but the plain library


def test_classification_computes_what_a_plain_script_computes(encoder: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    job = make_job(tmp_path, encoder, CLASSIFICATION, use_lora=True, lora_dropout=0.1, max_steps=8)
    ours = losses(sequence_classification.train(job))

    set_seed(7)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=3)
    adapter = LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=8, lora_dropout=0.1, target_modules="all-linear")
    rows = Dataset.from_list(list(job.train_rows)).map(
        lambda row: {**tokenizer(row["text"]), "label": LABELS.index(row["label"])}, remove_columns=["text"]
    )
    plain = Trainer(
        model=get_peft_model(model, adapter),
        args=TrainingArguments(
            str(tmp_path / "plain"), learning_rate=3e-3, max_steps=8, per_device_train_batch_size=16, warmup_steps=0.1,
            seed=7, logging_steps=1, report_to="none", save_strategy="no", disable_tqdm=True,
        ),
        train_dataset=rows,
        data_collator=DataCollatorWithPadding(tokenizer),
    )  # fmt: skip
    plain.train()

    theirs = [entry["loss"] for entry in plain.state.log_history if "loss" in entry]
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_embedding_computes_what_a_plain_script_computes(encoder: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from transformers import set_seed

    job = make_job(tmp_path, encoder, EMBEDDING, max_steps=8)
    ours = losses(embedding.train(job))

    set_seed(7)
    model = SentenceTransformer(str(encoder))  # mean pooling is its guess for a plain BERT
    model.max_seq_length = 32
    plain = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            str(tmp_path / "plain"), learning_rate=3e-3, max_steps=8, per_device_train_batch_size=16, warmup_steps=0.1,
            seed=7, logging_steps=1, report_to="none", save_strategy="no", disable_tqdm=True,
            batch_sampler="no_duplicates",
        ),
        train_dataset=Dataset.from_list(list(job.train_rows)),
        loss=MultipleNegativesRankingLoss(model, scale=20),
    )  # fmt: skip
    plain.train()

    theirs = [entry["loss"] for entry in plain.state.log_history if "loss" in entry]
    assert ours == pytest.approx(theirs, abs=1e-4)


# sequence-classification


def test_label_names_are_in_the_config_in_any_script(encoder: Path, tmp_path: Path) -> None:
    for use_lora in (False, True):
        job = make_job(tmp_path, encoder, CLASSIFICATION, f"lora-{use_lora}", use_lora=use_lora, max_steps=1)

        sequence_classification.train(job)

        config = json.loads((job.folder.model / "config.json").read_text(encoding="utf-8"))
        assert config["id2label"] == {"0": "科技", "1": "体育", "2": "财经"}
        assert config["label2id"] == {"科技": 0, "体育": 1, "财经": 2}
        assert config["problem_type"] == "single_label_classification"


def test_the_confusion_matrix_is_kept_named_and_drawn(encoder: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, encoder, CLASSIFICATION, max_steps=40)

    outcome = sequence_classification.train(job)

    matrix = outcome.details["confusion_matrix"]
    assert matrix["labels"] == list(LABELS)
    assert np.sum(matrix["rows_are_truth"], axis=1).tolist() == [20, 20, 20]
    assert outcome.scores["accuracy"].value == np.trace(matrix["rows_are_truth"]) / 60
    assert [row["support"] for row in outcome.details["per_class"]] == [20, 20, 20]
    assert (job.folder.root / "confusion-matrix.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("pooler", [True, False], ids=["pooler-in-base", "pooler-new"])
def test_a_saved_adapter_answers_as_the_live_model_does(pooler: bool, encoder: Path, tmp_path: Path) -> None:
    """A base saved by masked-language training has no pooler: the random one must be saved with the adapter."""
    import torch

    base = encoder if pooler else tiny.make_encoder(tmp_path / "masked", head=True)
    job = make_job(tmp_path, base, CLASSIFICATION, use_lora=True, max_steps=5)

    outcome = sequence_classification.train(job)

    model, tokenizer = sequence_classification.load(job.folder.model)
    batch = tokenizer([row["text"] for row in job.eval_rows], padding=True, return_tensors="pt")
    with torch.inference_mode():
        assert torch.equal(model(**batch).logits, outcome.model.eval()(**batch).logits)


def test_a_decoder_without_a_padding_token_can_classify(encoder: Path, tmp_path: Path) -> None:
    decoder = tiny.make_decoder(tmp_path / "decoder", encoder)
    watcher = Watcher()

    outcome = sequence_classification.train(
        make_job(tmp_path, decoder, CLASSIFICATION, use_lora=True, max_steps=40, learning_rate=1e-2, listener=watcher)
    )

    assert watcher.losses[-1] < watcher.losses[0]
    assert outcome.scores["accuracy"].n == 60


# embedding


def test_without_inbatch_negatives_each_row_brings_its_own(encoder: Path, tmp_path: Path) -> None:
    rows = tiny.pair_rows(96, 1, negatives=True)
    watcher = Watcher()
    job = make_job(
        tmp_path, encoder, EMBEDDING, use_inbatch_negatives=False, train_rows=rows, max_steps=20, listener=watcher
    )

    embedding.train(job)

    assert watcher.losses[-1] < 0.5 * watcher.losses[0]


def test_without_any_negatives_there_is_nothing_to_learn(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rows have no `negative`"):
        embedding.train(make_job(tmp_path, encoder, EMBEDDING, use_inbatch_negatives=False))


def test_a_negative_in_some_rows_only_is_refused(encoder: Path, tmp_path: Path) -> None:
    rows = [*tiny.pair_rows(10, 1, negatives=True), *tiny.pair_rows(10, 2)]

    with pytest.raises(ValueError, match="10 of 20 rows have a `negative`"):
        embedding.train(make_job(tmp_path, encoder, EMBEDDING, train_rows=rows))


def test_the_pair_loss_is_infonce_over_the_pair() -> None:
    """Cosine 0.6 to the positive, 0 to the negative; scale 10: softplus(0 - 6) = ln(1 + e^-6) = 0.0024757."""
    import torch

    vectors = {"a": [1.0, 0.0], "p": [0.6, 0.8], "n": [0.0, 1.0]}

    class LookUp(torch.nn.Module):
        def forward(self, features: dict[str, Any]) -> dict[str, Any]:
            return {"sentence_embedding": torch.tensor([vectors[features["text"]]])}

    loss = embedding.PairLoss(LookUp(), scale=10)

    assert loss([{"text": name} for name in "apn"]).item() == pytest.approx(0.0024757, abs=1e-7)


def test_big_batches_go_through_the_cache_with_the_same_gradient(
    encoder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    def run(name: str) -> list[float]:
        changes = {"per_device_train_batch_size": 96, "max_steps": 4}
        return losses(embedding.train(make_job(tmp_path, encoder, EMBEDDING, name, **changes)))

    cached = run("cached")
    monkeypatch.setattr(embedding, "CACHED_ABOVE", 96)
    whole = run("whole")

    # The first loss is before any update; dropout is drawn per mini-batch, so later ones only stay close.
    assert cached[0] == pytest.approx(whole[0], rel=0.1)


@pytest.mark.parametrize(("method", "normalize"), [("cls", True), ("mean", False), ("lasttoken", True)])
def test_pooling_and_normalisation_are_as_asked(method: str, normalize: bool, encoder: Path, tmp_path: Path) -> None:
    changes = {"pooling_method": method, "normalize_embeddings": normalize, "max_steps": 1}
    job = make_job(tmp_path, encoder, EMBEDDING, **changes)

    embedding.train(job)

    model = embedding.load(job.folder.model)
    assert model[1].pooling_mode == method
    norms = np.linalg.norm(model.encode(["the w1", "w2"]), axis=1)
    assert np.allclose(norms, 1, atol=1e-5) == normalize


def test_all_positives_of_an_anchor_are_relevant(encoder: Path, tmp_path: Path) -> None:
    """Two anchors, three rows, all documents shown within ten: recall 1, n = 2 queries."""
    rows = [{"anchor": "the w1", "positive": p} for p in ("w1 a", "w1 b")] + [{"anchor": "w2", "positive": "w1 a"}]

    scores = embedding.train(make_job(tmp_path, encoder, EMBEDDING, eval_rows=rows, max_steps=1)).scores

    assert set(scores) == {"ndcg@10", "mrr@10", "recall@10"}
    assert (scores["recall@10"].value, scores["recall@10"].n) == (1.0, 2)


def test_a_model_folder_with_foreign_modules_is_not_imported(encoder: Path, tmp_path: Path) -> None:
    job: Job = make_job(tmp_path, encoder, EMBEDDING, max_steps=1)
    embedding.train(job)
    listing = job.folder.model / "modules.json"
    listing.write_text(listing.read_text().replace("sentence_transformers.base.modules.normalize", "evil"))

    with pytest.raises(ValueError, match=r"`evil\.Normalize`"):
        embedding.load(job.folder.model)
