"""`swift-submit judge`: from what was asked for to the two models, the judge and the prompts."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enforcer.gates import Score
from enforcer.problems import Invalid, ManifestInvalid, NotConfigured
from trainer import reproduce
from trainer.inputs import folders, rows
from trainer.judging import session
from trainer.judging.answers import Speaker, prompts_of
from trainer.judging.reward import RewardModel
from trainer.judging.verdicts import Judge
from trainer.layout import RunFolder

ANSWERS = "/v1/chat/completions"  # what a task type serves whose models answer prompts


class NotJudgeable(Invalid):
    """This run has no answers that could be compared."""

    code, title = "not-judgeable", "nothing here can be judged"


@dataclass(frozen=True)
class Asked:
    """The command line."""

    run_dir: Path
    prompts: str
    against: str | None
    url: str | None
    judge_model: str | None
    reward_model: str | None
    limit: int | None
    max_tokens: int


def judge_run(asked: Asked, *, cached: bool, talk: Callable[[str], None]) -> tuple[dict[str, Score], dict[str, Any]]:
    """Everything that can be wrong is found before a model is loaded.

    Raises:
        Problem: no judge or one that is away, a run without answers, prompts that are none.
    """
    folder = RunFolder(asked.run_dir)
    again = reproduce.read(folder)
    model, base = _trained(folder)
    reference = _reference(asked.against, base)
    source = rows.read(asked.prompts)
    prompts = prompts_of(source.rows)[: asked.limit]
    judge = judge_for(asked, cached=cached)
    talk(f"{len(prompts)} prompts, answered by both models; then each pair is judged in both orders")
    return session.run_against(
        folder,
        model,
        reference,
        judge,
        prompts,
        seed=again.spec.arguments.get("seed") or 0,
        max_new_tokens=asked.max_tokens,
        run_id=again.spec.run_id,
        prompts_file={"name": Path(source.name).name, "digest": source.digest},
    )


def judge_for(asked: Asked, *, cached: bool) -> Judge:
    """Raises `Problem`: none or two are named, or the one that is named is away."""
    if asked.reward_model is not None:
        if asked.url or asked.judge_model:
            raise NotConfigured("a run is judged by `--judge` or by `--reward-model`, not by both")
        folder = RunFolder(Path(asked.reward_model).absolute())
        speaker, _ = _trained(folder, recipe="reward-modeling")
        return RewardModel(speaker, folder.root.name, folders.folder_digest(speaker.folder))
    if not asked.url or not asked.judge_model:
        raise NotConfigured(
            "a judge is needed: `--judge URL --judge-model NAME`, or `--reward-model RUN_DIR`. Without one there is no "
            "win rate and no Elo: how a model ranks held-out pairs is the `reward_accuracy` of its run"
        )
    judge = session.endpoint(asked.url, asked.judge_model, cached=cached)
    judge.check()
    return judge


def _reference(against: str | None, base: Path) -> Speaker:
    """The base model unless another run, or another model, is named."""
    if against is None:
        return Speaker(base)
    if (Path(against) / "run-spec.json").exists():
        return _trained(RunFolder(Path(against).absolute()))[0]
    return Speaker(folders.model_folder(against))


def _trained(folder: RunFolder, *, recipe: str | None = None) -> tuple[Speaker, Path]:
    """The model that a run left, and its base: one that answers prompts, or that of a `recipe`."""
    spec = reproduce.read(folder).spec
    fits = spec.profile.serving == ANSWERS if recipe is None else spec.profile.recipe == recipe
    if not fits:
        need = "answers prompts" if recipe is None else f"`{recipe}` has trained"
        raise NotJudgeable(f"run `{spec.run_id}` is of `{spec.task_type}`; this takes a run whose model {need}")
    if not folder.model.is_dir():
        raise ManifestInvalid(f"`{folder.root}` holds no model: the run was stopped, or its model was moved away")
    base = folders.model_folder(spec.inputs.model.name)
    return Speaker.of(folder.model, base), base
