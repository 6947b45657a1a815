"""Conversations are read as the model's own tokenizer reads them, and only what is the assistant's is learned."""

import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import CHATML, make_chat

from enforcer.problems import DatasetInvalid, ModelInvalid
from trainer.inputs.chat import Reader, Tokens

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "早上好, who?"},
    {"role": "assistant", "content": "I am 小明 🙂"},
    {"role": "user", "content": "really"},
    {"role": "assistant", "content": "yes"},
]
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": {"at": "<b>"}}}]}
MARKED = CHATML.replace(
    "{{ '<|im_start|>' + m['role'] + '\\n' -}}\n{%- if m.get('content') %}{{ m['content'] }}{% endif -%}",
    "{{ '<|im_start|>' + m['role'] + '\\n' -}}\n{%- if m['role'] == 'assistant' -%}{%- generation -%}{{ m['content'] }}"
    "{%- endgeneration -%}{%- elif m.get('content') -%}{{ m['content'] }}{%- endif -%}",
)
FORGETFUL = """\
{%- for m in messages -%}
{{ '<|im_start|>' + m['role'] + '\\n' + (m['content'] if loop.last or m['role'] == 'user' else '...') + '<|im_end|>' }}
{%- endfor -%}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}"""


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat(tmp_path_factory.mktemp("chat"))


def learned(reader: Reader, tokens: Tokens) -> str:
    ids = [i for i, learns in zip(tokens.ids, tokens.trained, strict=True) if learns]
    return str(reader.tokenizer.decode(ids, skip_special_tokens=False))


@pytest.mark.parametrize(
    "talk", [TALK, TALK[1:3], [*TALK[:2], CALL, {"role": "tool", "content": "nothing"}, *TALK[2:]]]
)
@pytest.mark.parametrize("tools", [None, TOOLS])
def test_the_tokens_are_those_of_the_tokenizer_itself(chat: Path, talk: Any, tools: Any) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(chat).apply_chat_template(talk, tools=tools, return_dict=True)["input_ids"]

    assert list(Reader(chat).conversation(talk, tools).ids) == theirs


def test_what_the_assistant_says_is_learned_with_its_end_and_nothing_else(chat: Path) -> None:
    reader = Reader(chat)

    tokens = reader.conversation(TALK)

    assert learned(reader, tokens) == "I am 小明 🙂<|im_end|>\nyes<|im_end|>\n"


def test_a_tool_call_is_learned_and_what_the_tool_answers_is_not(chat: Path) -> None:
    reader = Reader(chat)

    tokens = reader.conversation([*TALK[:2], CALL, {"role": "tool", "content": "nothing"}, TALK[2]], TOOLS)

    call = '<tool_call>\n{"name": "look", "arguments": {"at": "<b>"}}\n</tool_call><|im_end|>\n'
    assert learned(reader, tokens) == f"{call}I am 小明 🙂<|im_end|>\n"


def test_marks_of_the_template_decide_where_it_has_some(tmp_path: Path) -> None:
    reader = Reader(make_chat(tmp_path, MARKED))

    tokens = reader.conversation(TALK)

    assert learned(reader, tokens) == "I am 小明 🙂yes"
    assert reader.render(TALK) == Reader(make_chat(tmp_path / "plain")).render(TALK)


def test_a_row_cannot_bring_marks_of_its_own(tmp_path: Path) -> None:
    reader = Reader(make_chat(tmp_path, MARKED))
    sly = [{"role": "user", "content": "\ufdd0learn this\ufdd1"}, {"role": "assistant", "content": "no"}]

    with pytest.raises(DatasetInvalid, match="U\\+FDD0"):
        reader.conversation(sly)


def test_a_template_that_hides_earlier_turns_is_refused_with_what_to_do(tmp_path: Path) -> None:
    reader = Reader(make_chat(tmp_path, FORGETFUL))

    with pytest.raises(ModelInvalid, match="generation"):
        reader.conversation(TALK)
    assert learned(reader, reader.answer("who?", "me")) == "me<|im_end|>"


def test_without_a_template_a_pair_is_plain_text_and_a_conversation_is_refused(tmp_path: Path) -> None:
    reader = Reader(make_chat(tmp_path, None))

    tokens = reader.answer("2+2=", "4")

    assert reader.tokenizer.decode(tokens.ids, skip_special_tokens=False) == "2+2=4<|im_end|>"
    assert learned(reader, tokens) == "4<|im_end|>"
    with pytest.raises(ModelInvalid, match="no chat template"):
        reader.conversation(TALK)


def test_a_conversation_in_which_no_assistant_speaks_teaches_nothing(chat: Path) -> None:
    with pytest.raises(DatasetInvalid, match="no words of an assistant"):
        Reader(chat).conversation(TALK[:2])


def test_a_refusal_of_the_template_is_told_in_its_words(tmp_path: Path) -> None:
    picky = "{% if messages[0].role == 'system' %}{{ raise_exception('no system, please') }}{% endif %}x"

    with pytest.raises(DatasetInvalid, match="no system, please"):
        Reader(make_chat(tmp_path, picky)).conversation(TALK)


@pytest.mark.parametrize(
    "hostile",
    ["{{ ''.__class__.__mro__ }}", "{% set _ = messages.append(1) %}", "{{ messages.__init__.__globals__ }}"],
)
def test_a_template_is_code_of_others_and_gets_nowhere(tmp_path: Path, hostile: str) -> None:
    with pytest.raises(DatasetInvalid, match="refuses"):
        Reader(make_chat(tmp_path, hostile)).render(TALK)


def test_a_prompt_is_everything_before_the_last_answer(chat: Path) -> None:
    reader = Reader(chat)

    text = reader.tokenizer.decode(reader.prompt({"messages": TALK}), skip_special_tokens=False)

    assert text == reader.render(TALK[:4], add_generation_prompt=True)
    assert text.endswith("really<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("broken", ["{% if %}", "{{"])
def test_a_template_that_is_no_jinja_is_refused(tmp_path: Path, broken: str) -> None:
    with pytest.raises(ModelInvalid, match="cannot be read"):
        Reader(make_chat(tmp_path, broken))


def test_reading_loads_no_training_library() -> None:
    import subprocess

    code = "import trainer.inputs.chat, sys; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
