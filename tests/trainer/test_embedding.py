"""Embedding: the loss that its data sheet states, pooling as asked, retrieval scores with several positives a query."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from tiny import EMBEDDING, Watcher, losses, make_job

from enforcer.problems import ModelInvalid
from trainer.recipes import embedding


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


def test_without_inbatch_negatives_each_row_brings_its_own(encoder: Path, tmp_path: Path) -> None:
    rows = tiny.pair_rows(96, 1, negatives=True)
    watcher = Watcher()
    job = make_job(
        tmp_path, encoder, EMBEDDING, use_inbatch_negatives=False, train_rows=rows, max_steps=20, listener=watcher
    )

    embedding.train(job)

    assert watcher.losses[-1] < 0.5 * watcher.losses[0]


def test_the_pair_loss_is_infonce_over_the_pair() -> None:
    """Cosine 0.6 to the positive, 0 to the negative; scale 10: softplus(0 - 6) = ln(1 + e^-6) = 0.0024757."""
    import torch

    vectors = {"a": [1.0, 0.0], "p": [0.6, 0.8], "n": [0.0, 1.0]}

    class LookUp(torch.nn.Module):
        def forward(self, features: dict[str, Any]) -> dict[str, Any]:
            return {"sentence_embedding": torch.tensor([vectors[features["text"]]])}

    loss = embedding.PairLoss(LookUp(), scale=10)

    assert loss([{"text": name} for name in "apn"]).item() == pytest.approx(0.0024757, abs=1e-7)


def test_no_text_is_its_own_negative_and_rows_without_a_step_are_counted(encoder: Path, tmp_path: Path) -> None:
    """Two pairs, eight times each. In one batch of 16 each positive has 7 twins for negatives: loss >= ln 8 = 2.08.
    Without twins a batch holds 2 rows: about ln 2 = 0.69. One step an epoch is planned, so 14 rows get none."""
    rows = [{"anchor": f"the w{i}", "positive": f"w{i} a"} for i in (1, 2)] * 8
    job = make_job(tmp_path, encoder, EMBEDDING, train_rows=rows, max_steps=-1, temperature=1.0)

    outcome = embedding.train(job)

    assert losses(outcome)[0] < 0.8
    assert outcome.details["rows_crowded_out_of_first_epoch"] == 14


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
    assert scores["recall@10"].low is None, "two documents, ten looked at: no model could miss"


def test_a_model_folder_with_foreign_modules_is_not_imported(encoder: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, encoder, EMBEDDING, max_steps=1)
    embedding.train(job)
    listing = job.folder.model / "modules.json"
    listing.write_text(listing.read_text().replace("sentence_transformers.base.modules.normalize", "evil"))

    with pytest.raises(ModelInvalid, match=r"`evil\.Normalize`"):
        embedding.load(job.folder.model)
