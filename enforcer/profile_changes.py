"""What a change of a profile means for those who train under it."""

from enum import StrEnum

from enforcer.profiles import Profile


class ChangeClass(StrEnum):
    """Lightest first. A change of several classes is of the heaviest of them."""

    EDITORIAL = "editorial"
    COMPATIBLE = "compatible"
    TIGHTENING = "tightening"
    LOOSENING = "loosening"
    BREAKING = "breaking"


def class_of(before: Profile, after: Profile) -> ChangeClass:
    """The class of the whole change."""
    return ChangeClass.EDITORIAL if before == after else ChangeClass.BREAKING
