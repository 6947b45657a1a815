"""Refusals: the same class on both ends of the wire."""

import pytest

from enforcer import problems, runspec  # noqa: F401  runspec adds a class to the tree
from enforcer.gates import Gate, Score, Verdict, judge
from enforcer.problems import Problem


def tree(problem: type[Problem] = Problem) -> list[type[Problem]]:
    return [problem, *(deeper for child in problem.__subclasses__() for deeper in tree(child))]


@pytest.mark.parametrize("problem", tree(), ids=lambda problem: problem.code)
def test_a_problem_arrives_as_the_class_that_was_raised(problem: type[Problem]) -> None:
    sent = problem("what was given, why not, what to do", rule="a-rule", nothing=None)

    arrived = problems.from_document(sent.document(), sent.status)

    assert type(arrived) is problem
    assert (arrived.detail, arrived.facts) == (sent.detail, {"rule": "a-rule"})


def test_codes_are_unique() -> None:
    codes = [problem.code for problem in tree()]

    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(403, problems.NotPermitted), (409, problems.Conflict), (500, problems.InternalError), (502, Problem)],
)
def test_an_unknown_code_becomes_the_nearest_class(status: int, kind: type[Problem]) -> None:
    assert type(problems.from_document({"code": "from-the-future"}, status)) is kind


def test_every_problem_has_a_title_of_its_own() -> None:
    assert all("title" in vars(problem) or problem is Problem for problem in tree())


SCORE = Score(value=0.8, n=100, low=0.7, high=0.9, confidence=0.95)


@pytest.mark.parametrize(
    ("gate", "verdict"),
    [
        (Gate(metric="f1", value=0.7, min_n=100, confidence=0.95), Verdict.PASS),
        (Gate(metric="f1", value=0.71, min_n=1, confidence=0.95), Verdict.INCONCLUSIVE),
        (Gate(metric="f1", value=0.91, min_n=1, confidence=0.95), Verdict.FAIL),
        (Gate(metric="f1", value=0.91, min_n=1), Verdict.FAIL),
        (Gate(metric="f1", value=0.8, min_n=1), Verdict.PASS),
        (Gate(metric="f1", value=0.1, min_n=101), Verdict.INCONCLUSIVE),
        (Gate(metric="f1", value=0.1, min_n=1, confidence=0.99), Verdict.INCONCLUSIVE),
        (Gate(metric="loss", op="<=", value=0.9, min_n=1, confidence=0.95), Verdict.PASS),
        (Gate(metric="loss", op="<=", value=0.6, min_n=1, confidence=0.95), Verdict.FAIL),
        (Gate(metric="loss", op="<=", value=0.8, min_n=1, confidence=0.95), Verdict.INCONCLUSIVE),
    ],
)
def test_a_gate_speaks_about_the_interval(gate: Gate, verdict: Verdict) -> None:
    assert judge(gate, SCORE).verdict is verdict


def test_a_metric_that_was_not_reported_fails() -> None:
    assert judge(Gate(metric="f1", value=0.0, min_n=1), None).verdict is Verdict.FAIL
