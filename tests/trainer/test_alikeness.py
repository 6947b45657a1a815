"""Embedding beyond queries and answers: sentences by how alike they are, answers by how well they answer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_preflight import shipped
from tiny import EMBEDDING, losses, make_job, pair_rows

from enforcer.problems import DatasetInvalid
from trainer import evaluate, preflight
from trainer.arguments import TrainingArguments
from trainer.export import FaissPack, export
from trainer.job import Job, Row
from trainer.recipes import embedding

COSENT = {**EMBEDDING, "loss_type": "cosent"}


def alike(count: int) -> list[Row]:
    """Two words each: both in common (5), one (2.5) or none (0)."""
    rows: list[Row] = []
    for i in range(count):
        one, two, three, four = (f"w{(i * 5 + j) % 90}" for j in range(4))
        second = (f"{one} {two}", f"{one} {three}", f"{three} {four}")[i % 3]
        rows.append({"sentence1": f"{one} {two}", "sentence2": second, "score": (5, 2.5, 0)[i % 3]})
    return rows


def alike_job(root: Path, model: Path, **changes: Any) -> Job:
    return make_job(root, model, COSENT, **{"train_rows": alike(96), "eval_rows": alike(48), **changes})


def test_cosent_computes_what_a_plain_script_computes(encoder: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import CoSENTLoss
    from transformers import set_seed

    job = alike_job(tmp_path, encoder, max_steps=6)
    ours = losses(embedding.train(job))

    set_seed(7)
    model = SentenceTransformer(str(encoder))
    model.max_seq_length = 32
    plain = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            str(tmp_path / "plain"), learning_rate=3e-3, max_steps=6, per_device_train_batch_size=16, warmup_steps=0.1,
            seed=7, logging_steps=1, report_to="none", save_strategy="no", disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(list(job.train_rows)),
        loss=CoSENTLoss(model),
    )  # fmt: skip
    plain.train()

    theirs = [entry["loss"] for entry in plain.state.log_history if "loss" in entry]
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_pairs_are_scored_by_rank_and_held_against_the_base_model(encoder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    job = alike_job(tmp_path, encoder, max_steps=30)

    outcome = embedding.train(job)

    assert set(outcome.scores) == {"spearman"}
    assert outcome.scores["spearman"].n == 48
    base = SentenceTransformer(str(encoder))
    first, second = (base.encode([row[name] for row in job.eval_rows]) for name in ("sentence1", "sentence2"))
    before = evaluate.spearman(evaluate.cosines(first, second), np.array([row["score"] for row in job.eval_rows]), 7)
    assert outcome.details["before"]["spearman"]["value"] == pytest.approx(before.value, abs=1e-3)
    assert outcome.scores["spearman"].value >= before.value - 1e-3  # words in common are near at random already


def test_a_retriever_is_held_against_its_base_model_too(encoder: Path, tmp_path: Path) -> None:
    outcome = embedding.train(make_job(tmp_path, encoder, EMBEDDING, max_steps=1, learning_rate=0.0))

    after = {name: score.model_dump() for name, score in outcome.scores.items()}

    assert outcome.details["before"] == after, "nothing was learned"


def test_grades_count_in_the_order_and_the_better_of_two_judgements_holds(encoder: Path, tmp_path: Path) -> None:
    """Were grade 3 ignored, ndcg would be that of two equal documents."""
    rows = [{"anchor": "w1", "positive": "w1 w2", "grade": 1}, {"anchor": "w1", "positive": "w3", "grade": 2},
            {"anchor": "w1", "positive": "w3", "grade": 3}]  # fmt: skip
    job = make_job(tmp_path, encoder, EMBEDDING, eval_rows=rows, max_steps=1)

    outcome = embedding.train(job)

    query, *documents = outcome.model.encode(["w1", "w1 w2", "w3"])
    first_is_better = query @ documents[1] > query @ documents[0]
    gains = (7, 1) if first_is_better else (1, 7)
    discounted = gains[0] + gains[1] / np.log2(3)
    assert outcome.scores["ndcg@10"].value == pytest.approx(discounted / (7 + 1 / np.log2(3)))


def test_retrieval_takes_grades_by_hand() -> None:
    """Document 0 of grade 1 first, 1 of grade 2 second: (1 + 3/log2(3)) / (3 + 1/log2(3)) = 0.79671."""
    scores = evaluate.retrieval_scores(np.array([[0, 1]]), [{0: 1, 1: 2}], documents=2, k=2, seed=0)

    assert scores["ndcg@2"].value == pytest.approx(0.79671, abs=1e-5)
    assert scores["mrr@2"].value == 1


def test_a_pack_of_a_model_of_pairs_finds_both_sentences(encoder: Path, tmp_path: Path) -> None:
    job = alike_job(tmp_path, encoder, max_steps=2, use_lora=True)
    outcome = embedding.train(job)

    pack = FaissPack.load(export(job, outcome, "faiss", tmp_path / "pack"))

    rows = (*job.train_rows, *job.eval_rows)
    assert set(pack.texts.values()) == {row[name] for row in rows for name in ("sentence1", "sentence2")}
    assert pack.manifest["pooling"] == "mean"
    assert pack.manifest["max_norm_error"] < 1e-5
    assert export(job, outcome, "merged", tmp_path / "merged").exists()


@pytest.fixture
def check(encoder: Path, tmp_path: Path) -> Any:
    def run(rows: Any, **changes: Any) -> Any:
        args = TrainingArguments(
            **{"task_type": "embedding", "model_name_or_path": str(encoder), "max_length": 32,
               "output_dir": str(tmp_path / "out"), **changes}
        )  # fmt: skip
        return preflight.check(args, shipped("embedding"), rows)

    return run


def test_pairs_are_read_held_out_by_their_first_sentence_and_need_no_negative(check: Any) -> None:
    renamed = [{**row, "similarity_score": row["score"]} for row in alike(60)]

    checked = check(renamed, loss_type="cosent", columns={"score": "similarity_score"})

    assert set(checked.train_rows[0]) == {"sentence1", "sentence2", "score"}
    sides = [{row["sentence1"] for row in side} for side in (checked.train_rows, checked.eval_rows)]
    assert all(sides)
    assert not sides[0] & sides[1]


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([{**row, "score": 1} for row in alike(9)], {"loss_type": "cosent"}, "all training rows have the score 1"),
        (pair_rows(9, 1), {"loss_type": "cosent"}, "has no column `sentence1`"),
        ([{**row, "grade": 0} for row in pair_rows(9, 1)], {}, "the grade 0 is none of a `positive`"),
        (alike(9), {}, "rows of `sentence1`, `sentence2` and `score` are for `loss_type: cosent`"),
        (
            [
                {"sentence1": row["sentence1"], "sentence2": row["sentence2"], "similarity_score": row["score"]}
                for row in alike(9)
            ],
            {},
            "`loss_type: cosent`; set that, with `columns: {score: similarity_score}`",
        ),
    ],
    ids=["one score", "queries for pairs", "no positive", "pairs for queries", "pairs under other names"],
)
def test_rows_that_do_not_suit_the_loss_are_refused_with_what_to_do(
    rows: list[Row], changes: dict[str, Any], message: str, check: Any
) -> None:
    with pytest.raises(DatasetInvalid) as refused:
        check(rows, **changes)

    assert message in refused.value.detail


def test_runs_of_either_loss_are_held_against_their_own_gate() -> None:
    gates = shipped("embedding").gates

    assert [g.metric for g in gates if g.concerns({"loss_type": "cosent"})] == ["spearman"]
    assert [g.metric for g in gates if g.concerns({"loss_type": "infonce"})] == ["ndcg@10"]
