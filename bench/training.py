"""What governance costs a training run: `swift-submit run` beside the script that people write with the same library.

Same model, data, seed and arguments; the plain scripts are in `bench/plain/`. Runs alternate, `--rounds` of each, and
of each figure the best round counts, so that a busy machine is busy for both.

    make bench-training DATA=FOLDER        or, for some of it:
    python bench/training.py --data FOLDER [--steps 20] [--rounds 2] [--only sft,...]

DATA holds the sets named in `write_rows`; the models come out of PyPI packages (`models.py`).

    step       median seconds between optimizer steps, the first left out       limit 1.02 x
    memory     most resident memory while training (VmHWM, reset before)        limit 1.03 x
    start      from the command to the end of the first step, in seconds        limit plain + 1
    loss       the largest difference between logged losses, step by step       limit 1e-4

Exits 1 when a limit is missed.
"""

import argparse
import itertools
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import models

BIN = Path(sys.executable).parent
HERE = Path(__file__).parent
COMMON = {"logging_steps": 1, "eval_fraction": 0.0, "max_length": 128, "truncation": True, "seed": 7}
LANGUAGE = {
    **COMMON,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
}


@dataclass(frozen=True)
class Race:
    """One recipe, the file of rows that both sides read, and the arguments that both sides take."""

    recipe: str
    model: str
    rows: str
    arguments: dict[str, Any]


RACES = {
    "sft": Race("sft", "decoder", "answers", {**LANGUAGE, "use_lora": False, "learning_rate": 2e-5}),
    "sft-lora": Race("sft", "decoder", "answers", {**LANGUAGE, "use_lora": True, "lora_dropout": 0.0}),
    "dpo-lora": Race("dpo", "decoder", "preferences", {**LANGUAGE, "per_device_train_batch_size": 2, "use_lora": True}),
    "sequence-classification": Race(
        "sequence-classification", "encoder", "labelled",
        {**COMMON, "per_device_train_batch_size": 16, "use_lora": False,
         "label_names": ["World", "Sports", "Business", "Sci/Tech"]},
    ),
    "embedding": Race(
        "embedding", "encoder", "pairs", {**COMMON, "per_device_train_batch_size": 32, "use_lora": False},
    ),
    "reranker": Race("reranker", "encoder", "judged", {**COMMON, "per_device_train_batch_size": 16, "use_lora": False}),
}  # fmt: skip


@dataclass(frozen=True)
class Lap:
    """What one run took."""

    start_s: float
    step_s: float
    peak_bytes: int
    losses: list[float]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", default=",".join(RACES))
    options = parser.parse_args()
    missed = False
    with tempfile.TemporaryDirectory() as folder, registry(Path(folder)) as environment:
        rows = write_rows(options.data, Path(folder))
        folders = {"encoder": models.encoder(), "decoder": models.decoder(Path(folder) / "smollm2")}
        print(f"{'':26}{'step s':>18}{'x':>7}{'peak MB':>16}{'x':>7}{'start s':>16}{'+ s':>7}{'loss':>9}")
        for name in options.only.split(","):
            race = RACES[name]
            config = {
                **race.arguments, "task_type": race.recipe, "model_name_or_path": str(folders[race.model]),
                "dataset": str(rows[race.rows]), "max_steps": options.steps,
            }  # fmt: skip
            laps: dict[str, list[Lap]] = {"plain": [], "ours": []}
            for turn in range(options.rounds):
                place = Path(folder) / f"{name}-{turn}"
                place.mkdir()
                laps["plain"].append(plain(race.recipe, config, place, environment))
                laps["ours"].append(ours(config, place, environment))
            missed |= tell(name, laps["plain"], laps["ours"])
    return int(missed)


def tell(name: str, theirs: list[Lap], ours: list[Lap]) -> bool:
    def best(laps: list[Lap], of: str) -> float:
        return float(min(getattr(lap, of) for lap in laps))

    step, peak, start = ((best(theirs, of), best(ours, of)) for of in ("step_s", "peak_bytes", "start_s"))
    loss = max(abs(a - b) for a, b in zip(theirs[0].losses, ours[0].losses, strict=True))
    print(
        f"{name:26}{step[0]:>9.3f}{step[1]:>9.3f}{step[1] / step[0]:>7.3f}"
        f"{peak[0] / 2**20:>8.0f}{peak[1] / 2**20:>8.0f}{peak[1] / peak[0]:>7.3f}"
        f"{start[0]:>8.2f}{start[1]:>8.2f}{start[1] - start[0]:>7.2f}{loss:>9.1e}",
        flush=True,
    )
    return step[1] > 1.02 * step[0] or peak[1] > 1.03 * peak[0] or start[1] > start[0] + 1 or loss >= 1e-4


def plain(recipe: str, config: dict[str, Any], place: Path, environment: dict[str, str]) -> Lap:
    """A plain script prints `step SECONDS_SINCE_EPOCH LOSS` after each step and `peak BYTES` at its end."""
    file = place / "config.json"
    file.write_text(json.dumps({**config, "output_dir": str(place / "plain")}))
    script = HERE / "plain" / f"{recipe.replace('-', '_')}.py"
    began = time.time()
    done = subprocess.run(
        [sys.executable, str(script), str(file)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{script.name} failed:\n{done.stderr[-3000:]}")
    told = [line.split() for line in done.stdout.splitlines() if line.startswith(("step ", "peak "))]
    times = [float(words[1]) for words in told if words[0] == "step"]
    losses = [float(words[2]) for words in told if words[0] == "step"]
    peak = next(int(words[1]) for words in told if words[0] == "peak")
    return lap(began, times, losses, peak)


def ours(config: dict[str, Any], place: Path, environment: dict[str, str]) -> Lap:
    file = place / "ours.json"
    file.write_text(json.dumps({**config, "output_dir": str(place / "ours")}))
    began, times, losses, last = time.time(), [], [], ""
    command = [BIN / "swift-submit", "--format", "ndjson", "run", str(file)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        for line in run.stdout:
            event = json.loads(last := line)
            if event.get("event") == "step" and "loss" in event:
                times.append(time.time())
                losses.append(event["loss"])
        assert run.stderr is not None
        said = run.stderr.read()
    if run.returncode not in (0, 11):
        raise SystemExit(f"swift-submit failed:\n{said[-3000:]}\n{last}")
    (metrics,) = (place / "ours").glob("task-type=*/run-*/metrics.json")
    return lap(began, times, losses, json.loads(metrics.read_text())["peak_memory_bytes"])


def lap(began: float, times: list[float], losses: list[float], peak: int) -> Lap:
    return Lap(times[0] - began, statistics.median(b - a for a, b in itertools.pairwise(times)), peak, losses)


def write_rows(data: Path, folder: Path) -> dict[str, Path]:
    """The data sets in the columns of the profiles, once for both sides."""
    import csv

    def lines(path: str) -> Iterator[dict[str, Any]]:
        with (data / path).open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file) if path.endswith(".csv") else map(json.loads, file)

    sets = {
        "answers": [
            {"prompt": f"{row['instruction']}\n{row['input']}".strip(), "completion": row["output"]}
            for row in lines("sft/alpaca_en_demo.jsonl")
            if len(row["instruction"] + row["input"] + row["output"]) < 400  # whole within `max_length`
        ][:400],
        "preferences": [
            {"prompt": row["conversations"][0]["value"], "chosen": row["chosen"]["value"], "rejected": other}
            for row in lines("dpo/dpo_en_demo.jsonl")
            if (other := row["rejected"]["value"]) and len(row["conversations"]) == 1
            if len(row["conversations"][0]["value"] + max(row["chosen"]["value"], other, key=len)) < 400
        ][:100],
        "judged": [
            {"query": row["qtext"], "document": row["atext"], "label": float(row["label"])}
            for row in lines("reranker/trecqa.train.csv")
        ][:800],
        "labelled": [
            {"text": f"{row['title']} {row['description']}", "label": row["label_name"]}
            for row in lines("sequence-classification/ag_news.train.csv")
        ][:800],
        "pairs": [
            {"anchor": row["sentence1"], "positive": row["sentence2"]}
            for row in lines("embedding/stsb_en.train.csv")
            if float(row["similarity_score"]) >= 4
        ][:800],
    }
    paths = {}
    for name, rows in sets.items():
        paths[name] = folder / f"{name}.jsonl"
        paths[name].write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return paths


@contextmanager
def registry(folder: Path) -> Iterator[dict[str, str]]:
    """A registry on loopback, and the environment of somebody who may train everything there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TAGWARDEN_", "SWIFT_"))}
    environment = {
        **kept, "TAGWARDEN_STATE_DIR": str(folder / "registry"), "XDG_STATE_HOME": str(folder / "state"),
        "XDG_RUNTIME_DIR": str(folder / "runtime"), "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1",
        "SWIFT_SUBMIT_SERVER": f"http://127.0.0.1:{port}", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    serve = [BIN / "tagwarden", "serve", "--port", str(port)]
    with (folder / "registry.log").open("w") as log:
        service = subprocess.Popen(serve, env=environment, stderr=log, stdout=log)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                if httpx2.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                    break
            except httpx2.TransportError:
                pass
            if time.monotonic() > deadline:
                raise SystemExit((folder / "registry.log").read_text())
            time.sleep(0.1)
        token = [
            BIN / "tagwarden",
            "token",
            "create",
            "wang",
            "--unit",
            "retail",
            "--group",
            "trainers",
            "--group",
            "nlp",
        ]
        told = subprocess.run(token, env=environment, capture_output=True, text=True, check=True).stdout.strip()
        yield {**environment, "SWIFT_SUBMIT_TOKEN": told}
    finally:
        service.send_signal(signal.SIGINT)
        service.wait(timeout=30)


if __name__ == "__main__":
    sys.exit(main())
