"""What holds of every gate and every score: nothing passes that could be below the bar, nothing fails that could be
above it, and too few samples decide nothing."""

from hypothesis import given, settings, strategies as st

from enforcer.gates import Gate, Judgement, Score, Verdict, judge, overall

VALUES = st.floats(-100, 100).map(lambda value: round(value, 2))
CONFIDENCES = st.sampled_from([0.8, 0.9, 0.95, 0.99])


@st.composite
def gates(draw: st.DrawFn) -> Gate:
    confidence = draw(st.none() | CONFIDENCES)
    op = draw(st.sampled_from([">=", "<="]))
    return Gate(metric="elo", op=op, value=draw(VALUES), min_n=draw(st.integers(1, 500)), confidence=confidence)


@st.composite
def scores(draw: st.DrawFn, always_measured: bool = False) -> Score:
    low, value, high = sorted(draw(st.tuples(VALUES, VALUES, VALUES)))
    n = draw(st.integers(0, 1000))
    if not always_measured and draw(st.booleans()):
        return Score(value=value, n=n)
    return Score(value=value, n=n, low=low, high=high, confidence=draw(CONFIDENCES))


def clears(gate: Gate, value: float) -> bool:
    return value >= gate.value if gate.op == ">=" else value <= gate.value


def mirrored(gate: Gate, score: Score) -> tuple[Gate, Score]:
    """The same on an axis that runs the other way."""
    turned = {"value": -score.value}
    if score.low is not None and score.high is not None:
        turned |= {"low": -score.high, "high": -score.low}
    op = "<=" if gate.op == ">=" else ">="
    return gate.model_copy(update={"op": op, "value": -gate.value}), score.model_copy(update=turned)


@given(gates(), scores())
def test_too_few_samples_decide_nothing(gate: Gate, score: Score) -> None:
    if score.n < gate.min_n:
        assert judge(gate, score).verdict is Verdict.INCONCLUSIVE


@given(gates(), scores())
def test_what_passes_clears_the_bar_with_its_whole_interval_and_what_fails_misses_it_with_all(
    gate: Gate, score: Score
) -> None:
    bounds = [score.value] if gate.confidence is None else [score.low, score.high]
    verdict = judge(gate, score).verdict

    if verdict is Verdict.PASS:
        assert all(bound is not None and clears(gate, bound) for bound in bounds)
    if verdict is Verdict.FAIL:
        assert all(bound is not None and not clears(gate, bound) for bound in bounds)


@settings(max_examples=300)
@given(gates(), scores())
def test_enough_samples_and_a_sure_enough_interval_on_one_side_of_the_bar_decide(gate: Gate, score: Score) -> None:
    sure = gate.confidence is None or (score.confidence or 0) >= gate.confidence
    bounds = [score.value] if gate.confidence is None or score.low is None else [score.low, score.high or 0.0]
    sides = {clears(gate, bound) for bound in bounds}

    decided = judge(gate, score).verdict is not Verdict.INCONCLUSIVE

    assert decided == (score.n >= gate.min_n and sure and len(sides) == 1)


@given(gates(), scores())
def test_a_bar_from_above_is_judged_as_one_from_below(gate: Gate, score: Score) -> None:
    assert judge(*mirrored(gate, score)).verdict is judge(gate, score).verdict


@given(gates(), scores(always_measured=True), st.floats(0, 10), st.floats(0, 10))
def test_knowing_less_never_turns_a_verdict_around(gate: Gate, score: Score, below: float, above: float) -> None:
    assert score.low is not None
    assert score.high is not None
    wider = score.model_copy(update={"low": score.low - below, "high": score.high + above})

    assert judge(gate, wider).verdict in (judge(gate, score).verdict, Verdict.INCONCLUSIVE)


@given(st.lists(st.tuples(gates(), st.none() | scores())))
def test_a_run_passes_when_every_gate_does_and_fails_when_any_does(pairs: list[tuple[Gate, Score | None]]) -> None:
    judged: list[Judgement] = [judge(gate, score) for gate, score in pairs]
    verdicts = {one.verdict for one in judged}

    whole = overall(judged)

    assert (whole is Verdict.FAIL) == (Verdict.FAIL in verdicts)
    assert (whole is Verdict.PASS) == (verdicts <= {Verdict.PASS})


@given(gates())
def test_a_score_that_was_not_reported_fails(gate: Gate) -> None:
    assert judge(gate, None).verdict is Verdict.FAIL
