"""A run whose answers are judged: inside of it, so that the registry hears of it, or afterwards."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from judge_server import JudgeServer, longer, serving
from submitting import Desk
from tiny import LANGUAGE, asked_rows, labelled_rows, make_chat, make_job

from enforcer.problems import NotConfigured
from trainer import exits, http
from trainer.judging import runs, session
from trainer.judging.answers import Speaker, prompts_of
from trainer.judging.endpoint import Endpoint
from trainer.judging.reward import RewardModel
from trainer.judging.verdicts import Comparison


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat(tmp_path_factory.mktemp("chat"))


@pytest.fixture
def desk(tmp_path: Path, chat: Path, live_registry: Any) -> Desk:
    return Desk(tmp_path, chat, live_registry.url, live_registry.token("li", "nlp"))


def preferences(desk: Desk, **changes: Any) -> str:
    """A config that pulls a model towards labels and away from small talk."""
    rows = [{"prompt": row["prompt"], "chosen": row["completion"], "rejected": "say what"} for row in asked_rows(96, 1)]
    given = {
        "task_type": "dpo",
        "dataset": str(desk.data(rows[4:])),
        "eval_dataset": str(desk.data(rows[:4], "eval.jsonl")),
        "use_lora": False,
        "max_steps": 8,
        "max_length": 256,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": False,
        **changes,
    }
    asked = {name: value for name, value in desk.arguments(**given).items() if name != "label_names"}
    config = desk.root / "dpo.yaml"
    config.write_text(yaml.safe_dump(asked), "utf-8")
    return str(config)


def judged_by(server: JudgeServer) -> dict[str, str]:
    return {"SWIFT_SUBMIT_JUDGE": server.url, "SWIFT_SUBMIT_JUDGE_KEY": "sk-secret"}


@pytest.mark.slow
def test_a_run_that_names_its_judge_reports_win_rate_and_elo_and_can_be_judged_again(desk: Desk) -> None:
    with serving(longer) as server:
        ran = desk.cli("--json", "run", preferences(desk, judge_model="judge-1"), **judged_by(server))
        assert ran.returncode == exits.FINE, ran.stdout + ran.stderr
        (run_dir,) = desk.run_dirs
        asked_in_run = len(server.asked)
        ask = ("--judge", server.url, "--judge-model", "judge-2", "--max-tokens", "8", "--prompts", "eval.jsonl")
        again = desk.cli("--json", "judge", str(run_dir), *ask)
        with_itself = desk.cli("judge", str(run_dir), *ask, "--against", str(run_dir))

    scores = json.loads(ran.stdout)["run"]["scores"]
    assert scores["win_rate"]["n"] == scores["elo"]["n"] == 4
    assert scores["reward_accuracy"]["n"] == 4
    assert scores["elo"]["low"] is None  # four prompts say too little
    assert asked_in_run >= 2
    assert {sent["Authorization"] for sent in server.headers[:asked_in_run]} == {"Bearer sk-secret"}
    assert json.loads((run_dir / "metrics.json").read_text())["details"]["judged"]["judge"]["model"] == "judge-1"

    summary = json.loads(again.stdout)
    assert again.returncode == exits.FINE, again.stderr
    assert (summary["judge"]["model"], summary["judge"]["served"]) == ("judge-2", ["judge-1@abc"])
    assert (summary["prompts"], summary["generation"]["max_new_tokens"], summary["without_verdict"]) == (4, 8, 0)
    assert summary["scores"]["win_rate"]["value"] == (summary["wins"] + summary["ties"] / 2) / 4
    assert "won 0, tied 4, lost 0, without verdict 0" in with_itself.stdout
    lines = [json.loads(line) for line in (run_dir / "judgements.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    assert all(line["model"] == line["reference"] for line in lines)  # the last judging: the run against itself
    kept = "".join(file.read_text() for file in run_dir.iterdir() if file.is_file())
    assert "sk-secret" not in kept + ran.stdout + ran.stderr


def test_a_judge_that_is_away_costs_no_ticket_and_no_training(desk: Desk) -> None:
    ran = desk.cli("run", preferences(desk, judge_model="judge-1"), SWIFT_SUBMIT_JUDGE="http://127.0.0.1:9/v1")

    assert ran.returncode == exits.UNREACHABLE
    assert "the judge `http://127.0.0.1:9/v1` cannot be reached" in ran.stderr
    (run_dir,) = desk.run_dirs
    assert not (run_dir / "model").exists()
    assert not (run_dir / "report.json").exists()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "Without one there is no win rate and no Elo"),
        ({"url": "http://127.0.0.1:9/v1"}, "a judge is needed"),
        ({"url": "http://127.0.0.1:9/v1", "judge_model": "judge-1", "reward_model": "run-1"}, "not by both"),
    ],
)
def test_a_run_is_judged_by_one_judge_and_without_any_nothing_is_called_elo(given: dict[str, str], why: str) -> None:
    empty: dict[str, Any] = {"against": None, "url": None, "judge_model": None, "reward_model": None, "limit": None}

    with pytest.raises(NotConfigured, match=why):
        runs.judge_for(
            runs.Asked(**{"run_dir": Path(), "prompts": "", "max_tokens": 8, **empty, **given}), cached=False
        )


def test_a_run_that_answers_no_prompts_is_not_judged(desk: Desk) -> None:
    desk.data(labelled_rows(60, 1))
    folder = desk.permitted().folder

    refused = desk.cli("judge", str(folder.root), "--prompts", "train.jsonl")

    assert refused.returncode == exits.INVALID
    assert "this takes a run whose model answers prompts" in " ".join(refused.stderr.split())


def test_scores_are_those_of_what_is_written_down(tmp_path: Path, chat: Path) -> None:
    """Two random models; the judge prefers the longer answer, and the file says which one that is."""
    other = make_chat(tmp_path / "other", seed=1)
    job = make_job(tmp_path, chat, LANGUAGE)
    prompts = prompts_of(asked_rows(6, 3))
    with serving(longer) as server:
        judge = Endpoint(http.JudgeLink(server.url, None, timeout_s=5), "judge-1", cache=None)

        scores, told = session.run_against(
            job.folder, Speaker(other), Speaker(chat), judge, prompts, seed=0, max_new_tokens=6
        )

    lines = [json.loads(line) for line in job.folder.judgements.read_text().splitlines()]
    expected = [
        0.5 if len(line["model"]) == len(line["reference"]) else float(len(line["model"]) > len(line["reference"]))
        for line in lines
    ]
    assert [line["score"] for line in lines] == expected
    assert scores["win_rate"].value == pytest.approx(sum(expected) / len(expected))
    assert [line["prompt"] for line in lines] == prompts
    assert any(line["model"] != line["reference"] for line in lines)
    assert json.loads(job.folder.judgement.read_text()) == told
    assert told["model"]["digest"] != told["reference"]["digest"]
    assert job.folder.judgements.stat().st_mode & 0o077 == 0


def test_a_prompt_that_leaves_no_room_is_refused_before_a_model_is_loaded(chat: Path) -> None:
    from enforcer.problems import DatasetInvalid
    from trainer.judging.answers import compared

    with pytest.raises(DatasetInvalid, match="1 of 2 prompts leave no room for 1000 new tokens"):
        compared(
            Speaker(chat), Speaker(chat), prompts_of([{"prompt": "hi"}, {"prompt": "x" * 500}]), max_new_tokens=1000
        )


def test_a_judge_that_dies_after_training_costs_its_scores_alone(
    tmp_path: Path, chat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "JUDGE_PAUSES_S", ())
    monkeypatch.setattr(session, "compared", lambda *_, **__: [Comparison([], "ours", "theirs")] * 20)
    job = make_job(tmp_path, chat, LANGUAGE)
    gone = Endpoint(http.JudgeLink("http://127.0.0.1:9/v1", None, timeout_s=1), "judge-1", cache=None)

    scores, told = session.in_run(job, gone)

    assert scores == {}
    assert "cannot be reached" in told["error"]

    monkeypatch.setattr(session, "compared", lambda *_, **__: [])  # whatever else goes wrong

    assert session.in_run(job, gone)[0] == {}


def test_prompts_are_asked_once_each_and_without_their_answers() -> None:
    rows: list[Any] = [
        {"prompt": "a"},
        {"prompt": [{"role": "user", "content": "a"}]},
        {"messages": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "x"}]},
        {"messages": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "y"}]},
    ]

    assert [turns[-1]["content"] for turns in prompts_of(rows)] == ["a", "b"]


@pytest.mark.parametrize("row", [{}, {"prompt": ""}, {"prompt": 7}, {"prompt": ["hi"]}, {"messages": []}])
def test_a_row_without_a_prompt_is_named(row: Any) -> None:
    from enforcer.problems import DatasetInvalid

    with pytest.raises(DatasetInvalid, match="row 2 has no prompt"):
        prompts_of([{"prompt": "fine"}, row])


def test_a_reward_model_prefers_what_it_rewards_more(tmp_path: Path, chat: Path) -> None:
    """It learned that the answer names the label; shown either way round, that one wins."""
    from trainer.recipes import reward_modeling

    pairs = [
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": "say what"} for row in asked_rows(96, 1)
    ]
    arguments = {**LANGUAGE, "center_rewards_coefficient": 0.01}
    job = make_job(tmp_path, chat, arguments, task_type="reward-modeling", train_rows=pairs, eval_rows=pairs[:8])
    reward_modeling.train(job)
    judge = RewardModel(Speaker.of(job.folder.model, chat), "run-1", "sha256:00")
    prompt = [{"role": "user", "content": "which? goal"}]

    judged = judge.compare(
        [Comparison(prompt, *answers) for answers in (("体育", "say what"), ("say what", "体育"), ("体育", "体育"))]
    )

    assert [one.score for one in judged] == [1.0, 0.0, 0.5]
    assert judge.describe()["kind"] == "reward-model"


def test_a_judge_with_nothing_to_judge_is_refused_before_a_ticket(desk: Desk) -> None:
    refused = desk.cli("plan", preferences(desk, eval_dataset=None, eval_fraction=0.0, judge_model="judge-1"))

    assert refused.returncode == 6
    assert "give an `eval_dataset`" in " ".join(refused.stderr.split())
