"""Judge a run: its model's answers against a reference's. `swift-submit judge` does it afterwards, `in_run` before the
run reports, and only then the scores reach the registry: what is measured after a report, nobody has signed for.

Leaves in the run folder:
    judgements.jsonl   one line a prompt: what was asked, both answers, both verdicts, what the judge said
    judgement.json     win rate and Elo with intervals, the judge, the reference, and how prompts and answers were made
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from enforcer.gates import Score
from enforcer.problems import Problem
from trainer import settings
from trainer.http import JudgeLink
from trainer.inputs import folders
from trainer.job import Job
from trainer.judging import verdicts
from trainer.judging.answers import MAX_NEW_TOKENS, Speaker, compared, prompts_of
from trainer.judging.endpoint import Endpoint
from trainer.judging.verdicts import Judge, Judged, Message
from trainer.layout import RunFolder

log = logging.getLogger(__name__)


def run_against(
    folder: RunFolder,
    model: Speaker,
    reference: Speaker,
    judge: Judge,
    prompts: Sequence[Sequence[Message]],
    *,
    seed: int,
    max_new_tokens: int = MAX_NEW_TOKENS,
    **facts: Any,
) -> tuple[dict[str, Score], dict[str, Any]]:
    """Let both answer, judge, and write it down; `facts` go into the summary. Returns scores and summary."""
    judged = verdicts.judge_all(judge, compared(model, reference, prompts, max_new_tokens=max_new_tokens))
    scores = verdicts.scores(judged, seed)
    summary = {
        **facts,
        "model": _named(model),
        "reference": _named(reference),
        "judge": judge.describe(),
        "prompts_digest": f"sha256:{hashlib.sha256(json.dumps(prompts, sort_keys=True).encode()).hexdigest()}",
        "generation": {"max_new_tokens": max_new_tokens, "sampling": "greedy"},
        **verdicts.summary(judged),
        "scores": {name: score.model_dump() for name, score in scores.items()},
    }
    _write(folder.judgements, "".join(json.dumps(_line(one), ensure_ascii=False) + "\n" for one in judged))
    _write(folder.judgement, json.dumps(summary, ensure_ascii=False, indent=1) + "\n")
    return scores, summary


def endpoint(url: str, model: str, *, cached: bool = True, allow_http: bool = False) -> Endpoint:
    """The judge at an address, with the key that this machine holds for it.

    Raises:
        NotConfigured: an address that is none, or in clear; a key file that others can read.
    """
    import platformdirs

    chosen = settings.judge(url, allow_http=allow_http)
    link = JudgeLink(chosen.url, chosen.key, timeout_s=chosen.timeout_s, allow_http=chosen.allow_http)
    return Endpoint(link, model, cache=platformdirs.user_cache_path("swift-submit") / "judge" if cached else None)


def judge_of_run(arguments: Mapping[str, Any], *, allow_http: bool) -> Endpoint | None:
    """The judge that a run's `judge_model` names, at the address that this machine does, and it answers; None when the
    run names none.

    Raises:
        Problem: this machine names no judge, or that one is away or refuses.
    """
    if not arguments.get("judge_model"):
        return None
    judge = endpoint(settings.judge_address(), arguments["judge_model"], allow_http=allow_http)
    judge.check()
    return judge


def in_run(job: Job, judge: Judge) -> tuple[dict[str, Score], dict[str, Any]]:
    """The scores of a model that was just trained, on its held-out prompts, against the model it began as.

    A judge that is away by now costs its scores, not the run: a gate on them is then not passed.
    """
    try:
        return run_against(
            job.folder,
            Speaker.of(job.folder.model, job.model_dir),
            Speaker(job.model_dir),
            judge,
            prompts_of(job.eval_rows),
            seed=job.arguments["seed"],
        )
    except Problem as problem:
        log.error("the run has no win rate: %s", problem.detail)
        return {}, {"error": problem.detail}
    except Exception as error:  # whatever it is, a finished model is worth more than its comparison
        log.exception("the run has no win rate")
        return {}, {"error": f"{type(error).__name__}: {error}"}


def _named(speaker: Speaker) -> dict[str, Any]:
    named = {"name": folders.public_name(speaker.folder), "digest": folders.folder_digest(speaker.folder)}
    return {**named, **({"base": folders.public_name(speaker.base)} if speaker.base else {})}


def _line(one: Judged) -> dict[str, Any]:
    return {
        "prompt": list(one.comparison.prompt),
        "model": one.comparison.model,
        "reference": one.comparison.reference,
        "score": one.score,
        "model_first": {"winner": one.model_first.winner, "said": one.model_first.said},
        "model_second": {"winner": one.model_second.winner, "said": one.model_second.said},
    }


def _write(path: Path, text: str) -> None:
    """Whole or not at all, and ours alone."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, encoding="utf-8", delete=False) as part:
        part.write(text)
    os.replace(part.name, path)
