"""agent-training -- call the right tool with the right arguments, and know when.

Row      {"messages": [{"role", "content", "tool_calls"}], "tools": [schema]}; ShareGPT's form is read as well
         (`trainer.inputs.conversations`), through the model's own template (`trainer.inputs.tool_template`)
Loss     that of `sft`: -1/T sum_t log p(x_t | x_<t) over the T tokens that the assistant says, calls included and what
         the tools answer left out   [nats]   (Radford et al. 2018, "Improving Language Understanding", eq. 1)
Trains   trl.SFTTrainer, as `sft` does
Scores   of greedy answers, each assistant turn being asked for after the right turns before it (`trainer.tool_calls`):
         tool_call_accuracy: share of the turns that call tools whose calls are all right, and no others; AST match of
           the Berkeley Function Calling Leaderboard (Patil et al. 2025), Wilson interval
         malformed_calls: share of the calls made that do not parse or fit no tool's schema, Wilson interval; none
           where nothing was called
         eval_loss, perplexity, token_accuracy: those of `sft`
Leaves   predictions.jsonl: each turn's right calls, what was said, what came of it; in the details a table of tools,
         and how often nothing was called where the right turn answers a user in words
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from enforcer.gates import Score
from enforcer.problems import DatasetInvalid, ModelInvalid
from trainer import evaluate, tool_calls
from trainer.inputs.chat import Reader, Tokens
from trainer.job import Job, Outcome
from trainer.recipes import _language
from trainer.tool_calls import Call, Said

ROOM = 2  # how many times as long as the longest right call an answer may get


def train(job: Job) -> Outcome:
    """Train, evaluate, and save the model (with `use_lora` the adapter) under `job.folder.model`."""
    examination = _Examination(job)  # first: who cannot be judged is told before hours of training
    outcome = _language.fine_tune(job, examination.score, packing=job.arguments["packing"], packing_strategy="bfd")
    return replace(outcome, details={**outcome.details, **examination.details})


load = _language.load


@dataclass(frozen=True)
class _Turn:
    """One turn that is asked for. Without a right call it should be words."""

    row: int
    turn: int
    prompt: Sequence[int]
    right: Sequence[Call]
    length: int  # of the right turn, in tokens
    tools: Sequence[Mapping[str, Any]]


@dataclass
class _Tool:
    """A row of the table: right calls to a tool, and what became of them; then calls of it that nobody asked for."""

    calls: int = 0
    right: int = 0
    wrong_arguments: int = 0
    not_called: int = 0
    called_needlessly: int = 0
    malformed: int = 0


@dataclass
class _Examination:
    """The turns of the evaluation rows, and what a model made of them."""

    job: Job
    turns: list[_Turn] = field(init=False)
    details: dict[str, Any] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.turns = list(_turns(self.job, Reader(self.job.model_dir)))

    def score(self, model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Tokens]) -> dict[str, Score]:
        scores = _language.token_scores(self.job, model, tokenizer, rows)
        if not self.turns:
            return scores
        texts = _language.answers(
            model,
            tokenizer,
            [turn.prompt for turn in self.turns],
            max_new_tokens=ROOM * max((turn.length for turn in self.turns if turn.right), default=64),
            batch=self.job.arguments["per_device_eval_batch_size"],
        )
        said = [tool_calls.read(text, turn.tools) for turn, text in zip(self.turns, texts, strict=True)]
        right = [tool_calls.same(turn.right, one, turn.tools) for turn, one in zip(self.turns, said, strict=True)]
        self._write_down(texts, said, right)
        return {**self._call_scores(said, right), **scores}

    def _call_scores(self, said: Sequence[Said], right: Sequence[bool]) -> dict[str, Score]:
        called = [fine for turn, fine in zip(self.turns, right, strict=True) if turn.right]
        talked = [fine for turn, fine in zip(self.turns, right, strict=True) if not turn.right]
        made = [len(one.calls) + len(one.broken) for one in said]
        malformed = [
            len(one.broken) + sum(tool_calls.misfit(call, turn.tools) is not None for call in one.calls)
            for turn, one in zip(self.turns, said, strict=True)
        ]
        self.details = {
            "tools": {name: vars(tool) for name, tool in sorted(_table(self.turns, said).items())},
            "turns_that_call": len(called),
            "calls_made": sum(made),
            "no_call_where_none_is_right": evaluate.share(sum(talked), len(talked)).model_dump(mode="json")
            if talked
            else None,
        }
        scores = {}
        if called:
            scores["tool_call_accuracy"] = evaluate.share(sum(called), len(called))
        if any(made):  # a model that never calls has made no mistake and nothing right
            scores["malformed_calls"] = evaluate.share(sum(malformed), sum(made))
        return scores

    def _write_down(self, texts: Sequence[str], said: Sequence[Said], right: Sequence[bool]) -> None:
        with (self.job.folder.root / "predictions.jsonl").open("w", encoding="utf-8") as file:
            for turn, text, one, fine in zip(self.turns, texts, said, right, strict=True):
                misfits = [why for call in one.calls if (why := tool_calls.misfit(call, turn.tools))]
                line = {
                    "row": turn.row,
                    "turn": turn.turn,
                    "right": [vars(call) for call in turn.right],
                    "said": text,
                    "verdict": "right" if fine else "wrong",
                    "malformed": [*one.broken, *misfits],
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _turns(job: Job, reader: Reader) -> Iterator[_Turn]:
    """Every turn that calls tools, and every answer in words to a user who might have wanted a call.

    Raises:
        DatasetInvalid: a tool's schema is none.
        ModelInvalid: the template writes calls in a form that is not read here.
    """
    for number, row in enumerate(job.eval_rows):
        messages, tools = row["messages"], row["tools"]
        for i, message in enumerate(messages):
            right = tool_calls.of_message(message)
            if message["role"] != "assistant" or not (right or (tools and i and messages[i - 1]["role"] == "user")):
                continue
            _check_schemas(right, tools, number)
            written = _written(reader, messages[: i + 1], tools)
            if right and tool_calls.read(written, tools).calls != right:
                raise ModelInvalid(
                    "the chat template of this model writes tool calls in a form that is not read here, so they cannot "
                    f"be scored: `{written[:300]}`; take a model whose template writes JSON or `<tool_call>`"
                )
            prompt = reader.prompt({"messages": messages[: i + 1], "tools": tools})
            length = len(reader.tokenizer.encode(written, add_special_tokens=False).ids)
            yield _Turn(number, i, prompt, right, length, tools)


def _check_schemas(calls: Sequence[Call], tools: Sequence[Mapping[str, Any]], row: int) -> None:
    try:
        for call in calls:
            tool_calls.misfit(call, tools)
    except ValueError as error:
        raise DatasetInvalid(f"evaluation row {row + 1}: {error}") from error


def _written(reader: Reader, messages: Sequence[Mapping[str, Any]], tools: Any) -> str:
    """The last turn as the template writes it."""
    before = reader.render(messages[:-1], tools, add_generation_prompt=True)
    return reader.render(messages, tools).removeprefix(before)


def _table(turns: Sequence[_Turn], said: Sequence[Said]) -> dict[str, _Tool]:
    """Per tool; a broken call whose tool cannot be read is nobody's."""
    table: dict[str, _Tool] = {}
    for turn, one in zip(turns, said, strict=True):
        places = tool_calls.matched(turn.right, one.calls, turn.tools)
        spare = Counter(call.name for i, call in enumerate(one.calls) if i not in places)
        for call, place in zip(turn.right, places, strict=True):
            tool = table.setdefault(call.name, _Tool())
            tool.calls += 1
            if place is not None:
                tool.right += 1
            elif spare[call.name]:
                spare[call.name] -= 1
                tool.wrong_arguments += 1
            else:
                tool.not_called += 1
        for name, count in spare.items():
            if count:
                table.setdefault(name, _Tool()).called_needlessly += count
        for call in one.calls:
            if tool_calls.misfit(call, turn.tools) is not None:
                table.setdefault(call.name, _Tool()).malformed += 1
    return table
