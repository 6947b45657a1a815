"""What all bodies have in common: strict requests, and the kinds of text in them."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

# No text holds a NUL: PostgreSQL cannot store one, and nobody means one.
NO_NUL = r"^[^\x00]*$"


Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=3, max_length=1_000, pattern=NO_NUL)]


Line = Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=NO_NUL)]


Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=NO_NUL)]


ArgumentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]


Names = Annotated[list[Name], Field(min_length=1, max_length=50)]


PolicyFileName = Annotated[
    str,
    StringConstraints(
        pattern=r"^(model\.conf|(directory|quotas|approvals)\.yaml|(rules|tests)/[a-z0-9][a-z0-9._-]{0,80}\.yaml)$"
    ),
]


FileText = Annotated[str, StringConstraints(max_length=1_048_576, pattern=NO_NUL)]


VersionNumber = Annotated[int, Field(ge=1, lt=2**31)]


Note = Annotated[str, StringConstraints(max_length=65_536)]


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{moment.isoformat()} is no moment of UTC, whose years are 1 to 9999") from None


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]


Envelope = Annotated[str, StringConstraints(max_length=48 * 1024, pattern=r"^[\x20-\x7e]*$")]


Thumbprint = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{43}$")]


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True)
