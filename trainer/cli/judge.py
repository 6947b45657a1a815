"""`swift-submit judge`."""

import importlib
from pathlib import Path
from typing import Any

import click

from trainer.cli.flags import Command
from trainer.cli.session import current


@click.command(cls=Command)
@click.argument("run_dir", metavar="RUN_DIR", type=click.Path(file_okay=False, exists=True))
@click.option("--prompts", required=True, metavar="FILE", help="What is asked: rows with `prompt` or `messages`.")
@click.option("--against", metavar="MODEL|RUN_DIR", help="Whose answers they are compared with (the run's base model).")
@click.option("--judge", "url", metavar="URL", help="An OpenAI-compatible server, such as http://127.0.0.1:8000/v1.")
@click.option("--judge-model", metavar="NAME", help="The model that judges there.")
@click.option("--reward-model", metavar="RUN_DIR", help="Let the model of a `reward-modeling` run judge instead.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N prompts.")
@click.option("--max-tokens", type=click.IntRange(1, 32_768), default=512, show_default=True, help="Of an answer.")
@click.option("--no-cache", is_flag=True, help="Ask anew what was judged before.")
def judge(
    run_dir: str,
    prompts: str,
    against: str | None,
    url: str | None,
    judge_model: str | None,
    reward_model: str | None,
    limit: int | None,
    max_tokens: int,
    no_cache: bool,
) -> None:
    """Have a run's answers judged against another model's: win rate and Elo.

    Both orders of each pair are asked; verdicts that disagree are a tie. The reference has 1000 points. The key of the
    judge comes from SWIFT_SUBMIT_JUDGE_KEY or a 0600 file named by SWIFT_SUBMIT_JUDGE_KEY_FILE. The scores stay in
    RUN_DIR: for scores that the registry judges, train with `judge_model`.
    """
    session = current()
    runs = importlib.import_module("trainer.judging.runs")  # numpy and the models live behind it
    asked = runs.Asked(Path(run_dir).absolute(), prompts, against, url, judge_model, reward_model, limit, max_tokens)
    scores, summary = runs.judge_run(asked, cached=not no_cache, talk=session.output.talk)
    session.output.result(summary, _lines(scores, summary), brief=[str(asked.run_dir / "judgement.json")])


def _lines(scores: Any, summary: Any) -> list[str]:
    from trainer.cli.output import table

    def share(name: str) -> str:
        return "-" if summary[name] is None else f"{summary[name]:.0%}"

    rows = [
        (name, f"{s.value:.4g}", "none: too few verdicts" if s.low is None else f"[{s.low:.4g}, {s.high:.4g}]", s.n)
        for name, s in scores.items()
    ]
    ratio = summary["length_ratio"]
    return [
        f"{summary['model']['name']} against {summary['reference']['name']}, judged by {summary['judge']['model']}",
        *(f"  {line}" for line in table(("score", "value", "interval", "n"), rows)),
        f"  won {summary['wins']}, tied {summary['ties']}, lost {summary['losses']}, "
        f"without verdict {summary['without_verdict']}",
        f"  orders agree on {share('orders_agree')}; the answer shown first is preferred in {share('prefers_first')}; "
        f"answers are {'-' if ratio is None else f'{ratio:.2f}'} x as long",
    ]
