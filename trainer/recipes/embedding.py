"""embedding -- dual encoder: put a query and the texts that answer it close together, everything else far away.

Row      infonce {"anchor": str, "positive": str} or {"anchor": str, "positive": str, "negative": str}, all rows alike;
         with "grade": number, how well the positive answers, for the scores alone
         cosent  {"sentence1": str, "sentence2": str, "score": number}, on any scale
Loss     s = cosine / temperature; anchor i, documents j
         cosent: log(1 + sum exp(s_b - s_a)) over the pairs a, b of the batch where a is scored above b   [nats]
           Huang et al. 2024 (doi:10.1109/TASLP.2024.3402087). It learns an order, which is what Spearman measures, and
           asks no scale of the scores; a regression of the cosine would
         infonce: InfoNCE, -log softmax_j(s_ij)[i] over all positives and negatives of the batch   [nats]
           van den Oord et al. 2018, eq. 4 (arXiv:1807.03748). A batch holds no text twice: it would be its own negative
         infonce without in-batch negatives: softplus(s_negative - s_positive), over the row's own pair   [nats]
           keeps the meaning of `temperature`, where a triplet loss would need a margin that no profile sets
Trains   sentence_transformers.SentenceTransformerTrainer on Transformer -> Pooling -> Normalize; with `use_lora` peft
         adapters on every linear layer. Batches above 64 rows go through GradCache (Gao et al. 2021, arXiv:2101.06983):
         same gradient, memory of 32 rows, about twice the time
Scores   infonce: ndcg@10, mrr@10, recall@10 over the distinct anchors of the evaluation rows, searching their distinct
         positives by cosine; every positive of an anchor is relevant, gain 2^grade - 1; bootstrap interval over anchors
         cosent: spearman of cosines and scores over the evaluation rows; bootstrap interval over rows
Leaves   the scores of the base model on the same rows in the details, as `before`
"""

import logging
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from peft import PeftModel, TaskType
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerModelCardData,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.sampler import BatchSamplers
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    CoSENTLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, softplus
from transformers import AutoModel

from enforcer.gates import Score
from trainer import evaluate
from trainer.inputs import folders
from trainer.job import Job, Outcome
from trainer.recipes import _steps

log = logging.getLogger(__name__)

CACHED_ABOVE = 64  # rows per batch
CACHED_ROWS = 32  # rows in memory at a time when cached
CUTOFF = 10


def train(job: Job) -> Outcome:
    """Train, evaluate, and save the model (with `use_lora` its adapter) under `job.folder.model`."""
    _steps.begin(job)
    columns = _columns(job)
    model = _model(job)
    _refuse_overlong(job, model, columns)
    before = {name: score.model_dump() for name, score in _scores(job, model).items()}
    with _steps.board(job) as board:
        trainer = SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                **_steps.training_arguments(job),
                batch_sampler=BatchSamplers.BATCH_SAMPLER if _compares(job) else BatchSamplers.NO_DUPLICATES,
            ),
            train_dataset=Dataset.from_dict({name: [row[name] for row in job.train_rows] for name in columns}),
            loss=_loss(job, model),
        )
        crowded_out = 0 if _compares(job) else _crowded_out(trainer)
        outcome = _steps.run(job, trainer, board)
        if outcome.stopped is not None:
            return outcome
        model.save_pretrained(str(job.folder.model), create_model_card=False)
        if job.arguments["use_lora"]:
            _steps.name_base(job.folder.model, folders.public_name(job.model_dir))
        details = {**outcome.details, "rows_crowded_out_of_first_epoch": crowded_out, "before": before}
        outcome = replace(outcome, model=model, scores=_scores(job, model), details=details)
        return _steps.finish(job, outcome, board)


def load(folder: Path, base: Path | None = None) -> SentenceTransformer:
    """A model that `train` saved, ready to encode. An adapter only names its `base`: say where that one lies.

    Raises:
        ModelInvalid: `modules.json` names a module that is not ours; sentence-transformers would import it.
    """
    _steps.refuse_foreign_modules(folder)
    with tempfile.TemporaryDirectory() as place:
        if base is not None:  # sentence-transformers finds a base by what stands in the adapter's folder, and only so
            folder = Path(shutil.copytree(folder, place, dirs_exist_ok=True))
            _steps.name_base(folder, str(folders.weights_folder(base)))
        return SentenceTransformer(str(folder), model_kwargs=dict(_steps.WEIGHTS), **_steps.LOCAL).eval()


def merge(folder: Path, base: Path) -> SentenceTransformer:
    """The model of an adapter folder with the adapter added into the weights of its base."""
    model = load(folder, base)
    weights = AutoModel.from_pretrained(folders.weights_folder(base), **_steps.WEIGHTS)
    model[0].model = PeftModel.from_pretrained(weights, folder, use_safetensors=True).merge_and_unload()
    return model.to(model.device).eval()


def _model(job: Job) -> SentenceTransformer:
    """Transformer, pooling and normalisation as the arguments say, whatever pipeline the base model came with."""
    transformer = Transformer(
        str(folders.weights_folder(job.model_dir)),
        max_seq_length=job.arguments["max_length"],
        model_kwargs=dict(_steps.WEIGHTS),
        processor_kwargs=dict(_steps.LOCAL),
        config_kwargs=dict(_steps.LOCAL),
    )
    if transformer.tokenizer.pad_token is None:  # many decoders have none
        transformer.tokenizer.pad_token = transformer.tokenizer.eos_token
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode=job.arguments["pooling_method"])
    normalize = [Normalize()] if job.arguments["normalize_embeddings"] else []
    card = SentenceTransformerModelCardData(local_files_only=True, generate_widget_examples=False)
    card.widget = [{"text": "none"}]  # else the trainer looks through the rows for examples, for a card nobody writes
    model = SentenceTransformer(modules=[transformer, pooling, *normalize], model_card_data=card)
    log.info("attention: %s; pooling: %s", transformer.model.config._attn_implementation, pooling.pooling_mode)
    if job.arguments["use_lora"]:
        model.add_adapter(_steps.lora(job, TaskType.FEATURE_EXTRACTION))
    return model


def _crowded_out(trainer: SentenceTransformerTrainer) -> int:
    """How many rows the first epoch has no step for: they share a text with others, which makes for more and smaller
    batches, while the trainer counts steps as if all batches were full."""
    sampler = trainer.get_train_dataloader().batch_sampler
    beyond = sum(len(batch) for batch in [*sampler][len(sampler) :])
    if beyond:
        rows = len(trainer.train_dataset)
        log.warning(
            "%d of %d rows wait for a later epoch: a batch holds no text twice; use smaller batches", beyond, rows
        )
    return beyond


def _compares(job: Job) -> bool:
    """Whether rows are pairs of sentences with a score, and not queries with what answers them."""
    return bool(job.arguments["loss_type"] == "cosent")


def _loss(job: Job, model: SentenceTransformer) -> Any:
    scale = 1 / job.arguments["temperature"]
    if _compares(job):
        return CoSENTLoss(model, scale=scale)
    if not job.arguments["use_inbatch_negatives"]:
        return PairLoss(model, scale)
    if job.arguments["per_device_train_batch_size"] > CACHED_ABOVE:
        return CachedMultipleNegativesRankingLoss(model, scale=scale, mini_batch_size=CACHED_ROWS)
    return MultipleNegativesRankingLoss(model, scale=scale)


class PairLoss(nn.Module):
    """InfoNCE with one negative, the row's own: -log(e^p / (e^p + e^n)) = softplus(n - p); p, n are scaled cosines.

    RankNet's loss on a pair (Burges et al. 2005, eq. 3, target 1).
    """

    def __init__(self, model: SentenceTransformer, scale: float) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], _labels: Tensor | None = None) -> Tensor:
        anchor_BE, positive_BE, negative_BE = (self.model(f)["sentence_embedding"] for f in sentence_features)
        positive_B = self.scale * cosine_similarity(anchor_BE, positive_BE)
        negative_B = self.scale * cosine_similarity(anchor_BE, negative_BE)
        return softplus(negative_B - positive_B).mean()

    def get_config_dict(self) -> dict[str, float]:
        return {"scale": self.scale}


def _columns(job: Job) -> list[str]:
    if _compares(job):
        return ["sentence1", "sentence2", "score"]
    with_negative = {"negative" in row for row in job.train_rows}
    assert len(with_negative) == 1, "preflight lets no run through whose rows differ"
    assert with_negative == {True} or job.arguments["use_inbatch_negatives"], "nor one that has nothing to learn from"
    return ["anchor", "positive", "negative"] if with_negative == {True} else ["anchor", "positive"]


def _refuse_overlong(job: Job, model: SentenceTransformer, columns: Sequence[str]) -> None:
    """sentence-transformers always truncates, so the check comes first."""
    if not job.arguments["truncation"]:
        rows = (*job.train_rows, *job.eval_rows)
        texts = sorted({row[name] for row in rows for name in columns if isinstance(row.get(name), str)})
        lengths = [len(ids) for ids in model.tokenizer(texts, truncation=False)["input_ids"]]
        _steps.refuse_overlong(lengths, job.arguments["max_length"])


def _scores(job: Job, model: SentenceTransformer) -> dict[str, Score]:
    if not job.eval_rows:
        return {}
    return _alikeness(job, model) if _compares(job) else _retrieval(job, model)


def _alikeness(job: Job, model: SentenceTransformer) -> dict[str, Score]:
    first_NE, second_NE = (_encode(job, model, [row[name] for row in job.eval_rows]) for name in _columns(job)[:2])
    given_N = np.array([row["score"] for row in job.eval_rows], np.float64)
    return {"spearman": evaluate.spearman(evaluate.cosines(first_NE, second_NE), given_N, job.arguments["seed"])}


def _retrieval(job: Job, model: SentenceTransformer) -> dict[str, Score]:
    documents = list(dict.fromkeys(row["positive"] for row in job.eval_rows))
    number = {text: i for i, text in enumerate(documents)}
    relevant: dict[str, dict[int, float]] = {}
    for row in job.eval_rows:
        grades, document = relevant.setdefault(row["anchor"], {}), number[row["positive"]]
        grades[document] = max(float(row.get("grade", 1)), grades.get(document, 0.0))
    ranked_QK = evaluate.top_documents(_encode(job, model, [*relevant]), _encode(job, model, documents), CUTOFF)
    return evaluate.retrieval_scores(
        ranked_QK, [*relevant.values()], len(documents), CUTOFF, seed=job.arguments["seed"]
    )


def _encode(job: Job, model: SentenceTransformer, texts: Sequence[str]) -> Any:
    batch = job.arguments["per_device_eval_batch_size"]
    return model.encode(list(texts), batch_size=batch, convert_to_numpy=True, show_progress_bar=False)
