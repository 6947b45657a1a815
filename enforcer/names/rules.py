"""The words that the check of names knows of: `policies/names.yaml`. Data, governed like the policy beside it."""

import re
from datetime import UTC, date, datetime
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Word = Annotated[str, StringConstraints(pattern=r"^[a-z]{1,30}$")]
Kebab = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=48)]
VERSION = re.compile(r"v?\d+(?:\.\d+)*|(?:v|ver|rev|r|ep|run|exp|try)\d+")


class ReservedWord(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: str = Field(min_length=3, max_length=300)
    until: date | None = None

    @property
    def ends_at(self) -> datetime | None:
        return None if self.until is None else datetime(self.until.year, self.until.month, self.until.day, tzinfo=UTC)


class NameRules(BaseModel):
    """Noise, abbreviations and reserved words. Nothing here says which names exist."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    owner: str
    noise: frozenset[Word] = frozenset()
    never_first: frozenset[Word] = frozenset()
    soft_noise: frozenset[Word] = frozenset()
    abbreviations: dict[Word, Kebab] = Field(default_factory=dict)
    reserved: dict[Kebab, ReservedWord] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _mean_one_thing(self) -> Self:
        short = self.abbreviations.keys()
        chained = [word for word, full in self.abbreviations.items() if short & set(full.split("-"))]
        if chained:
            raise ValueError(f"`{chained[0]}` stands for a word that stands for another; write out what it means")
        twice = self.abbreviations.keys() & (self.noise | self.soft_noise)
        if twice:
            raise ValueError(f"`{min(twice)}` is noise and an abbreviation; it has to be one of them")
        return self

    def is_noise(self, word: str) -> bool:
        return word in self.noise or VERSION.fullmatch(word) is not None
