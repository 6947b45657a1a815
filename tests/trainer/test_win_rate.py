"""Win rate and Elo: every number is worked out by hand in its docstring, and the interval is held against the truth."""

import numpy as np
import pytest

from enforcer.gates import Gate, Verdict, judge
from trainer import evaluate
from trainer.evaluate import preference


def test_verdicts_of_both_orders_must_agree_to_count() -> None:
    assert evaluate.prompt_score("model", "model") == 1.0
    assert evaluate.prompt_score("reference", "reference") == 0.0
    assert evaluate.prompt_score("tie", "tie") == 0.5
    for first, second in (("model", "reference"), ("reference", "model"), ("model", "tie"), ("tie", "reference")):
        assert evaluate.prompt_score(first, second) == 0.5  # type: ignore[arg-type]


def test_a_tie_is_half_a_win() -> None:
    """(50 * 1 + 20 * 0.5) / 100 = 0.6"""
    score = evaluate.win_rate([1.0] * 50 + [0.5] * 20 + [0.0] * 30, seed=0)

    assert (score.value, score.n) == (0.6, 100)
    assert score.low is not None
    assert score.low < 0.6


def test_elo_of_known_wins() -> None:
    """57 of 100: (57 + 0.5) / 101 = 0.569307; 400 log10(0.569307 / 0.430693) = 400 * 0.121183 = 48.47."""
    assert evaluate.elo([1.0] * 57 + [0.0] * 43, seed=0).value == pytest.approx(1048.47, abs=0.01)


def test_a_model_like_its_reference_has_its_thousand_points() -> None:
    for scores in ([1.0, 0.0] * 100, [0.5] * 200):
        score = evaluate.elo(scores, seed=0)

        assert score.value == pytest.approx(1000)


def test_the_articles_bar_is_a_win_rate_of_57_percent() -> None:
    """50 points: 1 / (1 + 10^(-50/400)) = 0.5715."""
    just_below, just_above = (evaluate.elo([1.0] * n + [0.0] * (10_000 - n), seed=0).value for n in (5_710, 5_720))

    assert just_below < 1050 < just_above


def test_swapping_the_models_mirrors_the_elo() -> None:
    scores = [1.0] * 130 + [0.5] * 40 + [0.0] * 30
    ours, theirs = (evaluate.elo(side, seed=1) for side in (scores, [1 - score for score in scores]))

    assert ours.value - 1000 == pytest.approx(1000 - theirs.value)


def test_a_model_that_always_wins_has_finite_points_and_an_interval_that_is_not_a_point() -> None:
    """(200 + 0.5) / 201 = 0.997512; 400 log10(401) = 1041.3 points ahead."""
    elo, rate = evaluate.elo([1.0] * 200, seed=0), evaluate.win_rate([1.0] * 200, seed=0)

    assert elo.value == pytest.approx(2041.3, abs=0.1)
    assert elo.low is not None
    assert elo.low < elo.value
    assert rate.low is not None
    assert 0.96 < rate.low < rate.value == rate.high == 1.0


def test_too_few_prompts_have_no_interval_so_a_gate_stays_inconclusive() -> None:
    """99 wins in 99 clear 1050 by far, and still nobody knows."""
    score = evaluate.elo([1.0] * 99, seed=0)

    assert score.low is None
    judged = judge(Gate(metric="elo", value=1050, min_n=50, confidence=0.95), score)
    assert judged.verdict is Verdict.INCONCLUSIVE


def test_a_bar_inside_the_interval_is_inconclusive_and_one_below_it_is_passed() -> None:
    """57.5 % of 200 is 1052 points, give or take 48 (1.96 * 400 / ln 10 / sqrt(200 * 0.575 * 0.425)): neither above nor
    below 1050. 90 % is 1377 points."""
    bar = Gate(metric="elo", value=1050, min_n=100, confidence=0.95)

    assert judge(bar, evaluate.elo([1.0] * 115 + [0.0] * 85, seed=0)).verdict is Verdict.INCONCLUSIVE
    assert judge(bar, evaluate.elo([1.0] * 180 + [0.0] * 20, seed=0)).verdict is Verdict.PASS
    assert judge(bar, evaluate.elo([1.0] * 60 + [0.0] * 140, seed=0)).verdict is Verdict.FAIL


@pytest.mark.parametrize("scores", [[], [0.25], [1.0, float("nan")]])
def test_what_is_no_score_of_a_prompt_is_refused(scores: list[float]) -> None:
    with pytest.raises(ValueError, match=r"0, 0\.5 or 1"):
        evaluate.win_rate(scores, seed=0)


def coverage(wins: float, ties: float, n: int, trials: int) -> tuple[float, float]:
    """How often the interval of win rate and Elo holds the true value."""
    truth = wins + ties / 2
    points = 1000 + 400 * np.log10(truth / (1 - truth))
    random = np.random.default_rng(7)
    rate_held = elo_held = 0
    for seed in range(trials):
        scores = random.choice([1.0, 0.5, 0.0], p=[wins, ties, 1 - wins - ties], size=n).tolist()
        rate, elo = evaluate.win_rate(scores, seed), evaluate.elo(scores, seed)
        assert None not in (rate.low, rate.high, elo.low, elo.high)
        rate_held += rate.low <= truth <= rate.high  # type: ignore[operator]
        elo_held += elo.low <= points <= elo.high  # type: ignore[operator]
    return rate_held / trials, elo_held / trials


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """400 trials: a share of 0.95 is measured with a standard error of 0.011."""
    rate, elo = coverage(0.55, 0.1, n=200, trials=400)

    assert rate == pytest.approx(0.95, abs=0.03)
    assert elo == pytest.approx(0.95, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("n", [preference.MIN_PROMPTS, 200, 400, 1000])
@pytest.mark.parametrize(
    ("wins", "ties"), [(0.4, 0.2), (0.5, 0.1), (0.55, 0.1), (0.7, 0.1), (0.85, 0.1), (0.3, 0.6), (0.95, 0.0)]
)
def test_the_interval_holds_the_truth_at_every_strength(wins: float, ties: float, n: int) -> None:
    rate, elo = coverage(wins, ties, n, trials=3_000)

    assert 0.93 <= rate <= 0.975
    assert 0.93 <= elo <= 0.975
