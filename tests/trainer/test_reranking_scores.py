"""Orders of judged documents: every number here is worked out by hand in its docstring."""

import numpy as np
import pytest

from trainer import evaluate


def test_several_right_documents_and_grades_count_as_they_should() -> None:
    """Scores 4, 3, 2, 1 for grades 0, 2, 1, 0. Right ones at ranks 2 and 3: map (1/2 + 2/3) / 2 = 0.58333, mrr 1/2.
    Gains 0, 3, 1, 0: DCG 3/log2(3) + 1/2 = 2.39279; best 3 + 1/log2(3) = 3.63093; ndcg 0.65900."""
    answers = [(np.array([4.0, 3, 2, 1]), np.array([0.0, 2, 1, 0]))]

    scores = evaluate.reranking_scores(answers, k=10, seed=0)

    assert scores["map"].value == pytest.approx(7 / 12)
    assert scores["mrr@10"].value == pytest.approx(0.5)
    assert scores["ndcg@10"].value == pytest.approx(0.65900, abs=1e-5)


def test_only_the_first_k_ranks_count_where_a_name_says_so() -> None:
    """The right document is third of three. k = 2: mrr and ndcg 0, map 1/3 all the same."""
    scores = evaluate.reranking_scores([(np.array([3.0, 2, 1]), np.array([0.0, 0, 1]))], k=2, seed=0)

    assert (scores["mrr@2"].value, scores["ndcg@2"].value) == (0, 0)
    assert scores["map"].value == pytest.approx(1 / 3)


def test_a_model_that_tells_nothing_apart_gets_nothing_for_the_order_of_the_file() -> None:
    """All scores equal, the right document first in the file: it counts as last, rank 3, whatever the file says."""
    scores = evaluate.reranking_scores([(np.zeros(3), np.array([1.0, 0, 0]))], k=10, seed=0)

    assert scores["mrr@10"].value == pytest.approx(1 / 3)


def test_binary_scores_are_those_of_the_library() -> None:
    """sentence-transformers' own evaluator on the same scores, which have no ties; queries with several positives."""
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

    random = np.random.default_rng(1)
    answers = [(random.permutation(12).astype(float), (random.random(12) < 0.3).astype(float)) for _ in range(40)]
    answers = [(scores, grades) for scores, grades in answers if evaluate.can_be_told_apart(grades)]
    given = iter(np.concatenate([np.r_[scores[grades > 0], scores[grades == 0]] for scores, grades in answers]))

    class Replies:
        def predict(self, pairs: list[list[str]], **_: object) -> np.ndarray:
            return np.array([next(given) for _ in pairs])

    samples = [
        {"query": str(i), "positive": ["p"] * int(grades.sum()), "negative": ["n"] * int((grades == 0).sum())}
        for i, (_, grades) in enumerate(answers)
    ]
    evaluator = CrossEncoderRerankingEvaluator(samples)
    evaluator.store_metrics_in_model_card_data = lambda *_: None
    theirs = evaluator(Replies())

    ours = evaluate.reranking_scores(answers, k=10, seed=0)

    assert {name: ours[name].value for name in theirs} == pytest.approx(theirs)
    assert {score.n for score in ours.values()} == {len(answers)}
    assert all(score.low is not None and score.low < score.value for score in ours.values())


def test_what_cannot_be_ordered_is_no_query() -> None:
    same, fine = np.ones(2), np.array([0.0, 1.0])

    for answers in ([], [(fine, same)]):
        with pytest.raises(ValueError, match="different grades"):
            evaluate.reranking_scores(answers, k=10, seed=0)
    with pytest.raises(ValueError, match="not finite"):
        evaluate.reranking_scores([(np.array([np.nan, 1.0]), fine)], k=10, seed=0)
