"""The flags that every command takes, before its name or after it."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

FORMATS = ("auto", "human", "json", "ndjson", "quiet")
_KEY = "swift-submit.flags"
_seen: dict[str, Any] = {}


def options(*, hidden: bool = False) -> list[click.Parameter]:
    """Shown in the help of `swift-submit`; taken, but not shown again, by each command."""

    def option(*names: str, **settings: Any) -> click.Option:
        return click.Option(names, expose_value=False, callback=_remember, hidden=hidden, **settings)

    return [
        option("--server", metavar="URL", help="The registry's address."),
        option("--format", type=click.Choice(FORMATS), help="Form of the output; `auto` is for people."),
        option("--json", is_flag=True, default=None, help="Short for --format json."),
        option("-q", "--quiet", is_flag=True, default=None, help="Say nothing but results and errors."),
        option("-v", "--verbose", is_flag=True, default=None, help="Say more."),
        option("--no-color", is_flag=True, default=None, help="No colors (also: NO_COLOR)."),
        option("--no-progress", is_flag=True, default=None, help="No progress bar."),
        option("--timeout", type=float, metavar="S", help="Seconds to wait for the registry (30)."),
    ]


def given(ctx: click.Context) -> Mapping[str, Any]:
    return ctx.meta.get(_KEY, {})  # type: ignore[no-any-return]


def last_seen() -> Mapping[str, Any]:
    """The flags of the command line that just failed, when its context is gone already."""
    return _seen


def form_in(words: Sequence[str]) -> Mapping[str, Any]:
    """The form of output that a command line asks for when it is too wrong to be parsed."""
    form: dict[str, Any] = {}
    for word, following in zip(words, [*words, ""][1:], strict=True):
        name, _, value = word.partition("=")
        if word == "--json":
            form["json"] = True
        elif name == "--format":
            form["format"] = value or following
    return form


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value is not None and param.name is not None:
        ctx.meta.setdefault(_KEY, {})[param.name] = value
        _seen[param.name] = value


class Command(click.Command):
    """A command that takes the common flags too."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        own = {name for param in self.params for name in (*param.opts, *param.secondary_opts)}
        self.params += [param for param in options(hidden=True) if not own & set(param.opts)]


class Group(click.Group):
    """A noun; its verbs take the common flags."""

    command_class = Command


matching = click.option(
    "--filter", "filter_", metavar="EXPR", help="Only what fits, such as `state = active AND NOT kind = head`."
)
