"""Who trains: the libraries that a recipe of ours calls, or another framework in an interpreter of its own.

`backend` is a parameter of the task type. So it stands in the run specification that the ticket binds, a profile
decides which backends its runs may have, and a task type without the parameter has none to choose. Importing this
package imports no torch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from enforcer.profiles import Profile
from trainer import recipes
from trainer.job import Recipe

MS_SWIFT = "ms-swift"


def is_ours(arguments: Mapping[str, Any]) -> bool:
    return arguments.get("backend") != MS_SWIFT


def refuse(
    tag: str, profile: Profile, arguments: Mapping[str, Any], model: Path, checkpoint: Path | None = None
) -> None:
    """Raise a Problem for a run that another framework cannot make here, before anything is spent on it."""
    if not is_ours(arguments):
        _ms_swift(tag, profile).refuse(arguments, model, checkpoint)


def load(tag: str, profile: Profile, arguments: Mapping[str, Any]) -> Recipe:
    """What trains this run. Imports torch."""
    return recipes.load(profile.recipe) if is_ours(arguments) else cast(Recipe, _ms_swift(tag, profile))


def _ms_swift(tag: str, profile: Profile) -> Any:
    from trainer.backends.ms_swift import MsSwift

    return MsSwift(tag, profile.recipe, profile.bindings)
