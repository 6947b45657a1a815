"""What is known of preferences without a model: which rows belong to which task type, and what rewards say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tiny import make_chat

from enforcer.problems import ArgumentInvalid, DatasetInvalid
from enforcer.profiles import Profile
from trainer import preflight
from trainer.arguments import TrainingArguments
from trainer.evaluate import rewards, wilson

PAIRS = [{"prompt": f"ask {i}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(30)]
JUDGED = [{"prompt": f"ask {i}", "completion": f"yes {i}", "label": i % 2 == 0} for i in range(30)]
OF_PAIRS = ["dpo", "cpo", "simpo", "orpo", "reward-modeling"]


def shipped(tag: str) -> Profile:
    text = (Path(__file__).parents[2] / "policies" / "vocabulary" / "2-objectives.yaml").read_text()
    return Profile.model_validate(next(t["profile"] for t in yaml.safe_load(text)["tags"] if t["name"] == tag))


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat(tmp_path_factory.mktemp("chat"))


@pytest.fixture
def check(tmp_path: Path, chat: Path) -> Any:
    def run(tag: str, rows: Any, **changes: Any) -> Any:
        args = TrainingArguments(
            task_type=tag, model_name_or_path=str(chat), output_dir=str(tmp_path / "out"), **changes
        )
        return preflight.check(args, shipped(tag), rows)

    return run


# Rows


@pytest.mark.parametrize("tag", OF_PAIRS)
def test_answers_one_by_one_are_no_pairs_and_kto_is_named(tag: str, check: Any) -> None:
    with pytest.raises(DatasetInvalid, match=r"no column `chosen`; .* that is what `kto` learns from; here") as refused:
        check(tag, JUDGED)

    assert refused.value.facts["pointer"] == "/chosen"


def test_pairs_are_no_answers_one_by_one_and_how_to_split_them_is_said(check: Any) -> None:
    with pytest.raises(DatasetInvalid, match=r"no column `completion`; .*`dpo`.* make two rows of each") as refused:
        check("kto", PAIRS)

    assert refused.value.facts["pointer"] == "/completion"


@pytest.mark.parametrize("label", [1, "true", "good", None])
def test_a_label_of_kto_is_true_or_false(label: Any, check: Any) -> None:
    with pytest.raises(DatasetInvalid, match=r"`label` is .*; it holds true or false"):
        check("kto", [*JUDGED, {**JUDGED[0], "label": label}])


def test_answers_that_are_all_good_are_told(check: Any) -> None:
    findings = check("kto", [{**row, "label": True} for row in JUDGED]).findings

    assert "every training row's `label` is true: nothing tells good from bad" in findings
    assert not any("tells good from bad" in finding for finding in check("kto", JUDGED).findings)


def test_pairs_whose_answers_are_one_are_left_out_and_counted(check: Any) -> None:
    checked = check("dpo", [*PAIRS, {**PAIRS[0], "rejected": f" {PAIRS[0]['chosen']}"}])

    assert checked.facts["dropped"] == {"equal": 1}
    assert len(checked.train_rows) + len(checked.eval_rows) == len(PAIRS)


# Arguments


@pytest.mark.parametrize("tag", [*OF_PAIRS, "kto"])
def test_dropout_is_no_parameter_where_training_turns_it_off(tag: str, check: Any) -> None:
    with pytest.raises(ArgumentInvalid, match="`lora_dropout` is not a parameter of this task type"):
        check(tag, JUDGED if tag == "kto" else PAIRS, lora_dropout=0.1)


@pytest.mark.parametrize("given", [{"loss_type": "robust"}, {"label_smoothing": 0.1}])
def test_the_robust_loss_and_its_smoothing_come_together(given: dict[str, Any], check: Any) -> None:
    with pytest.raises(ArgumentInvalid, match="set both or neither"):
        check("dpo", PAIRS, **given)

    assert check("dpo", PAIRS, loss_type="robust", label_smoothing=0.1).arguments["label_smoothing"] == 0.1


def test_one_row_at_a_time_cannot_tell_kto_how_far_the_model_has_moved(check: Any) -> None:
    with pytest.raises(ArgumentInvalid, match="is below the minimum 2"):
        check("kto", JUDGED, per_device_train_batch_size=1)


@pytest.mark.parametrize(
    ("tag", "said"), [("dpo", False), ("kto", False), ("cpo", True), ("simpo", True), ("orpo", True)]
)
def test_an_experimental_task_type_is_told_to_be_one(tag: str, said: bool, check: Any) -> None:
    findings = check(tag, JUDGED if tag == "kto" else PAIRS).findings

    assert any("experimental: the library below may change or drop it" in finding for finding in findings) == said


# Rewards


def test_scores_of_pairs_by_hand() -> None:
    """Margins 2, 0, -1, 3: two of four are positive (a tie is none), the mean is 1."""
    scores = rewards.of_pairs(np.array([3.0, 1.0, 0.0, 2.0]), np.array([1.0, 1.0, 1.0, -1.0]), seed=7)

    accuracy, margin = scores["reward_accuracy"], scores["reward_margin"]
    assert (accuracy.value, accuracy.n, margin.value, margin.n) == (0.5, 4, 1.0, 4)
    assert (accuracy.low, accuracy.high) == wilson(2, 4)
    assert -1.0 <= margin.low < 1.0 < margin.high <= 3.0, "no resample leaves the values"


def test_scores_of_single_answers_by_hand() -> None:
    """Good: 1 is right, -1 and 0 are wrong. Bad: -2 is right, 0 is wrong."""
    score = rewards.of_answers(np.array([1.0, -1.0, 0.0, -2.0, 0.0]), np.array([True, True, True, False, False]))

    assert (score.value, score.n) == (0.4, 5)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_rewards_that_are_no_numbers_score_nothing(broken: float) -> None:
    fine, spoilt = np.array([1.0, 2.0]), np.array([1.0, broken])

    with pytest.raises(ValueError, match="not finite"):
        rewards.of_pairs(fine, spoilt, seed=7)
    with pytest.raises(ValueError, match="not finite"):
        rewards.of_answers(spoilt, np.array([True, False]))
