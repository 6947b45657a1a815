"""Rewards score an answer by a rule that anybody can check by hand."""

import pytest

from enforcer.problems import ArgumentInvalid, DatasetInvalid
from trainer.recipes._rewards import as_trl, check, named


@pytest.mark.parametrize(
    ("name", "said", "answer", "reward"),
    [
        ("exact-match", " New\n York ", "new york", 1.0),
        ("exact-match", "New York City", "new york", 0.0),
        ("contains-answer", "It is Paris, I think", "paris", 1.0),
        ("contains-answer", "It is Parisian", "paris", 0.0),
        ("contains-answer", "答案是 体育", "体育", 1.0),
        ("number-match", "3 apples and 4 pears make 7", "7", 1.0),
        ("number-match", "so $1,234.50.", "1234.5", 1.0),
        ("number-match", "-7", "7", 0.0),
        ("number-match", "seven", "7", 0.0),
        ("json-valid", ' {"a": [1, null]} ', None, 1.0),
        ("json-valid", '{"a": NaN}', None, 0.0),
        ("json-valid", 'Here it is: {"a": 1}', None, 0.0),
        ("json-valid", "[" * 100_000, None, 0.0),
        ("at-most-4-words", "one two three four", None, 1.0),
        ("at-most-4-words", "one two three four five six seven eight", None, 0.5),
        ("at-most-4-words", "", None, 1.0),
    ],
)
def test_an_answer_earns(name: str, said: str, answer: str | None, reward: float) -> None:
    (rule,) = named([name]).values()

    assert rule(said, {"answer": answer}) == reward


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["exact_match"], "`exact_match` is no reward; did you mean `exact-match`?"),
        (["at-most-words"], "did you mean `at-most-50-words`?"),
        (["kindness"], "there are `exact-match`, `contains-answer`"),
        (["json-valid", "json-valid"], "name each reward once"),
        ([], "at least one of"),
    ],
)
def test_a_reward_that_does_not_exist_is_refused_with_those_that_do(names: list[str], says: str) -> None:
    with pytest.raises(ArgumentInvalid, match=says.replace("?", r"\?")) as refusal:
        named(names)

    assert refusal.value.facts["pointer"] == "/reward_functions"


@pytest.mark.parametrize(
    ("name", "row", "says"),
    [
        ("exact-match", {"prompt": "?"}, "`exact-match` compares with `answer`, which 1 of 2 rows do not have"),
        ("number-match", {"prompt": "?", "answer": "many"}, "the answer `many` holds none"),
    ],
)
def test_a_reward_that_compares_needs_something_to_compare_with(name: str, row: dict[str, str], says: str) -> None:
    with pytest.raises(DatasetInvalid, match=says):
        check([name], [{"prompt": "?", "answer": "7"}, row])


def test_a_reward_that_compares_with_nothing_needs_no_answers() -> None:
    check(["json-valid", "at-most-9-words"], [{"prompt": "?"}])


def test_trl_is_told_the_name_and_gives_turns_or_text() -> None:
    (score,) = (as_trl(name, reward) for name, reward in named(["exact-match"]).items())

    turns = score([[{"role": "assistant", "content": "7"}], [{"role": "assistant", "content": "8"}]], answer=["7", "7"])
    texts = score(["7", "8"], answer=["7", "7"], prompts=["?", "?"])

    assert (turns, texts, score.__name__) == ([1.0, 0.0], [1.0, 0.0], "exact-match")
