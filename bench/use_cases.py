"""What the use cases of a language model reach on real data: a base model, and the same after training.

    python bench/use_cases.py --data FOLDER [--model FOLDER] [--only text-to-sql,agent-training] [--steps 100] ...

DATA holds `text-to-sql/geography.*` and `agent-training/glaive_toolcall_en_demo.jsonl`; without --model, SmolLM2-135M
comes out of its PyPI package (`models.py`). Recipes are called as a permitted run calls them, with the defaults of the
vocabulary but for --steps, --rate, and --length, above which rows are left out.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import models
import yaml

from enforcer.inheritance import inherit
from enforcer.profiles import Profile, ProfileOverrides
from trainer import preflight, recipes
from trainer.inputs import rows
from trainer.inputs.chat import Reader
from trainer.job import Job, Outcome, Row
from trainer.layout import RunFolder

VOCABULARY = Path(__file__).parent.parent / "policies" / "vocabulary"
SQL = {"prompt": "question", "completion": "sql", "database": "db_id"}
CALLS = {"messages": "conversations"}


class Quiet:
    """A listener that says how far it is."""

    def on_step(self, step: int, total: int, logs: Any) -> None:
        if "loss" in logs:
            print(f"  step {step}/{total}  loss {logs['loss']:.3f}", flush=True)

    def should_stop(self) -> None:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--only", default="text-to-sql,agent-training")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--held-out", type=int, default=50, help="evaluation rows at most")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or models.decoder(Path(folder) / "smollm2")
        for tag in options.only.split(","):
            measure(tag, model, Path(folder), options)


def measure(tag: str, model: Path, folder: Path, options: argparse.Namespace) -> None:
    profile = profile_of(tag)
    arguments = profile.resolve({
        "max_steps": options.steps, "learning_rate": options.rate, "max_length": options.length,
        "gradient_checkpointing": False, "gradient_accumulation_steps": 1, "logging_steps": 10,
    })  # fmt: skip
    train, held_out = (short(part, model, options.length) for part in read(tag, profile, arguments, options.data))
    held_out = held_out[: options.held_out]
    print(f"{tag}: {len(train)} rows to train on, {len(held_out)} held out", flush=True)
    for name, changes in (("base", {"max_steps": 1, "learning_rate": 1e-8}), ("trained", {})):
        where = RunFolder.of(folder, tag, name).create()
        job = Job(
            tag, name, {**arguments, **changes}, model, train, held_out, where, Quiet(), loss_mask=profile.loss_mask
        )
        started = time.perf_counter()
        tell(name, recipes.load(profile.recipe).train(job), time.perf_counter() - started)


def tell(name: str, outcome: Outcome, seconds: float) -> None:
    print(f"{name}: {outcome.steps} steps, {seconds:.0f} s with evaluation")
    for metric, score in outcome.scores.items():
        print(f"  {metric:20}{score.value:8.3f}  [{score.low:.3f}, {score.high:.3f}]  n {score.n}")
    details = {key: value for key, value in outcome.details.items() if key not in ("log_history", "databases")}
    print(f"  {json.dumps(details)}", flush=True)


def profile_of(tag: str) -> Profile:
    """As the vocabulary has it: what the parent says, narrowed."""
    entries = {
        entry["name"]: entry
        for file in sorted(VOCABULARY.glob("*.yaml"))
        for entry in yaml.safe_load(file.read_text())["tags"]
    }
    entry = entries[tag]
    return inherit(Profile(**entries[entry["parent"]]["profile"]), ProfileOverrides(**entry["overrides"]))


def read(tag: str, profile: Profile, arguments: dict[str, Any], data: Path) -> tuple[list[Row], list[Row]]:
    if tag == "text-to-sql":
        files = [str(data / "text-to-sql" / f"geography.{part}.jsonl") for part in ("train", "dev")]
        sources = preflight.Sources([rows.read(files[0])], [rows.read(files[1])])
        found = preflight.rows_of(sources, profile, SQL, arguments, 0.0)
    else:
        file = data / "agent-training" / "glaive_toolcall_en_demo.jsonl"
        found = preflight.rows_of(preflight.Sources([rows.read(str(file))], []), profile, CALLS, arguments, 0.2)
    return found.train, found.eval


def short(part: list[Row], model: Path, length: int) -> list[Row]:
    reader = Reader(model)
    return [row for row in part if len(reader.row(row, "assistant").ids) <= length]


if __name__ == "__main__":
    main()
