"""Reranker: the losses that its data sheet states, lists by query, grades, and a folder that anybody can load."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import ARGUMENTS, Watcher, contents, losses, make_decoder, make_job, ranked_rows

from enforcer.problems import DatasetInvalid, ModelInvalid
from trainer.export import export, formats
from trainer.job import Job, Row
from trainer.recipes import reranker

RERANK: dict[str, Any] = {**ARGUMENTS, "loss_type": "pointwise", "use_inbatch_negatives": False}


def binary(rows: list[Row]) -> list[Row]:
    return [{**row, "label": min(1, row["label"])} for row in rows]


def rerank_job(root: Path, model: Path, run_id: str = "run-1", **changes: Any) -> Job:
    changes.setdefault("train_rows", ranked_rows(48, 1))
    changes.setdefault("eval_rows", ranked_rows(12, 2))
    return replace(make_job(root, model, RERANK, run_id, **changes), task_type="reranker")


@pytest.fixture(scope="module")
def decoder(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal language model that knows both answers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = make_decoder(tmp_path_factory.mktemp("decoder"), encoder)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    tokenizer.add_tokens(["yes", "no"])
    model.resize_token_embeddings(len(tokenizer))
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


# The loss


def plain_losses(tmp_path: Path, model: Any, loss: Any, columns: dict[str, list[Any]], **more: Any) -> list[float]:
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments

    plain = CrossEncoderTrainer(
        model=model,
        args=CrossEncoderTrainingArguments(
            str(tmp_path / "plain"), learning_rate=3e-3, max_steps=6, per_device_train_batch_size=16, warmup_steps=0.1,
            seed=7, logging_steps=1, report_to="none", save_strategy="no", disable_tqdm=True, **more,
        ),
        train_dataset=Dataset.from_dict(columns),
        loss=loss,
    )  # fmt: skip
    plain.train()
    return [entry["loss"] for entry in plain.state.log_history if "loss" in entry]


def test_pointwise_computes_what_a_plain_script_computes(encoder: Path, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
    from transformers import set_seed

    rows = binary(ranked_rows(48, 1))
    ours = losses(reranker.train(rerank_job(tmp_path, encoder, train_rows=rows, max_steps=6)))

    set_seed(7)
    model = CrossEncoder(str(encoder), num_labels=1, max_length=32)
    columns = {name: [row[name] for row in rows] for name in ("query", "document")}
    labels = [float(row["label"]) for row in rows]
    theirs = plain_losses(tmp_path, model, BinaryCrossEntropyLoss(model), {**columns, "label": labels})

    assert ours == pytest.approx(theirs, abs=1e-4)


def test_listwise_computes_what_a_plain_script_computes_on_lists_by_query(encoder: Path, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder.losses import LambdaLoss
    from transformers import set_seed

    rows = ranked_rows(48, 1)
    job = rerank_job(tmp_path, encoder, train_rows=rows, loss_type="listwise", max_steps=6)
    ours = losses(reranker.train(job))

    set_seed(7)
    model = CrossEncoder(str(encoder), num_labels=1, max_length=32)
    queries = list(dict.fromkeys(row["query"] for row in rows))
    lists = [[row for row in rows if row["query"] == query] for query in queries]
    assert {len(rows) for rows in lists} == {4}, "the rows were shuffled, and stand together again"
    columns: dict[str, list[Any]] = {"query": queries, "docs": [[row["document"] for row in part] for part in lists]}
    columns["labels"] = [[float(row["label"]) for row in part] for part in lists]
    theirs = plain_losses(tmp_path, model, LambdaLoss(model), columns)

    assert ours == pytest.approx(theirs, abs=1e-4)


def test_generative_computes_what_a_plain_script_computes(decoder: Path, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
    from transformers import set_seed

    rows = binary(ranked_rows(48, 1))
    job = rerank_job(tmp_path, decoder, train_rows=rows, loss_type="generative", max_steps=6, max_length=64)
    ours = losses(reranker.train(job))

    set_seed(7)
    model = CrossEncoder(str(decoder), max_length=64, processor_kwargs={"chat_template": reranker.TEMPLATE})
    model[0].tokenizer.pad_token = "[SEP]"
    columns = {name: [row[name] for row in rows] for name in ("query", "document")}
    labels = [float(row["label"]) for row in rows]
    theirs = plain_losses(tmp_path, model, BinaryCrossEntropyLoss(model), {**columns, "label": labels})

    assert ours == pytest.approx(theirs, abs=1e-4)


def test_in_batch_negatives_train_on_the_right_pairs_alone(encoder: Path, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder.losses import CachedMultipleNegativesRankingLoss
    from transformers import set_seed

    rows = ranked_rows(48, 1)
    job = rerank_job(tmp_path, encoder, train_rows=rows, use_inbatch_negatives=True, max_steps=6)
    ours = losses(reranker.train(job))

    set_seed(7)
    model = CrossEncoder(str(encoder), num_labels=1, max_length=32)
    right = [row for row in rows if row["label"] > 0]
    columns = {name: [row[name] for row in right] for name in ("query", "document")}
    loss = CachedMultipleNegativesRankingLoss(model)
    theirs = plain_losses(tmp_path, model, loss, columns, batch_sampler="no_duplicates")

    assert ours == pytest.approx(theirs, abs=1e-4)


def test_grades_become_probabilities_to_the_cross_entropy(encoder: Path, tmp_path: Path) -> None:
    """Grades 0, 1, 2 are 0, 0.5, 1: the loss of a new head, whose scores are near 0, is ln 2 for any of them."""
    outcome = reranker.train(rerank_job(tmp_path, encoder, max_steps=1, learning_rate=0.0))

    assert outcome.details["label_scale"] == 2.0
    assert losses(outcome)[0] == pytest.approx(np.log(2), abs=0.02)


# What is learned, and how it is scored


@pytest.mark.parametrize("loss_type", ["pointwise", pytest.param("listwise", marks=pytest.mark.slow)])
def test_a_reranker_learns_which_document_answers(loss_type: str, encoder: Path, tmp_path: Path) -> None:
    changes = {"max_steps": 60, "learning_rate": 5e-3, "eval_rows": ranked_rows(48, 1)}
    job = rerank_job(tmp_path, encoder, loss_type=loss_type, **changes)

    scores = reranker.train(job).scores

    assert set(scores) == {"map", "ndcg@10", "mrr@10"}
    assert scores["ndcg@10"].value > 0.85  # any order at random: 0.66
    assert {score.n for score in scores.values()} == {48}


def test_queries_that_no_order_is_better_for_are_left_out_and_counted(encoder: Path, tmp_path: Path) -> None:
    """One query of two documents that differ, one with none that answers, one whose documents all do."""
    labels = {"w1": (1, 0), "w2": (0, 0), "w3": (1, 1)}
    rows: list[Row] = [
        {"query": query, "document": f"{query} {word}", "label": label}
        for query, pair in labels.items()
        for word, label in zip(("a", "the"), pair, strict=True)
    ]

    outcome = reranker.train(rerank_job(tmp_path, encoder, eval_rows=rows, max_steps=1))

    assert outcome.scores["map"].n == 1
    assert outcome.details["queries_without_an_order"] == 2


def test_where_no_query_has_an_order_there_is_no_score(encoder: Path, tmp_path: Path) -> None:
    rows: list[Row] = [{"query": f"w{i}", "document": "the w1", "label": 1} for i in range(4)]

    assert reranker.train(rerank_job(tmp_path, encoder, eval_rows=rows, max_steps=1)).scores == {}


# What is left


@pytest.mark.parametrize("loss_type", ["pointwise", "generative"])
def test_the_model_folder_is_a_cross_encoder_that_scores_the_same(
    loss_type: str, encoder: Path, decoder: Path, tmp_path: Path
) -> None:
    from sentence_transformers import CrossEncoder

    base = decoder if loss_type == "generative" else encoder
    job = rerank_job(tmp_path, base, loss_type=loss_type, max_steps=3, max_length=60)

    outcome = reranker.train(job)

    pairs = [(row["query"], row["document"]) for row in job.eval_rows]
    loaded = CrossEncoder(str(job.folder.model))
    assert np.array_equal(loaded.predict(pairs), outcome.model.predict(pairs))
    assert loaded.max_seq_length == 60
    assert formats(job) == ["hugging-face", "onnx"]


@pytest.mark.parametrize("loss_type", ["pointwise", "generative", "decoder"])
def test_an_adapter_is_saved_whole_and_merged_into_a_cross_encoder(
    loss_type: str, encoder: Path, decoder: Path, tmp_path: Path
) -> None:
    from sentence_transformers import CrossEncoder

    base = encoder if loss_type == "pointwise" else decoder
    kind = "generative" if loss_type == "generative" else "pointwise"
    job = rerank_job(tmp_path, base, loss_type=kind, use_lora=True, max_steps=4, max_length=64, lora_dropout=0.1)

    outcome = reranker.train(job)

    pairs = [(row["query"], row["document"]) for row in job.eval_rows]
    live = outcome.model.eval().predict(pairs)
    learned = [name for name, weight in outcome.model.named_parameters() if weight.requires_grad]
    assert learned
    assert all("lora_" in name or "classifier" in name or "score" in name for name in learned)
    assert np.allclose(reranker.load(job.folder.model, base).predict(pairs), live, atol=1e-6)
    assert formats(job) == ["hugging-face", "adapter", "merged", "onnx"]
    merged = export(job, outcome, "merged", tmp_path / "merged")
    assert np.allclose(CrossEncoder(str(merged)).predict(pairs), live, atol=1e-5)
    assert json.loads((merged / "merge.json").read_text())["compared"] == "scores"
    named = json.loads((job.folder.model / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == base.name
    assert not [name for name, content in contents(job.folder.model).items() if bytes(tmp_path) in content]


def test_a_decoder_gets_query_and_document_apart(decoder: Path, tmp_path: Path) -> None:
    model = reranker.train(rerank_job(tmp_path, decoder, max_steps=1, max_length=64)).model

    (tokens,) = model.preprocess([("w1", "w2")])["input_ids"]

    assert "query" in model.tokenizer.decode(tokens)
    assert "document" in model.tokenizer.decode(tokens)


# What is refused


def test_a_model_that_cannot_say_yes_or_no_is_refused(encoder: Path, tmp_path: Path) -> None:
    wordless = make_decoder(tmp_path / "wordless", encoder)

    with pytest.raises(ModelInvalid, match="no single token for `yes` and for `no`"):
        reranker.train(rerank_job(tmp_path, wordless, loss_type="generative", max_length=64))


def test_an_encoder_generates_nothing(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match="asks a causal language model"):
        reranker.train(rerank_job(tmp_path, encoder, loss_type="generative"))


@pytest.mark.parametrize("loss_type", ["pointwise", "generative"])
def test_pairs_that_are_too_long_are_refused_and_not_cut(
    loss_type: str, encoder: Path, decoder: Path, tmp_path: Path
) -> None:
    """Query and document of 2 words each fit 6 tokens alone, and make 8 or more together."""
    base = decoder if loss_type == "generative" else encoder

    with pytest.raises(DatasetInvalid, match="rows are longer than `max_length` 7"):
        reranker.train(rerank_job(tmp_path, base, loss_type=loss_type, max_length=7))


def test_a_stopped_reranker_leaves_a_checkpoint_and_no_scores(encoder: Path, tmp_path: Path) -> None:
    job = rerank_job(tmp_path, encoder, listener=Watcher(stop_at=2))

    outcome = reranker.train(job)

    assert (outcome.stopped, outcome.steps, outcome.scores) == ("interrupted", 2, {})
    assert (job.folder.checkpoints / "checkpoint-2" / "trainer_state.json").exists()
    assert not job.folder.model.exists()
