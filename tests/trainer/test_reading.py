"""Rows are counted as the model will read them: all tokens, those that are learned, and what `max_length` keeps."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_chat import CALL, MARKED, TALK, TOOLS
from test_columns import shipped
from test_preflight_looks import placed
from tiny import CHATML, make_chat

from enforcer.problems import DatasetInvalid
from trainer.cli import seen
from trainer.inputs.chat import Reader
from trainer.preflight import reading, unknown

PROFILES = shipped()
ROWS: list[Any] = [
    {"messages": TALK}, {"messages": TALK[1:3]}, {"messages": [*TALK[:2], CALL, *TALK[2:]], "tools": TOOLS},
    {"prompt": "早上好?", "completion": "yes 🙂"}, {"text": "plain 文 text"},
]  # fmt: skip


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat(tmp_path_factory.mktemp("plain"), template=None)


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat(tmp_path_factory.mktemp("marked"), template=MARKED)


@pytest.mark.parametrize("limit", [10_000, 30])
@pytest.mark.parametrize("model", ["chat", "plain", "marked"])
@pytest.mark.parametrize("tag", ["sft", "pre-training"])
def test_the_counts_are_those_of_the_reader_that_trains(
    tag: str, model: str, limit: int, request: pytest.FixtureRequest
) -> None:
    """`pre-training` has the mask `all`, `sft` that of the assistant. Without template there are no conversations; the
    marked one knows no calls."""
    profile, reader = PROFILES[tag], Reader(request.getfixturevalue(model))
    rows = {"chat": ROWS, "plain": ROWS[3:], "marked": [*ROWS[:2], *ROWS[3:]]}[model]

    counts = reading.count(profile, rows, reader, placed(rows), limit)

    assert profile.loss_mask is not None
    expected = [reader.row(row, profile.loss_mask) for row in rows]
    by_row = {id(one.row): one for one in counts}
    assert [(by_row[id(row)].tokens, by_row[id(row)].learned) for row in rows] == [
        (len(tokens.ids), sum(tokens.trained)) for tokens in expected
    ]
    assert [by_row[id(row)].kept for row in rows] == [sum(tokens.cut(limit).trained) for tokens in expected]


def test_a_tokenizer_that_drops_spaces_and_adds_tokens_is_counted_alike(encoder: Path) -> None:
    """WordPiece gives no token to a space, and [CLS] and [SEP] belong to no character."""
    reader = Reader(encoder)
    rows = [{"prompt": "the chip of ", "completion": "  goal and stock"}, {"prompt": "the", "completion": "goal"}]

    counts = reading.count(PROFILES["sft"], rows, reader, placed(rows), 100)

    expected = [reader.row(row, "assistant") for row in rows]
    assert [(one.tokens, one.learned) for one in counts] == [(len(e.ids), sum(e.trained)) for e in expected]


def test_a_pair_of_answers_is_two_sequences_of_which_the_longer_counts(chat: Path) -> None:
    rows = [{"prompt": "p", "chosen": "x" * 50, "rejected": "x"}]

    counts = reading.count(PROFILES["dpo"], rows, Reader(chat), placed(rows), 1_000)

    longer, shorter = sorted((one.tokens for one in counts), reverse=True)
    assert longer - shorter == 49, "a byte is a token"
    assert reading.of_all(counts) == {id(rows[0]): longer}


def test_the_share_of_learned_tokens_is_told(chat: Path) -> None:
    """`<|im_start|>assistant\\n` is asked for, `yes<|im_end|>\\n` is learned: 3 letters and 2 tokens behind them."""
    rows = [{"prompt": "p", "completion": "yes"}] * 2
    places = placed(rows)

    facts = reading.look(reading.count(PROFILES["sft"], rows, Reader(chat), places, 99), places, 99, cut=False).facts

    assert facts["trained_tokens"] == 2 * 5
    assert facts["trained_share"] == round(10 / facts["tokens"], 4)


def test_rows_that_teach_nothing_are_refused_with_their_lines(chat: Path) -> None:
    mute = {"messages": TALK[:2]}
    rows = [{"messages": TALK}, mute, {"messages": TALK[:2]}]
    places = placed(rows)
    counts = reading.count(PROFILES["sft"], rows, Reader(chat), places, 1_000)

    with pytest.raises(DatasetInvalid) as refused:
        reading.look(counts, places, 1_000, cut=False)

    assert "line 2 of `d.jsonl` `/messages`: no token of it is learned" in refused.value.detail
    assert "2 rows are like it: line 2, 3 of `d.jsonl`" in refused.value.detail
    assert refused.value.facts["row"] == 2


def test_an_answer_that_max_length_cuts_away_is_refused_where_rows_are_cut(chat: Path) -> None:
    rows = [{"prompt": "p" * 200, "completion": "yes"}]
    places = placed(rows)
    counts = reading.count(PROFILES["sft"], rows, Reader(chat), places, 64)

    assert reading.look(counts, places, 64, cut=False).findings == []
    with pytest.raises(DatasetInvalid, match=r"line 1 of .* nothing to learn is left of it within `max_length` 64"):
        reading.look(counts, places, 64, cut=True)


def test_a_row_that_the_template_refuses_is_named(chat: Path) -> None:
    rows = [{"messages": TALK}, {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": None,
             "tool_calls": [{"function": {"name": "look"}}]}]}]  # fmt: skip

    with pytest.raises(DatasetInvalid, match=r"line 2 of `d.jsonl` `/messages`: the model's chat template refuses"):
        reading.count(PROFILES["sft"], rows, Reader(chat), placed(rows), 99)


def test_one_row_is_shown_with_its_mask(chat: Path) -> None:
    rows = [{"messages": TALK[1:3]}]

    shown = reading.shown(PROFILES["sft"], rows[0], Reader(chat), placed(rows))

    assert shown == {
        "where": "line 1 of `d.jsonl`",
        "parts": [
            {"trained": False, "text": "<|im_start|>user\n早上好, who?<|im_end|>\n<|im_start|>assistant\n"},
            {"trained": True, "text": "I am 小明 🙂<|im_end|>\n"},
        ],
        "cut": False,
    }
    assert "".join(line[4:] for line in seen.row({"row": shown})[2:]).endswith("assistant⟦I am 小明 🙂<|im_end|>⟧")


def test_a_prompt_whose_answer_is_sampled_has_a_length_and_nothing_learned(chat: Path) -> None:
    rows = [{"prompt": "p" * 40}]

    (count,) = reading.count(PROFILES["grpo"], rows, Reader(chat), placed(rows), 99)

    assert count.tokens == len(Reader(chat).prompt(rows[0]))
    assert not reading.carries_loss(rows[0])


@pytest.mark.parametrize("model", ["chat", "plain"])
def test_an_answer_that_ends_in_an_end_token_teaches_to_stop(model: str, request: pytest.FixtureRequest) -> None:
    rows = [{"prompt": "p", "completion": "yes"}]

    assert reading.endless(PROFILES["sft"], rows[0], Reader(request.getfixturevalue(model)), placed(rows)) == []


def test_a_template_whose_answers_end_in_no_end_token_is_told(tmp_path: Path) -> None:
    """Its marks leave the end token out; or its end is none of the model's, until `generation_config.json` names it."""
    rows = [{"prompt": "p", "completion": "yes"}]
    outside = CHATML.replace(
        "{%- if m.get('content') %}{{ m['content'] }}{% endif -%}",
        "{% generation %}{{ m['content'] }}{% endgeneration %}",
    )
    short = make_chat(tmp_path / "short", template=outside)
    other = make_chat(tmp_path / "other", template=CHATML.replace("<|im_end|>", "<|endoftext|>"))

    for folder in (short, other):
        (said,) = reading.endless(PROFILES["sft"], rows[0], Reader(folder), placed(rows))
        assert "does not end in any of its end tokens (`<|im_end|>`), so it never learns to stop" in said
    (other / "generation_config.json").write_text('{"eos_token_id": [2, 0]}')
    assert reading.endless(PROFILES["sft"], rows[0], Reader(other), placed(rows)) == []


def test_a_model_that_names_no_end_token_is_told(plain: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "endless"))
    for file in ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (folder / file).exists():
            held = json.loads((folder / file).read_text())
            (folder / file).write_text(json.dumps({k: v for k, v in held.items() if not k.startswith("eos")}))
    rows = [{"prompt": "p", "completion": "yes"}]

    (said,) = reading.endless(PROFILES["sft"], rows[0], Reader(folder), placed(rows))

    assert "an end token: it names none" in said


def test_tokens_that_the_tokenizer_does_not_know_are_told_above_a_twentieth(encoder: Path, chat: Path) -> None:
    profile = PROFILES["sequence-classification"]
    strange = [{"text": "the chip", "label": "x"}, {"text": "the 𐌰", "label": "x"}]
    sound = [{"text": "the chip", "label": "x"}]

    (said,) = unknown.look(profile, strange, encoder).findings

    assert said.startswith("25% of the tokens are unknown to this model's tokenizer")
    assert unknown.look(profile, sound, encoder).findings == []
    assert unknown.look(profile, strange, chat).findings == [], "bytes spell everything"
