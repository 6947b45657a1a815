"""From the columns of a file to those of a profile, and the split."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from enforcer import vocabulary
from enforcer.columns import Column
from enforcer.inheritance import inherit
from enforcer.problems import DatasetInvalid
from enforcer.profiles import Limits, Profile
from trainer.inputs import proposals, rows
from trainer.inputs.columns import alike, content, examples, not_read, split, subject

NAMES = ["bad", "good"]
ARGUMENTS = {"label_names": NAMES}


def profile(**columns: Column) -> Profile:
    return Profile(
        recipe="r", parameters={}, columns=columns, metrics=[], pool="p", limits=Limits(max_gpus=0, max_runtime_s=60)
    )


TEXT, LABEL = Column(type="text", help="t"), Column(type="label", help="l")
OPTIONAL = Column(type="text", help="o", required=False)
CLASSIFIER = profile(text=TEXT, label=LABEL)
RETRIEVER = profile(anchor=TEXT, positive=TEXT, negative=OPTIONAL)


def mapped(raw: list[dict[str, Any]], by: Profile = CLASSIFIER, **columns: str) -> list[Any]:
    return examples(rows.hold(raw), by, columns, ARGUMENTS)


def refusal(raw: list[dict[str, Any]], by: Profile = CLASSIFIER, **columns: str) -> DatasetInvalid:
    with pytest.raises(DatasetInvalid) as refused:
        mapped(raw, by, **columns)
    return refused.value


def test_columns_are_renamed_and_the_rest_is_left_aside() -> None:
    found = mapped([{"review": "fine", "stars": "good", "id": 7}], text="review", label="stars")

    assert found == [{"text": "fine", "label": "good"}]


@pytest.mark.parametrize(
    ("raw", "proposal"),
    [
        ({"review": "a", "label": "bad"}, "review"),
        ({"txt": "a", "label": "bad", "id": "1"}, "txt"),
        ({"whatever": "a", "label": "bad"}, "whatever"),
    ],
    ids=["a usual name", "a near name", "the only one left"],
)
def test_a_missing_column_comes_with_a_proposal(raw: dict[str, str], proposal: str) -> None:
    refused = refusal([raw])

    assert f"`text` <- `{proposal}`? Map it with `columns: {{text: {proposal}}}`" in refused.detail


def test_without_a_likely_column_the_file_s_own_are_listed() -> None:
    assert "the file has `a1`, `b2`" in refusal([{"a1": "x", "b2": "y", "label": "bad"}]).detail


def test_a_mapping_for_a_column_that_no_profile_has_is_answered_with_the_near_one() -> None:
    assert "did you mean `label`?" in refusal([{"text": "a", "label": "bad"}], lable="x").detail


@pytest.mark.parametrize(
    ("row", "says", "pointer"),
    [
        ({"text": " ", "label": "bad"}, "`text` is empty", "/text"),
        ({"text": None, "label": "bad"}, "`text` is missing", "/text"),
        ({"label": "bad"}, "`text` is missing", "/text"),
        ({"text": 3, "label": "bad"}, "`text` is `int`, not text", "/text"),
        ({"text": "a"}, "`label` is missing; every row needs a label", "/label"),
        ({"text": "a", "label": ""}, "`label` is missing", "/label"),
        ({"text": "a", "label": True}, "`label` is `bool`", "/label"),
    ],
)
def test_a_broken_row_is_told_with_its_number_and_pointer(row: dict[str, Any], says: str, pointer: str) -> None:
    refused = refusal([{"text": "a", "label": "good"}, row])

    assert "row 2 of" in refused.detail
    assert says in refused.detail
    assert (refused.facts["row"], refused.facts["pointer"]) == (2, pointer)


def test_labels_outside_are_counted_with_their_first_rows_and_near_names() -> None:
    refused = refusal([{"text": "a", "label": label} for label in ("good", "goood", "goood", "ugly")])

    assert "3 rows whose label is not in `label_names`: `goood` (2), `ugly` (1); first rows: 2, 3, 4" in refused.detail
    assert "`goood` -> `good`?" in refused.detail


def test_numbers_are_labels_by_index_and_out_of_range_they_are_none() -> None:
    assert [row["label"] for row in mapped([{"text": "a", "label": i} for i in (0, 1)])] == NAMES
    assert "`2` (1)" in refusal([{"text": "a", "label": 2}]).detail
    assert "`-1` (1)" in refusal([{"text": "a", "label": -1}]).detail


def test_digits_are_numbers_only_in_formats_that_have_no_numbers() -> None:
    raw = [{"text": "a", "label": "1"}]
    csv = rows.Source("d.csv", "sha256:0", raw, textual=True)

    assert examples(csv, CLASSIFIER, {}, ARGUMENTS)[0]["label"] == "good"
    assert "`1` (1)" in refusal(raw).detail


@pytest.mark.parametrize("textual", [False, True], ids=["jsonl", "csv"])
def test_where_names_are_numbers_a_number_is_a_name_and_never_a_place(textual: bool) -> None:
    def labels(names: list[str], *given: int) -> list[str]:
        raw = [{"text": "a", "label": str(number) if textual else number} for number in given]
        source = rows.Source("d", "sha256:0", raw, textual=textual)
        return [row["label"] for row in examples(source, CLASSIFIER, {}, {"label_names": names})]

    assert labels(["1", "2", "3", "4", "5"], 1, 2, 3, 4) == ["1", "2", "3", "4"]
    assert labels(["-1", "0", "1"], -1, 0, 1) == ["-1", "0", "1"]
    for names in (["1", "2"], ["1", "other"], ["0.5", "1.5"]):
        with pytest.raises(DatasetInvalid, match="`0` \\(1\\)"):
            labels(names, 0)


def test_several_labels_in_a_row_are_for_another_problem() -> None:
    refused = refusal([{"text": "a", "label": ["bad", "good"]}])

    assert "`label` is a list; a row takes one label, several are for `problem_type: multi-label`" in refused.detail


def test_an_optional_column_is_for_all_files_or_for_none() -> None:
    with_it, without = [{"anchor": "q", "positive": "p", "negative": "n"}], [{"anchor": "q", "positive": "p"}]
    sources = [rows.hold(with_it, "a.jsonl"), rows.hold(without, "b.jsonl")]

    alike(sources, [with_it, with_it])
    for order in (1, -1):
        with pytest.raises(DatasetInvalid, match=r"`b.jsonl` has no `negative`, and `a.jsonl` has"):
            alike(sources[::order], [with_it, without][::order])


def test_an_optional_column_is_for_all_rows_or_for_none() -> None:
    with_it = {"anchor": "q", "positive": "p", "negative": "n"}
    without = {"anchor": "q", "positive": "p"}

    assert mapped([without], RETRIEVER) == [without]
    assert mapped([with_it], RETRIEVER) == [with_it]
    assert "1 of 2 rows have a `negative`" in refusal([with_it, without], RETRIEVER).detail


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1).filter(str.strip)
HEADERS = st.lists(WORDS, min_size=2, max_size=2, unique=True)


@given(HEADERS, st.lists(st.tuples(WORDS, st.sampled_from(NAMES)), min_size=1))
def test_mapping_carries_every_value_over_whatever_the_columns_are_called(
    headers: list[str], pairs: list[tuple[str, str]]
) -> None:
    raw = [dict(zip(headers, pair, strict=True)) for pair in pairs]

    found = mapped(raw, text=headers[0], label=headers[1])

    assert [(row["text"], row["label"]) for row in found] == pairs


# Few texts, so that some meet again under another label.
ROWS = st.lists(st.fixed_dictionaries({"text": st.text("ab", max_size=3), "label": st.sampled_from(NAMES)}), min_size=2)
FRACTIONS = st.floats(0.01, 0.99)
SEEDS = st.integers(0, 2**32)


@given(ROWS, FRACTIONS, SEEDS)
def test_a_split_loses_nothing_and_shares_nothing(found: list[dict[str, str]], fraction: float, seed: int) -> None:
    train, held_out = split(found, "text", fraction, seed)

    assert sorted(map(content, train + held_out)) == sorted(map(content, found))
    assert not {row["text"] for row in train} & {row["text"] for row in held_out}
    assert train, "something is always left to train on"


@given(ROWS, FRACTIONS, SEEDS, st.randoms())
def test_a_split_depends_on_the_seed_and_not_on_the_order(
    found: list[dict[str, str]], fraction: float, seed: int, random: Any
) -> None:
    shuffled = random.sample(found, len(found))

    held_out = {content(row) for row in split(found, "text", fraction, seed)[1]}

    assert {content(row) for row in split(shuffled, "text", fraction, seed)[1]} == held_out


def test_a_split_of_distinct_rows_has_the_size_that_was_asked_for() -> None:
    found = [{"text": str(i)} for i in range(200)]

    assert [len(side) for side in split(found, "text", 0.1, 1)] == [180, 20]
    assert split(found, "text", 0.1, 1) != split(found, "text", 0.1, 2)
    assert split(found, "text", 0.0, 1) == (found, [])


CALL = {"type": "function", "function": {"name": "f", "arguments": {}}}
TURN, SAID = {"role": "user", "content": "hello"}, "a conversation: a list of {role, content}"


@pytest.mark.parametrize(
    ("kind", "fits", "strange", "says"),
    [
        ("score", [1, 0.5, -2], [True, "1", []], "it holds a number"),
        ("flag", [True, False], [0, "true"], "it holds true or false"),
        ("labels", [["bad", "good"], []], ["bad", {"bad": 1}, 1], "it holds a list of labels, by name"),
        ("texts", [["a", "b"]], ["a", [], ["a", " "], [1]], "holds a list of texts"),
        ("messages", [[TURN], [TURN, {"role": "assistant", "content": "", "tool_calls": [CALL]}]],
         ["hello", [], ["hello"], [{"role": "boss", "content": "x"}], [{"role": "user"}],
          [TURN, {"role": "assistant", "tool_calls": [{}]}]], SAID),
        ("tools", [[{"type": "function", "function": {"name": "f"}}], []], [{}, ["f"], [{"type": "function"}]],
         "holds a list of tools"),
    ],
)  # fmt: skip
def test_a_value_is_held_to_the_type_of_its_column(kind: Any, fits: list[Any], strange: list[Any], says: str) -> None:
    by = profile(it=Column(type=kind, help="x"))

    assert mapped([{"it": value} for value in fits], by) == [{"it": value} for value in fits]
    for value in strange:
        refused = refusal([{"it": fits[0]}, {"it": value}], by)
        assert refused.facts["row"] == 2
        assert refused.facts["pointer"].startswith("/it")
        assert says in refused.detail


@pytest.mark.parametrize(
    ("turn", "says", "pointer"),
    [
        ("hello", "is `str`, not `{role, content}`", "/it/1"),
        ({"role": "boss", "content": "x"}, "`boss` is no role; there are `system`, `user`", "/it/1/role"),
        ({"content": "x"}, "the role is missing", "/it/1/role"),
        ({"role": "assistant", "content": "", "tool_calls": [{}]}, "is no call", "/it/1/tool_calls/0"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{broken"}}]},
            "the arguments of `f`: the text is not JSON",
            "/it/1/tool_calls/0",
        ),
        ({"role": "user", "content": 3}, "is `int`, not text", "/it/1/content"),
        ({"role": "user"}, "is missing, and no tool is called", "/it/1/content"),
    ],
)
def test_a_fault_in_a_conversation_is_told_with_its_turn(turn: Any, says: str, pointer: str) -> None:
    refused = refusal([{"it": [TURN]}, {"it": [TURN, turn]}], profile(it=Column(type="messages", help="x")))

    assert f"row 2 of `in memory`: `{pointer}`: {says}" in refused.detail
    assert (refused.facts["row"], refused.facts["pointer"]) == (2, pointer)


def shipped() -> dict[str, Profile]:
    """Every task type of the vocabulary that ships, by name, with all that it inherits."""
    folder = Path(__file__).parents[2] / "policies" / "vocabulary"
    texts = {path.name: path.read_text() for path in sorted(folder.glob("*.yaml"))}
    found: dict[str, Profile] = {}
    for placed in vocabulary.read(texts):
        entry = placed.entry
        parent = found.get(entry.parent or "")
        found[entry.name] = entry.profile or inherit(parent, entry.overrides)  # type: ignore[arg-type]
    return found


def test_the_columns_by_which_a_task_type_is_known_are_those_of_its_profile() -> None:
    profiles = shipped()

    for name, row, _ in proposals.ROWS_OF:
        defaults = {parameter: said.default for parameter, said in profiles[name].parameters.items()}
        columns = profiles[name].concerning(defaults).columns
        required = [role for role, column in columns.items() if column.required]
        assert list(row) in ([*profiles[name].forms, required]), name


@pytest.mark.parametrize(
    ("tag", "row", "says"),
    [
        (
            "dpo",
            {"prompt": "p", "completion": "c", "label": True},
            "has no column `chosen`; its rows have `prompt`, `completion`, `label`, one answer each and whether it is "
            "good: that is what `kto` learns from; here a row holds two answers",
        ),
        ("sft", {"prompt": "p", "chosen": "c", "rejected": "r"}, "pairs of answers: that is what `dpo` learns from"),
        ("kto", {"prompt": "p", "chosen": "c", "rejected": "r"}, "that is what `dpo` learns from"),
        ("embedding", {"text": "t", "label": "l"}, "that is what `sequence-classification` learns from"),
        ("sft", {"instruction": "i", "input": "", "output": "o"},
         "`columns: {prompt: instruction, completion: output}`"),
        ("dpo", {"question": "q", "better": "b", "worse": "w"},
         "`columns: {prompt: question, chosen: better, rejected: worse}`"),
        ("dpo", {"messages": [], "label": True}, "that is what `kto` learns from"),
        ("kto", {"messages": [], "label": True}, "cut each conversation before its last answer"),
        ("sft", {"conversations": [], "id": 1}, "Map it with `columns: {messages: conversations}`"),
    ],
)  # fmt: skip
def test_rows_of_another_task_type_or_under_other_names_are_answered_with_what_fits(
    tag: str, row: dict[str, Any], says: str
) -> None:
    assert says in refusal([row] * 3, shipped()[tag]).detail


def test_a_mapping_that_would_lose_half_of_what_is_asked_says_so_and_how_to_join_it() -> None:
    alpaca = [{"instruction": "Say it in French.", "input": "cat", "output": "chat"}]

    said = refusal(alpaca, shipped()["sft"]).detail

    assert "columns: {prompt: instruction, completion: output}`. Then nothing is read from `input`" in said
    assert "a column `prompt` that joins both (`instruction`, an empty line, `input`)" in said
    assert "`input`" not in refusal([{k: alpaca[0][k] for k in ("instruction", "output")}], shipped()["sft"]).detail


SHAREGPT_PAIR: dict[str, Any] = {
    "conversations": [{"from": "human", "value": "Who?"}],
    "chosen": {"from": "gpt", "value": "me"},
    "rejected": [{"role": "assistant", "content": "you"}],
}


def test_preferences_of_one_turn_are_read_by_their_words() -> None:
    dpo = shipped()["dpo"]

    assert "Map it with `columns: {prompt: conversations}`" in refusal([SHAREGPT_PAIR], dpo).detail
    assert mapped([SHAREGPT_PAIR], dpo, prompt="conversations") == [
        {"prompt": "Who?", "chosen": "me", "rejected": "you"}
    ]


def test_preferences_of_more_turns_are_told_what_to_write() -> None:
    more = {**SHAREGPT_PAIR, "conversations": [{"from": "system", "value": "s"}, *SHAREGPT_PAIR["conversations"]]}

    said = refusal([more], shipped()["dpo"]).detail

    assert "write it as the words before the answer, and `chosen` and `rejected` as the words of each answer" in said
    assert (
        "is `dict`, not text"
        in refusal(
            [{"prompt": "p", "chosen": {"from": "human", "value": "x"}, "rejected": "y"}], shipped()["dpo"]
        ).detail
    )
    assert "is `list`, not text" in refusal([more], shipped()["dpo"], prompt="conversations").detail


def test_columns_that_nothing_is_read_from_are_listed() -> None:
    source = rows.hold([{"review": "a", "label": "bad", "input": "b", "id": 1}])

    assert not_read([source], CLASSIFIER, {"text": "review"}) == ["input", "id"]


def test_a_row_has_all_columns_of_one_form() -> None:
    columns = dict.fromkeys(("prompt", "completion", "note"), OPTIONAL)
    by = profile(**columns).model_copy(update={"forms": [["prompt", "completion"], ["note"]]})

    assert mapped([{"prompt": "a", "completion": "b", "note": "c"}], by)
    assert mapped([{"note": "c"}], by)
    refused = refusal([{"prompt": "a"}], by)
    assert "row 1 of `in memory`: the row has `prompt`" in refused.detail
    assert "rows of this task type have `prompt` with `completion`; `note`" in refused.detail


def test_a_task_type_whose_rows_hold_no_text_cannot_be_split() -> None:
    with pytest.raises(DatasetInvalid, match="no column of this task type holds a text"):
        subject(profile(score=Column(type="score", help="s")), [{"score": 1}])


def test_rows_are_about_the_first_text_that_they_have() -> None:
    by = profile(prompt=OPTIONAL, messages=Column(type="messages", help="m", required=False), chosen=OPTIONAL)

    assert subject(by, [{"prompt": "a", "chosen": "b"}]) == "prompt"
    assert subject(by, [{"chosen": "b"}]) == "chosen"
    assert subject(by, [{"messages": []}]) == "messages"


def test_conversations_that_begin_alike_stay_on_one_side() -> None:
    answers = [{"messages": [TURN, {"role": "assistant", "content": str(i)}]} for i in range(20)]
    others = [{"messages": [{"role": "user", "content": str(i)}]} for i in range(20)]

    train, held_out = split([*answers, *others], "messages", 0.3, 1)

    assert {str(row) for row in answers} <= {str(row) for row in held_out} or not any(
        row in held_out for row in answers
    )
    assert len(train) + len(held_out) == 40


def test_a_score_in_a_csv_file_is_read_as_a_number(tmp_path: Any) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("query,label\nq,0.5\nr,2\n")
    judged = profile(query=TEXT, label=Column(type="score", help="s"))

    assert [row["label"] for row in examples(rows.read(str(path)), judged, {}, {})] == [0.5, 2.0]

    for odd in ("high", "nan", ""):
        path.write_text(f"query,label\nq,{odd}\n")
        with pytest.raises(DatasetInvalid, match="it holds a number"):
            examples(rows.read(str(path)), judged, {}, {})
