"""reranker -- cross-encoder: read a query and a document together and say how well they fit.

Row      {"query": str, "document": str, "label": number}, the label being 0 (does not answer) or more: 1, or a grade
Loss     s = the score of a pair; y = its label
         pointwise   binary cross-entropy of s, the label over the highest one where grades go above 1   [nats]
         listwise    LambdaLoss, NDCG-Loss2++ over the documents of one query, gain 2^y - 1   [bits]
                     Wang et al. 2018 (CIKM), section 5.3; a batch counts queries, not rows
         generative  pointwise, on a causal language model: s = logit("yes") - logit("no") behind `PROMPT`   [nats]
                     after Nogueira et al. 2020 (arXiv:2003.06713)
         with in-batch negatives, in their place: -log softmax(10 sigmoid(s))[right one] over a right pair and the same
         query with 4 documents of the rest of the batch   [nats]
Trains   sentence_transformers.CrossEncoderTrainer; with `use_lora` peft adapters on every linear layer, and the head
         (with whatever else the base model has no weights for) in full
Scores   map, ndcg@10, mrr@10 over the queries of the evaluation rows, each ranking its own rows; a label above 0 is
         right; bootstrap interval over queries. Queries whose rows all have one label are left out, and counted
"""

import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel, TaskType
from sentence_transformers.base.modules import Transformer
from sentence_transformers.base.sampler import BatchSamplers
from sentence_transformers.cross_encoder import (
    CrossEncoder,
    CrossEncoderModelCardData,
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
)
from sentence_transformers.cross_encoder.losses import (
    BinaryCrossEntropyLoss,
    CachedMultipleNegativesRankingLoss,
    LambdaLoss,
)
from sentence_transformers.cross_encoder.modules import LogitScore
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerBase

from enforcer.gates import Score
from enforcer.problems import ModelInvalid
from trainer import evaluate
from trainer.inputs import folders
from trainer.job import Job, Outcome, Row
from trainer.recipes import _steps

log = logging.getLogger(__name__)

CUTOFF = 10
# What a decoder reads. Without it, query and document would be one text, and nobody would have asked anything.
PROMPT = "Query: {query}\nDocument: {document}\nDoes the document answer the query, yes or no?\n"
# As a chat template, because that is where sentence-transformers looks, saves it and finds it again.
TEMPLATE = PROMPT.format(
    **{name: f"{{{{ messages | selectattr('role', 'eq', '{name}') | map(attribute='content') | first }}}}"
       for name in ("query", "document")}
)  # fmt: skip
ANSWERS = ("yes", "no")


def train(job: Job) -> Outcome:
    """Train, evaluate, and save the model (with `use_lora` the adapter) under `job.folder.model`."""
    fresh = _without_weights(job)  # before seeding: it makes modules of its own
    _steps.begin(job)
    model = _model(job, fresh)
    _refuse_overlong(job, model)
    rows, loss, sampler = _task(job, model)
    with _steps.board(job) as board:
        trainer = CrossEncoderTrainer(
            model=model,
            args=CrossEncoderTrainingArguments(**_steps.training_arguments(job), batch_sampler=sampler),
            train_dataset=rows,
            loss=loss,
        )
        outcome = _steps.run(job, trainer, board)
        if outcome.stopped is not None:
            return outcome
        model.save_pretrained(str(job.folder.model), create_model_card=False)
        if job.arguments["use_lora"]:
            _steps.name_base(job.folder.model, folders.public_name(job.model_dir))
        scores, told_apart = _scores(job, model)
        details = {**outcome.details, "label_scale": _scale(job), "newly_initialised": fresh, **told_apart}
        return _steps.finish(job, replace(outcome, model=model, scores=scores, details=details), board)


def load(folder: Path, base: Path | None = None) -> CrossEncoder:
    """A model that `train` saved, ready to score. An adapter only names its `base`: say where that one lies.

    Raises:
        ModelInvalid: `modules.json` names a module that is not ours; sentence-transformers would import it.
    """
    _steps.refuse_foreign_modules(folder)
    with tempfile.TemporaryDirectory() as place:
        if base is not None:  # sentence-transformers finds a base by what stands in the adapter's folder, and only so
            folder = Path(shutil.copytree(folder, place, dirs_exist_ok=True))
            _steps.name_base(folder, str(folders.weights_folder(base)))
        model = CrossEncoder(str(folder), model_kwargs=dict(_steps.WEIGHTS), **_steps.LOCAL).eval()
    model.config.pad_token_id = model.tokenizer.pad_token_id  # the base of an adapter may have none
    return model


def merge(folder: Path, base: Path) -> CrossEncoder:
    """The model of an adapter folder with the adapter added into the weights of its base."""
    model = load(folder, base)
    generates = any(isinstance(module, LogitScore) for module in model)
    head = AutoModelForCausalLM if generates else AutoModelForSequenceClassification
    weights = head.from_pretrained(folders.weights_folder(base), config=model.config, **_steps.WEIGHTS)
    model[0].model = PeftModel.from_pretrained(weights, folder, use_safetensors=True).merge_and_unload()
    return model.to(model.device).eval()


def _model(job: Job, fresh: Sequence[str]) -> CrossEncoder:
    """A transformer with one output; for `generative` the language model as it is, and the odds of its two answers."""
    generates = job.arguments["loss_type"] == "generative"
    prompted = generates or _is_decoder(job.model_dir)
    transformer = Transformer(
        str(folders.weights_folder(job.model_dir)),
        transformer_task="text-generation" if generates else "sequence-classification",
        max_seq_length=job.arguments["max_length"],
        model_kwargs=dict(_steps.WEIGHTS),
        processor_kwargs={**_steps.LOCAL, **({"chat_template": TEMPLATE} if prompted else {})},
        config_kwargs={**_steps.LOCAL, **({} if generates else {"num_labels": 1})},
    )
    tokenizer = transformer.tokenizer
    if tokenizer.pad_token is None:  # many decoders have none
        tokenizer.pad_token = tokenizer.eos_token
    # Decoders read the logits at the last token that is no padding.
    transformer.model.config.pad_token_id = tokenizer.pad_token_id
    ending = [LogitScore(*_answers(tokenizer))] if generates else []
    card = CrossEncoderModelCardData(local_files_only=True, generate_widget_examples=False)
    card.widget = [{"text": "none"}]  # else the trainer looks through the rows for examples, for a card nobody writes
    model = CrossEncoder(modules=[transformer, *ending], model_card_data=card)
    log.info("attention: %s; newly initialised: %s", model.config._attn_implementation, ", ".join(fresh) or "nothing")
    if job.arguments["use_lora"]:
        model.add_adapter(_steps.lora(job, TaskType.CAUSAL_LM if generates else TaskType.SEQ_CLS, [*fresh] or None))
    return model


def _is_decoder(model_dir: Path) -> bool:
    config = AutoConfig.from_pretrained(folders.weights_folder(model_dir), **_steps.LOCAL)
    return any(name.endswith("ForCausalLM") for name in config.architectures or [])


def _answers(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """The tokens of the two answers. sentence-transformers would take two unknown ones, whose odds are always even."""
    yes, no = (tokenizer.convert_tokens_to_ids(answer) for answer in ANSWERS)
    if None in (yes, no) or tokenizer.unk_token_id in (yes, no):
        raise ModelInvalid(
            "the model has no single token for `yes` and for `no`, by which `generative` scores a pair; "
            "take another model, or `loss_type: pointwise`"
        )
    return yes, no


def _without_weights(job: Job) -> list[str]:
    """The modules that the base model has no (fitting) weights for. Whatever is random at the start must learn in full
    and be saved: an adapter on it would be lost with the weights."""
    decoder = _is_decoder(job.model_dir)
    if job.arguments["loss_type"] == "generative":
        if not decoder:
            name = folders.public_name(job.model_dir)
            raise ModelInvalid(
                f"`generative` asks a causal language model for `yes` or `no`, and `{name}` is none; take one, or "
                "`loss_type: pointwise`"
            )
        return []
    _, loaded = AutoModelForSequenceClassification.from_pretrained(
        folders.weights_folder(job.model_dir),
        num_labels=1,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        device_map="meta",  # names only
        **_steps.WEIGHTS,
    )
    return _steps.modules_of([*loaded["missing_keys"], *(key for key, *_ in loaded["mismatched_keys"])])


def _task(job: Job, model: CrossEncoder) -> tuple[Dataset, torch.nn.Module, BatchSamplers]:
    """Rows, loss and batches, as the arguments say."""
    rows = job.train_rows
    if job.arguments["use_inbatch_negatives"]:
        right = [row for row in rows if row["label"] > 0]
        pairs = {name: [row[name] for row in right] for name in ("query", "document")}
        return Dataset.from_dict(pairs), CachedMultipleNegativesRankingLoss(model), BatchSamplers.NO_DUPLICATES
    if job.arguments["loss_type"] == "listwise":
        lists = by_query(rows)
        listed = {
            "query": list(lists),
            "documents": [[row["document"] for row in rows] for rows in lists.values()],
            "labels": [[float(row["label"]) for row in rows] for rows in lists.values()],
        }
        return Dataset.from_dict(listed), LambdaLoss(model), BatchSamplers.BATCH_SAMPLER
    scale = _scale(job)
    single = {name: [row[name] for row in rows] for name in ("query", "document")}
    labels = [row["label"] / scale for row in rows]
    return Dataset.from_dict({**single, "label": labels}), BinaryCrossEntropyLoss(model), BatchSamplers.BATCH_SAMPLER


def by_query(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each query, in their order, wherever they stand."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["query"], []).append(row)
    return found


def _scale(job: Job) -> float:
    """What labels are divided by, for they are probabilities to the cross-entropy: the highest, or 1."""
    return float(max(1, *(row["label"] for row in job.train_rows)))


def _refuse_overlong(job: Job, model: CrossEncoder) -> None:
    """sentence-transformers always truncates, so the check comes first."""
    if job.arguments["truncation"]:
        return
    pairs = [(row["query"], row["document"]) for row in (*job.train_rows, *job.eval_rows)]
    if "message" in model[0].modality_config:
        texts = [PROMPT.format(query=query, document=document) for query, document in pairs]
        tokens = model.tokenizer(texts, truncation=False, add_special_tokens=False)
    else:
        tokens = model.tokenizer([q for q, _ in pairs], [d for _, d in pairs], truncation=False)
    _steps.refuse_overlong([len(ids) for ids in tokens["input_ids"]], job.arguments["max_length"])


def _scores(job: Job, model: CrossEncoder) -> tuple[dict[str, Score], dict[str, int]]:
    lists = by_query(job.eval_rows)
    grades = {query: np.array([row["label"] for row in rows], np.float64) for query, rows in lists.items()}
    ranked = [query for query in lists if evaluate.can_be_told_apart(grades[query])]
    facts = {"queries_without_an_order": len(lists) - len(ranked)}
    if not ranked:
        return {}, facts
    # As logits: a sigmoid in float32 is 1 from 17 on, which would tie the best documents.
    scores = model.predict(
        [(query, row["document"]) for query in ranked for row in lists[query]],
        batch_size=job.arguments["per_device_eval_batch_size"],
        activation_fn=torch.nn.Identity(),
        show_progress_bar=False,
    )
    ends = np.cumsum([len(lists[query]) for query in ranked])[:-1]
    answers = [(part, grades[query]) for part, query in zip(np.split(scores, ends), ranked, strict=True)]
    return evaluate.reranking_scores(answers, CUTOFF, seed=job.arguments["seed"]), facts
