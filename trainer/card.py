"""The model card: what a model is, how it was measured, and where it came from, as Hugging Face reads it.

The YAML head is made by `card_metadata.py`. It knows no gates, so they stand in a table below it, with the scores.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from enforcer.gates import Gate, Judgement, Score
from enforcer.runspec import Continued
from trainer import card_metadata
from trainer.layout import RunFolder

AGAINST = (
    "`win_rate` and `elo` compare with the base model, which has 1000 points, on held-out prompts; `judge_model` "
    "judged both orders of each pair of answers."
)


def write_card(
    folder: RunFolder,
    *,
    task_type: str,
    version: int,
    recipe: str,
    base_model: str,
    run_id: str,
    ticket_id: str,
    arguments: Mapping[str, Any],
    datasets: Mapping[str, str],
    scores: Mapping[str, Score],
    judgements: Sequence[Judgement],
    continues: Continued | None = None,
    maturity: str = "stable",
    known_of_base: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write `README.md` in the run's folder. `datasets` maps a name (`train`, `eval`) to its sha256,
    `known_of_base` is `card_metadata.of_base`."""
    head = card_metadata.dump(
        card_metadata.metadata(
            task_type=task_type,
            recipe=recipe,
            base_model=base_model,
            run_id=run_id,
            lora=bool(arguments.get("use_lora")),
            datasets=datasets,
            scores=scores,
            known_of_base=known_of_base,
        )
    )
    parts = [
        f"---\n{head}---",
        f"# {_cell(task_type)} from {_cell(base_model)}",
        "## Scores",
        _table(["metric", "value", "interval", "n"], [_score_row(name, score) for name, score in scores.items()]),
        *([AGAINST] if "elo" in scores else []),
        "## Acceptance gates",
        _table(["gate", "verdict", "reason"], [[_bar(j.gate), j.verdict, j.reason] for j in judgements]),
        "Gates as the trainer sees them. It is the registry that judges: its verdict stands in `verdict.json`.",
        "## Where it came from",
        _table(
            ["what", "value"],
            [
                ["task type", f"{task_type}, version {version}{', experimental' * (maturity == 'experimental')}"],
                ["recipe", recipe],
                ["base model", base_model],
                ["run", run_id],
                ["ticket", ticket_id],
                *([["continues", f"run {continues.run_id} after step {continues.step}"]] if continues else []),
                *([f"dataset `{name}`, sha256", digest] for name, digest in datasets.items()),
            ],
        ),
        "## Arguments",
        _table(["argument", "value"], [[f"`{name}`", value] for name, value in sorted(arguments.items())]),
    ]
    folder.card.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _score_row(name: str, score: Score) -> list[Any]:
    interval = "none"
    if score.low is not None and score.high is not None and score.confidence is not None:
        interval = f"[{score.low:.4f}, {score.high:.4f}] at {score.confidence:.0%}"
    return [name, f"{score.value:.4f}", interval, score.n]


def _bar(gate: Gate) -> str:
    return f"{gate.metric} {gate.op} {gate.value:g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return "None."
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    """Users' words as text that can neither end its table cell nor its line, nor become a tag or a link."""
    text = str(value).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in "|[]!":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
