"""What passes between a chat request and the model that answers it: the prompt on the way in, pieces on the way out."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Piece:
    """The next words of an answer. The last piece says why it ended and how many tokens were said in all."""

    text: str
    finish: Finish | None = None
    tokens: int = 0


@dataclass(frozen=True, eq=False)
class Prompt:
    """One answer that is wanted. `tell` is called from the model's thread; `gone` is set when nobody listens any more.

    Left out, `temperature` and `top_p` are as the model's `generation_config.json` says.
    """

    ids: list[int]
    max_new_tokens: int
    tell: Callable[[Piece], None]
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stops: tuple[str, ...] = ()
    gone: threading.Event = field(default_factory=threading.Event)


class Words:
    """Tokens as text, piece by piece: no half characters, and nothing of a stop sequence before it is known not to be
    one.

    Tokens are decoded with those of the piece before in front, since some tokenizers write a token otherwise at the
    beginning of a text.
    """

    def __init__(self, decode: Callable[[list[int]], str], stops: tuple[str, ...]) -> None:
        self._decode, self._stops = decode, stops
        self._held = max((len(stop) for stop in stops), default=1) - 1
        self._ids: list[int] = []
        self._before = self._read = 0  # tokens: where the piece before begins, and where it ends
        self._text, self._told = "", 0

    def add(self, token: int) -> str:
        """The words that are certain now."""
        self._ids.append(token)
        self._catch_up()
        return self._tell(len(self._text) - self._held)

    @property
    def stopped(self) -> bool:
        """Whether a stop sequence was said; the text then ends before it."""
        return any(stop in self._text for stop in self._stops)

    def rest(self) -> str:
        """What was held back, at the end. Half a character is told as what it decodes to."""
        self._catch_up(whole=False)
        return self._tell(len(self._text))

    def _catch_up(self, whole: bool = True) -> None:
        known = self._decode(self._ids[self._before : self._read])
        now = self._decode(self._ids[self._before :])
        if len(now) > len(known) and not (whole and now.endswith("\ufffd")):
            self._text += now[len(known) :]
            self._before, self._read = self._read, len(self._ids)

    def _tell(self, upto: int) -> str:
        ends = [self._text.index(stop) for stop in self._stops if stop in self._text]
        upto = min(ends, default=upto)
        new = self._text[self._told : max(upto, self._told)]
        self._told += len(new)
        return new
