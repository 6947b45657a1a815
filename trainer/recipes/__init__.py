"""Recipes, one module per task type that trains by its own rules, found by name.

A module's name is its recipe's with underscores (`sequence-classification` -> `sequence_classification.py`) and its
docstring is its data sheet: row, loss, trainer, scores. Importing a recipe imports torch, importing this package does
not.
"""

import importlib
import os
import pkgutil
from typing import cast

from trainer.job import Recipe

# Which task types stand on `trl.experimental` is said by their `maturity`, not by a warning at every import.
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


def known() -> list[str]:
    """The recipes in this folder, in alphabetical order. Modules with a leading underscore are no recipes."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name.replace("_", "-") for name in names if not name.startswith("_"))


def load(recipe: str) -> Recipe:
    """Import a recipe by its kebab-case name.

    Raises:
        LookupError: no module of that name is in this folder. `contract.RecipeMissing` says so before a ticket is
            asked for; this is for tickets that another release got.
    """
    if recipe not in known():  # before importlib: a name is never more than a file in this folder
        have = ", ".join(f"`{name}`" for name in known())
        raise LookupError(f"`{recipe}` is no recipe of this trainer, which has {have}; upgrade `tagwarden`")
    return cast(Recipe, importlib.import_module(f"{__name__}.{recipe.replace('-', '_')}"))
