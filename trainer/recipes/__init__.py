"""Recipes, one module per task type that trains by its own rules, found by name.

A module's name is its recipe's with underscores (`sequence-classification` -> `sequence_classification.py`) and its
docstring is its data sheet: row, loss, trainer, scores. Importing a recipe imports torch, importing this package does
not.
"""

import importlib
import pkgutil
from typing import cast

from trainer.job import Recipe


class UnknownRecipe(LookupError):
    """The profile asks for a recipe that this release of the trainer does not have."""

    def __init__(self, recipe: str) -> None:
        super().__init__(
            f"`{recipe}` is no recipe of this trainer; it has {', '.join(f'`{name}`' for name in known())}. "
            "Upgrade `tagwarden`, or ask for a version of the task type with one of these recipes"
        )


def known() -> list[str]:
    """The recipes in this folder, in alphabetical order. Modules with a leading underscore are no recipes."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name.replace("_", "-") for name in names if not name.startswith("_"))


def load(recipe: str) -> Recipe:
    """Import a recipe by its kebab-case name.

    Raises:
        UnknownRecipe: no module of that name is in this folder.
    """
    if recipe not in known():  # before importlib: a name is never more than a file in this folder
        raise UnknownRecipe(recipe)
    return cast(Recipe, importlib.import_module(f"{__name__}.{recipe.replace('-', '_')}"))
