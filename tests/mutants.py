"""Mutants: a rule of the product with one line changed, to see that a test notices."""

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from unittest.mock import patch


@contextmanager
def mutant(module: ModuleType, name: str, old: str, new: str) -> Iterator[None]:
    """Within, `module.name` is the same function with `old` replaced by `new` in its source; `old` stands there once,
    or the mutant is of a rule that is gone."""
    source = textwrap.dedent(inspect.getsource(getattr(module, name)))
    assert source.count(old) == 1, f"`{old}` stands {source.count(old)} times in `{module.__name__}.{name}`"
    made: dict[str, object] = {}
    exec(compile(source.replace(old, new), f"<mutant of {name}>", "exec"), vars(module), made)
    with patch.object(module, name, made[name]):
        yield
