"""What each look at the data finds, on rows that are made for it."""

from typing import Any

import pytest
from test_columns import shipped

from enforcer.problems import DatasetInvalid
from trainer.inputs import rows as datasets, sameness
from trainer.inputs.places import Places
from trainer.preflight import calls, encodings, labels, pairs, queries, repeats

PROFILES = shipped()


def placed(rows: list[Any], name: str = "d.jsonl") -> Places:
    places = Places()
    places.remember(datasets.Source(name, "sha256:0", rows, unit="line"), rows)
    return places


# --- repeats ----------------------------------------------------------------------------------------------------------


def test_texts_that_differ_in_case_white_space_or_width_say_the_same() -> None:
    assert sameness.normalised(" \uff26oo\u3000 Bar\n") == sameness.normalised("foo bar") == "foo bar"
    assert sameness.key({"b": ["A "], "a": 1}) == sameness.key({"a": 1, "b": ["a"]})
    assert sameness.key({"a": "1"}) != sameness.key({"a": 1})


def test_repeats_and_leaks_are_counted_as_written_and_as_read() -> None:
    train = [{"text": text, "label": "x"} for text in ("Good day", "good  day", "Good day", "other")]
    held_out = [{"text": text, "label": "x"} for text in ("OTHER", "other", "new")]

    found = repeats.look(PROFILES["sequence-classification"], train, held_out)

    assert found.facts == {"duplicates": 1, "duplicates_normalised": 2, "leaked": 1, "leaked_normalised": 2}
    assert found.findings == [
        "2 of 4 training rows say the same as another one (1 of them but for case, white space or width)",
        "2 of 3 evaluation rows have a training row's `text` (1 of them but for case, white space or width): scores "
        "will flatter",
    ]


def test_a_conversation_leaks_by_what_it_begins_with() -> None:
    def talk(asked: str, answer: str) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}

    found = repeats.look(PROFILES["sft"], [talk("Who?", "me")], [talk("who?", "you"), talk("why?", "so")])

    assert (found.facts["leaked"], found.facts["leaked_normalised"]) == (0, 1)


# --- pairs ------------------------------------------------------------------------------------------------------------


def answers(chosen: str, rejected: str, count: int = 1) -> list[dict[str, str]]:
    return [{"prompt": f"p {i}", "chosen": chosen, "rejected": rejected} for i in range(count)]


def test_answers_that_are_chosen_for_their_length_are_told() -> None:
    """30 pairs of 8 and 2 characters, 10 of 2 and 8: 75 % are longer, and the median ratio is 8 / 2."""
    found = pairs.look(PROFILES["dpo"], [*answers("x" * 8, "yy", 30), *answers("yy", "x" * 8, 10)])

    assert (found.facts["chosen_longer"], found.facts["length_ratio"]) == (0.75, 4.0)
    assert "the chosen answer is the longer one in 75% of the pairs (median ratio 4.00)" in found.findings[0]


def test_even_lengths_and_few_pairs_tell_nothing() -> None:
    even = [*answers("x" * 8, "yy", 20), *answers("yy", "x" * 8, 20)]

    assert pairs.look(PROFILES["dpo"], even).findings == []
    assert pairs.look(PROFILES["dpo"], answers("x" * 8, "yy", 29)).findings == []


def test_a_chosen_answer_that_is_the_rejected_one_but_for_case_is_told() -> None:
    found = pairs.look(PROFILES["dpo"], [*answers("Yes", " yes"), *answers("yes", "no")])

    assert found.facts["chosen_is_rejected"] == 1
    assert found.findings == ["in 1 of 2 rows `chosen` says what `rejected` says: nothing to prefer"]


def test_a_negative_that_is_a_positive_of_the_same_anchor_is_found_across_rows() -> None:
    rows = [
        {"anchor": "q", "positive": "d1", "negative": "D1 "},  # its own
        {"anchor": "Q", "positive": "d2", "negative": "d1"},  # another row's
        {"anchor": "other", "positive": "d3", "negative": "d1"},
        {"anchor": "q", "positive": "d4", "negative": "d2"},  # of `Q`
    ]

    found = pairs.look(PROFILES["embedding"], rows)

    assert found.facts["false_negatives"] == 3
    assert "3 negatives are a positive of the same anchor: `D1` for `q`; `d1` for `Q`" in found.findings[0]


def test_the_same_words_with_two_labels_contradict_each_other() -> None:
    rows = [{"text": "fine", "label": "good"}, {"text": "Fine", "label": "bad"}, {"text": "so", "label": "bad"}]

    found = pairs.look(PROFILES["sequence-classification"], rows)

    assert found.facts["contradictions"] == 1
    assert "1 texts have more than one `label`: `fine` as bad, good" in found.findings[0]


# --- labels -----------------------------------------------------------------------------------------------------------


def test_a_label_that_is_asked_for_and_never_taught_can_only_be_missed() -> None:
    train = [{"text": "a", "label": "x"}]

    found = labels.look("label", ["x", "y", "z"], train, [{"text": "b", "label": "y"}])

    assert found.facts["labels"] == {"x": 1, "y": 0, "z": 0}
    assert "no training row has the label `y`, `z`; `y` is asked for in evaluation" in found.findings[0]


# --- encodings --------------------------------------------------------------------------------------------------------


def garbled(text: str, table: str) -> str:
    return text.encode().decode(table)


@pytest.mark.parametrize(
    "text",
    [
        garbled("café", "cp1252"), garbled("don\u2019t", "cp1252"), garbled("Привет", "latin-1"),
        garbled("中文", "latin-1"), garbled("Grüße", "latin-1"),
    ],
)  # fmt: skip
def test_utf_8_that_was_read_by_another_table_is_found(text: str) -> None:
    found = encodings.look([{"messages": [{"role": "user", "content": f"well {text} then"}]}, {"text": "sound"}])

    assert found.facts["encodings"] == {"mojibake": 1}
    assert "1 of 2 rows look like UTF-8 that was read as Windows-1252" in found.findings[0]


@pytest.mark.parametrize(
    "text",
    [
        "café Grüße naïve ÅÄÖ",
        "„GRÜ\u201c sagte er",
        "À LA TÉLÉ\u00bb",
        "中文，好的。",
        "Привет",
        "emoji 🙂 \u200d",
        "a\tb\nc",
    ],
)
def test_sound_texts_of_many_languages_are_left_in_peace(text: str) -> None:
    assert encodings.look([{"text": text}]).findings == []


def test_replaced_and_control_characters_are_counted_with_what_stands_around() -> None:
    found = encodings.look([{"text": "lost \ufffd here"}, {"text": "nul \x00"}, {"text": "\ufeffmark"}])

    assert found.facts["encodings"] == {"replaced": 1, "controls": 2}
    assert "1 of 3 rows hold the replacement character U+FFFD" in found.findings[0]
    assert "`lost \ufffd here`" in found.findings[0]


# --- tool calls -------------------------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city"],
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}


def calling(arguments: Any, name: str = "weather", tool: Any = TOOL) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    return {"messages": turns, "tools": [tool]}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (calling({"days": 1}), "`weather`: 'city' is a required property"),
        (calling({"city": "Oslo", "days": 0}), "`weather` at `/days`: 0 is less than the minimum of 1"),
        (calling('{"city": 7}'), "`weather` at `/city`: 7 is not of type 'string'"),
        (calling({"city": "Oslo"}, name="climate"), "`climate` is none of its tools (`weather`)"),
        (
            calling({}, tool={"name": "weather", "parameters": {"type": "objekt"}}),
            "the schema of `weather` is no JSON Schema: 'objekt' is not valid",
        ),
    ],
)
def test_a_call_that_does_not_fit_its_tool_is_told_with_its_place(row: dict[str, Any], says: str) -> None:
    rows = [calling({"city": "Oslo"}), row]

    found = calls.look(rows, placed(rows))

    assert found.facts["tool_calls"] == 2
    assert sum(found.facts["tool_call_faults"].values()) == 1
    assert "1 of 2 tool calls do not fit their tools" in found.findings[0]
    assert f"line 2 of `d.jsonl` `/messages/1/tool_calls/0`: {says}" in found.findings[0]


def test_calls_that_fit_are_only_counted() -> None:
    rows = [calling({"city": "Oslo", "days": 3}), calling('{"city": "Oslo"}'), {"messages": [], "tools": [TOOL]}]

    assert calls.look(rows, placed(rows)).facts == {"tool_calls": 2, "tool_call_faults": {}}


@pytest.mark.parametrize("arguments", ["{broken", "[1]", 7])
def test_arguments_that_are_no_object_are_refused_with_their_place(arguments: Any) -> None:
    rows = [calling(arguments)]

    with pytest.raises(DatasetInvalid, match=r"line 1 of .* the arguments of `weather` are no JSON object") as refused:
        calls.look(rows, placed(rows))

    assert (refused.value.facts["row"], refused.value.facts["pointer"]) == (1, "/messages/1/tool_calls/0")


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"$ref": "http://127.0.0.1:9/schema.json"}, "Unresolvable: http://127.0.0.1:9/schema.json"),
        ({"$ref": "#"}, "RecursionError"),
        ({"properties": {"city": {"pattern": "("}}}, "'(' is not a 'regex'"),
    ],
)
def test_a_schema_fetches_nothing_and_its_own_faults_are_told(
    schema: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[Any] = []
    monkeypatch.setattr("urllib.request.urlopen", lambda *asked, **_: fetched.append(asked) or 1 / 0)
    rows = [calling({"city": "Oslo"}, tool={"name": "weather", "parameters": schema})]

    found = calls.look(rows, placed(rows))

    assert found.facts["tool_call_faults"] == {"broken schema": 1}
    assert says in found.findings[0]
    assert fetched == []


# --- queries ----------------------------------------------------------------------------------------------------------


def test_queries_that_do_not_run_on_their_database_are_told_with_their_line(tmp_path: Any) -> None:
    import sqlite3

    with sqlite3.connect(tmp_path / "d.sqlite") as made:
        made.execute("CREATE TABLE city (name TEXT)")
    made.close()
    database = str(tmp_path / "d.sqlite")
    rows = [
        {"prompt": "p", "completion": sql, "database": database}
        for sql in ("SELECT name FROM city", "SELECT size FROM city", "SELEC 1")
    ]

    found = queries.look(rows, rows[:1], placed(rows))

    assert found.facts == {"queries": 4, "broken_queries": 2}
    assert "2 of 4 queries give no answer on their database" in found.findings[0]
    assert "line 2 of `d.jsonl`: no such column: size" in found.findings[0]

    with pytest.raises(DatasetInvalid, match="1 of 2 held-out queries give no answer .* no such column: size"):
        queries.look([], rows[:2], placed(rows))


# --- places -----------------------------------------------------------------------------------------------------------


def test_rows_are_named_by_file_and_line_and_not_more_of_them_than_anybody_reads() -> None:
    rows = [{"text": str(i)} for i in range(9)]
    places = placed(rows)
    places.remember(datasets.Source("e.json", "sha256:0", [], first=1), more := [{"text": "x"}])

    assert places.some([rows[1], rows[4], *more]) == "line 2, 5 of `d.jsonl`, row 1 of `e.json`"
    assert places.some(rows) == "line 1, 2, 3 of `d.jsonl` and 6 more"
    assert places.where({"text": "1"}) == "a row", "equal is not the same"
