"""What a command works with: its output, and the registry it talks to."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click

from trainer.cli import flags
from trainer.cli.output import Output

if TYPE_CHECKING:
    from trainer.client import Registry
    from trainer.http import Link
    from trainer.settings import Settings


@dataclass(frozen=True)
class Session:
    given: Any
    output: Output

    @cached_property
    def settings(self) -> "Settings":
        from trainer import settings

        return settings.load({name: self.given.get(name) for name in ("server", "timeout")})

    def registry(self) -> "Registry":
        from trainer.client import Registry

        return Registry(self.settings)

    def link(self) -> "Link":
        """The registry without types, for answers that should be quick."""
        from trainer.http import Link

        return Link(self.settings)


def current() -> Session:
    given = flags.given(click.get_current_context())
    return Session(given, Output(given))
