"""Conversations as the model will read them: its own chat template, its own tokens, and which of them carry loss.

Without torch or transformers, so that preflight shows what training sees: both call this. The token ids are those of
`tokenizer.apply_chat_template`; a test holds the two side by side.

The loss mask is drawn on the rendered text, then on the tokens that begin inside of it:

    {% generation %} marks   what the template itself marks as the assistant's
    no marks                 what a turn adds to the prompt before it, its end-of-turn token included; the template must
                             render a conversation's beginning alike with and without what follows
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from enforcer.columns import LossMask
from enforcer.problems import DatasetInvalid, ModelInvalid, NotConfigured
from trainer.inputs import special_tokens, tool_template
from trainer.inputs.folders import weights_folder
from trainer.job import Row

Message = Mapping[str, Any]
Span = tuple[int, int]  # of characters, from and up to

# What stands around an assistant's words while they are found. No text of a row may hold them.
OPEN, CLOSE = "\ufdd0", "\ufdd1"  # Unicode noncharacters, for internal use (Unicode 16, section 23.7)


@dataclass(frozen=True)
class Tokens:
    """A row as the model reads it; `trained` says of each token whether it carries loss."""

    ids: Sequence[int]
    trained: Sequence[bool]

    @property
    def labels(self) -> list[int]:
        """Token ids where there is loss, -100 (torch's `ignore_index`) elsewhere."""
        return [i if learns else -100 for i, learns in zip(self.ids, self.trained, strict=True)]

    def cut(self, limit: int) -> "Tokens":
        return Tokens(self.ids[:limit], self.trained[:limit])


class Reader:
    """The tokenizer and the chat template of one model folder."""

    def __init__(self, model: Path) -> None:
        """Read `tokenizer.json` and, where there is one, the template.

        Raises:
            ModelInvalid: no tokenizer that can be read, or a template that is no Jinja.
            NotConfigured: the packages that read them are not installed.
        """
        folder = weights_folder(model)
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise NotConfigured(
                "reading texts needs the trainer's packages: `pip install 'tagwarden[trainer]'`"
            ) from error
        try:
            self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the Rust side raises bare Exception
            raise ModelInvalid(
                f"the `tokenizer.json` of `{model.name}` cannot be read: {error}; save the model with "
                "its fast tokenizer"
            ) from error
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.special = special_tokens.named(folder)
        self.ends = special_tokens.ends(folder, self.tokenizer)
        source = _template(folder)
        self.template = None if source is None else _compile(source, model.name)
        self.marks = source is not None and "generation" in source and "endgeneration" in source
        self._source, self._model = source, model.name
        self.taught: str | None = None  # the template that was read with, where the model's own knows no tools

    def row(self, row: Row, mask: LossMask) -> Tokens:
        """A row of any language task: `text`; `prompt` and `completion`; or `messages`, with `tools` or without.

        Raises:
            DatasetInvalid: the template refuses the conversation, or nothing in it carries loss.
            ModelInvalid: a conversation, and the model has no template; or what the assistant says cannot be found.
        """
        if "text" in row:
            return self.text(row["text"])
        if "messages" in row:
            tokens = self.conversation(row["messages"], row.get("tools"))
        else:
            tokens = self.answer(row["prompt"], row["completion"])
        return Tokens(tokens.ids, [True] * len(tokens.ids)) if mask == "all" else tokens

    def text(self, text: str) -> Tokens:
        """Plain text and the end token behind it, all of it learned."""
        ids = self.tokenizer.encode(self._ended(text)).ids
        return Tokens(ids, [True] * len(ids))

    def answer(self, prompt: str, completion: str) -> Tokens:
        """What is asked and what is answered: two turns where the model knows those, else plain text."""
        if self.template is not None:
            asked = {"role": "user", "content": prompt}
            return self.conversation([asked, {"role": "assistant", "content": completion}])
        return self._tokens(self._ended(prompt + completion), [(len(prompt), 1 << 62)], special=True)

    def prompt(self, row: Row) -> list[int]:
        """The tokens that a row's last answer is generated from."""
        messages = _asked(row)
        if self.template is None and len(messages) == 1:
            return list(self.tokenizer.encode(messages[0]["content"]).ids)
        text = self.render(messages, row.get("tools"), add_generation_prompt=True)
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def conversation(self, messages: Sequence[Message], tools: Any = None) -> Tokens:
        """A conversation, of which the assistant's words are learned.

        Raises:
            DatasetInvalid: nothing is said by an assistant, or the template refuses it.
            ModelInvalid: no template, or one that hides where the assistant speaks.
        """
        text, spans = self.spans(messages, tools)
        tokens = self._tokens(text, spans, special=False)
        if not any(tokens.trained):
            raise DatasetInvalid("no token of this conversation is learned: it holds no words of an assistant")
        return tokens

    def render(self, messages: Sequence[Message], tools: Any = None, *, add_generation_prompt: bool = False) -> str:
        """The text of a conversation.

        Raises:
            DatasetInvalid: the template refuses it.
            ModelInvalid: the model has no template.
        """
        return self._render(messages, tools, add_generation_prompt).replace(OPEN, "").replace(CLOSE, "")

    def spans(self, messages: Sequence[Message], tools: Any = None) -> tuple[str, list[Span]]:
        """The text of a conversation and the places in it that the assistant wrote."""
        marked = self._render(messages, tools, False)
        if self.marks:
            if any(mark in str(message.get("content")) for message in messages for mark in (OPEN, CLOSE)):
                raise DatasetInvalid("a message holds U+FDD0 or U+FDD1, which are no characters; take them out")
            return _unmarked(marked)
        whole, spans = marked, []
        for i, message in enumerate(messages):
            if message["role"] == "assistant":
                before = self._render(messages[:i], tools, True)
                through = whole if i + 1 == len(messages) else self._render(messages[: i + 1], tools, False)
                if not (whole.startswith(through) and through.startswith(before)):
                    raise ModelInvalid(
                        "the chat template of this model renders a conversation's beginning otherwise when more "
                        "follows, so it cannot be told what its assistant says; mark that with `{% generation %}` in "
                        "the template, or give each answer as a `prompt` and a `completion`"
                    )
                spans.append((len(before), len(through)))
        return whole, spans

    def _render(self, messages: Sequence[Message], tools: Any, add_generation_prompt: bool) -> str:
        if self.template is None:
            raise ModelInvalid(
                "this model has no chat template (`chat_template.jinja`), so it cannot read a conversation; take one "
                "that was tuned for chat, add the template of its family, or give rows with `prompt` and `completion`"
            )
        template = self._for_tools if tool_template.uses_tools(messages, tools) else self.template
        return self._render_with(template, messages, tools, add_generation_prompt)

    @cached_property
    def _for_tools(self) -> Any:
        """The model's own template, or that with a preface where it would drop tools and calls."""
        assert self._source is not None
        if tool_template.knows_tools(lambda messages, tools: self._render_with(self.template, messages, tools, False)):
            return self.template
        self.taught = tool_template.PREFACE + self._source
        return _compile(self.taught, self._model)

    def _render_with(self, template: Any, messages: Sequence[Message], tools: Any, add_generation_prompt: bool) -> str:
        try:
            text = template.render(
                messages=messages,
                tools=tools,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self.special,
            )
        except Exception as error:  # a template raises what it likes: undefined names, TypeErrors, its own refusals
            raise DatasetInvalid(f"the model's chat template refuses this conversation: {error}") from error
        return str(text)

    def _tokens(self, text: str, spans: Sequence[Span], *, special: bool) -> Tokens:
        encoded = self.tokenizer.encode(text, add_special_tokens=special)
        inside = [False] * len(encoded.ids)
        for i, (start, end) in enumerate(encoded.offsets):
            inside[i] = start < end and any(first <= start < last for first, last in spans)
        return Tokens(encoded.ids, inside)

    def _ended(self, text: str) -> str:
        end = self.special.get("eos_token", "")
        return text if text.endswith(end) else text + end


def _asked(row: Row) -> list[Message]:
    """What comes before the last words of an assistant."""
    if "messages" not in row:
        return [{"role": "user", "content": row["prompt"]}]
    turns = list(row["messages"])
    last = max((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), default=len(turns))
    return turns[:last]


def _unmarked(marked: str) -> tuple[str, list[Span]]:
    """The text without its marks, and the places that stood between them."""
    text, spans = "", []
    for i, part in enumerate(marked.replace(CLOSE, OPEN).split(OPEN)):
        if i % 2:
            spans.append((len(text), len(text) + len(part)))
        text += part
    return text, spans


def _template(folder: Path) -> str | None:
    """`chat_template.jinja`, or `chat_template` of `tokenizer_config.json`, by name `default` among several."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text("utf-8")
    found = special_tokens.json_object(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):
        found = next((entry["template"] for entry in found if entry.get("name") == "default"), None)
    return found if isinstance(found, str) else None


def _compile(source: str, model: str) -> Any:
    """The template in the environment that transformers gives it (`utils/chat_template_utils.py`): sandboxed, since a
    template is code that came with a model."""
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):  # type: ignore[misc]
        """`{% generation %}...{% endgeneration %}`: its words stand between our marks."""

        tags = {"generation"}  # noqa: RUF012 -- jinja's own way

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

        def _marked(self, caller: Any) -> str:
            return f"{OPEN}{caller()}{CLOSE}"

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise ModelInvalid(
            f"the chat template of `{model}` cannot be read: line {error.lineno}: {error.message}"
        ) from error


def _to_json(value: Any, ensure_ascii: bool = False, **how: Any) -> str:
    """Jinja's own filter escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **how)
