"""agent-training: a model learns what the assistant says and calls, and is judged turn by turn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import CHATML, LANGUAGE, losses, make_chat, make_job

from enforcer.problems import DatasetInvalid, ModelInvalid
from trainer.inputs import conversations
from trainer.inputs.chat import Reader
from trainer.job import Row
from trainer.recipes import agent_training

NAMES = ("sun", "fog", "ice")
TOOLS = conversations.tools(
    [
        {"name": name, "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}
        for name in NAMES
    ]
)
# `{% generation %}` around everything that an assistant's turn says, calls included: what TRL's own masking reads.
MARKED = CHATML.replace(
    "{{ '<|im_start|>' + m['role'] + '\\n' -}}",
    "{{ '<|im_start|>' + m['role'] + '\\n' -}}{%- if m.role == 'assistant' -%}{%- generation -%}",
).replace(
    "{{ '<|im_end|>\\n' }}\n{%- endfor -%}\n{%- if add",
    "{{ '<|im_end|>\\n' }}{%- endgeneration -%}{%- else -%}"
    "{%- if m.get('content') %}{{ m['content'] }}{% endif -%}{{ '<|im_end|>\\n' }}{%- endif -%}\n"
    "{%- endfor -%}\n{%- if add",
)
PLAIN_CHAT = """\
{%- for m in messages -%}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}"""
ODD = CHATML.replace("'<tool_call>\\n' + (", "'CALL ' + (")
LONG = {**LANGUAGE, "max_length": 1024, "per_device_train_batch_size": 4}


def call_of(name: str, n: int = 1) -> dict[str, Any]:
    return {"from": "function_call", "value": json.dumps({"name": name, "arguments": {"n": n}})}


def talks(count: int, tools: Any = TOOLS[:1]) -> list[Row]:
    """The word of the user is the tool to call; then the tool answers and the assistant says `ok`."""
    rows = []
    for i in range(count):
        name = NAMES[i % len(NAMES)]
        turns = [{"from": "human", "value": name}, call_of(name), {"from": "observation", "value": "7"},
                 {"from": "gpt", "value": "ok"}]  # fmt: skip
        rows.append({"messages": conversations.turns(turns), "tools": tools})
    return rows


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat(tmp_path_factory.mktemp("chat"))


def told(job: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job.folder.root / "predictions.jsonl").read_text().splitlines()]


def test_calls_are_learned_from_none_right_to_all_right(chat: Path, tmp_path: Path) -> None:
    """Always the same call: half of the evaluation rows have no such tool, so the right call is a malformed one."""
    rows = {"train_rows": talks(1) * 24, "eval_rows": [*talks(1) * 3, *talks(1, TOOLS[1:2]) * 3]}
    before = agent_training.train(make_job(tmp_path / "a", chat, LONG, max_steps=1, learning_rate=1e-8, **rows))
    after = agent_training.train(make_job(tmp_path / "b", chat, LONG, max_steps=60, learning_rate=1e-2, **rows))

    assert before.scores["tool_call_accuracy"].value == 0
    assert "malformed_calls" not in before.scores  # nothing was called
    assert before.details["calls_made"] == 0
    assert after.scores["tool_call_accuracy"].value == 1
    assert (after.scores["tool_call_accuracy"].n, after.scores["malformed_calls"].n) == (6, 6)
    assert after.scores["malformed_calls"].value == 3 / 6
    assert after.details["tools"] == {
        "sun": {"calls": 6, "right": 6, "wrong_arguments": 0, "not_called": 0, "called_needlessly": 0, "malformed": 3}
    }


def test_the_losses_are_those_of_a_plain_script_that_masks_by_the_assistants_turns(tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
    from trl import SFTConfig, SFTTrainer

    marked = make_chat(tmp_path / "marked", MARKED)
    job = make_job(tmp_path, marked, LONG, max_steps=3, train_rows=talks(12), eval_rows=talks(1))
    ours = losses(agent_training.train(job))

    set_seed(job.arguments["seed"])
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(marked),
        args=SFTConfig(
            output_dir=str(tmp_path / "plain"), learning_rate=job.arguments["learning_rate"], max_steps=3,
            per_device_train_batch_size=4, warmup_steps=job.arguments["warmup_ratio"], logging_steps=1,
            seed=job.arguments["seed"], bf16=False, gradient_checkpointing=False, report_to="none",
            save_strategy="no", disable_tqdm=True, assistant_only_loss=True,
        ),
        train_dataset=Dataset.from_list([dict(row) for row in job.train_rows]),
        processing_class=AutoTokenizer.from_pretrained(marked),
    )  # fmt: skip
    trainer.train()
    theirs = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    assert len(ours) == 3
    assert np.abs(np.array(ours) - theirs).max() < 1e-4


def test_every_turn_is_judged_and_tools_have_their_table(
    chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = talks(1, TOOLS)[0]
    words = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}], "tools": TOOLS}
    said = [
        '<tool_call>{"name": "sun", "arguments": {"n": 1}}</tool_call>',
        '<tool_call>{"name": "sun", "arguments": {"n": 2}}</tool_call>',
        '<tool_call>{"name": "sun", "arguments": {"n": "1"}}</tool_call>',
        '<tool_call>{"name": "fog", "arguments": {"n": 1}}</tool_call><tool_call>{"name": </tool_call>',
        "hello",
        '{"name": "ice", "arguments": {"n": 1}}',
    ]
    monkeypatch.setattr("trainer.recipes._language.answers", lambda *_, **__: said)
    job = make_job(tmp_path, chat, LONG, max_steps=1, train_rows=talks(4), eval_rows=[row] * 4 + [words] * 2)

    outcome = agent_training.train(job)

    assert [line["verdict"] for line in told(job)] == ["right", "wrong", "wrong", "wrong", "right", "wrong"]
    assert outcome.scores["tool_call_accuracy"].value == 1 / 4
    assert (outcome.scores["malformed_calls"].value, outcome.scores["malformed_calls"].n) == (2 / 6, 6)
    assert outcome.details["no_call_where_none_is_right"]["value"] == 0.5
    table = outcome.details["tools"]
    assert table["sun"] == {
        "calls": 4, "right": 1, "wrong_arguments": 2, "not_called": 1, "called_needlessly": 0, "malformed": 1,
    }  # fmt: skip
    assert table["fog"]["called_needlessly"] == table["ice"]["called_needlessly"] == 1


def test_a_template_that_drops_tools_gets_them_taught_and_the_model_leaves_with_it(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    deaf = make_chat(tmp_path / "deaf", PLAIN_CHAT)
    row = talks(1)[0]
    job = make_job(tmp_path, deaf, LONG, max_steps=1, train_rows=talks(4), eval_rows=[row])

    agent_training.train(job)

    saved = AutoTokenizer.from_pretrained(job.folder.model)
    text = saved.apply_chat_template(row["messages"], tools=row["tools"], tokenize=False)
    assert '<tool_call>\n{"name": "sun", "arguments": {"n": 1}}\n</tool_call>' in text
    assert "<tools>\n" in text
    assert "<tool_response>\n7\n</tool_response>" in text
    assert (
        text
        == Reader(deaf).render(row["messages"], row["tools"])
        == Reader(job.folder.model).render(row["messages"], row["tools"])
    )


def test_what_is_said_without_tools_is_rendered_as_ever(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    deaf, chat = make_chat(tmp_path / "deaf", PLAIN_CHAT), make_chat(tmp_path / "chat")
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    taught = Reader(deaf)
    taught.render(talks(1)[0]["messages"], TOOLS)
    tokenizer = AutoTokenizer.from_pretrained(deaf)
    plain = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    tokenizer.chat_template = taught.taught

    assert tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True) == plain
    knowing = Reader(chat)
    knowing.render(talks(1)[0]["messages"], TOOLS)
    assert knowing.taught is None


def test_only_the_assistant_is_learned_of_a_taught_template(tmp_path: Path) -> None:
    reader = Reader(make_chat(tmp_path, PLAIN_CHAT))
    row = talks(1)[0]

    tokens = reader.row(row, "assistant")

    learned = [i for i, learns in zip(tokens.ids, tokens.trained, strict=True) if learns]
    assert reader.tokenizer.decode(learned, skip_special_tokens=False) == (
        '<tool_call>\n{"name": "sun", "arguments": {"n": 1}}\n</tool_call><|im_end|>\nok<|im_end|>\n'
    )


def test_a_template_whose_calls_cannot_be_read_back_is_refused_before_training(tmp_path: Path) -> None:
    job = make_job(
        tmp_path, make_chat(tmp_path / "odd", ODD), LONG, max_steps=1, train_rows=talks(4), eval_rows=talks(2)
    )

    with pytest.raises(ModelInvalid, match="in a form that is not read here"):
        agent_training.train(job)

    assert not job.listener.steps


def test_a_schema_that_is_none_is_told_with_its_row(chat: Path, tmp_path: Path) -> None:
    odd = [{"type": "function", "function": {"name": "sun", "parameters": {"type": "dict"}}}]
    job = make_job(tmp_path, chat, LONG, max_steps=1, train_rows=talks(4), eval_rows=talks(1, odd))

    with pytest.raises(DatasetInvalid, match="row 1: the parameters of a tool are no JSON schema"):
        agent_training.train(job)
