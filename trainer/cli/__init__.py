"""`swift-submit`: ask for a permit and train under it.

Commands live in modules of their own and load when they are called: `--help` imports click and nothing else.
"""

import difflib
import importlib
import sys
from collections.abc import Mapping

import click

from trainer.cli import flags
from trainer.exits import FINE, INTERRUPTED, MEANING

COMMANDS = {  # name: (where it lives, its first line of help)
    "run": ("trainer.cli.run:run", "Ask for a ticket, train, evaluate, report."),
    "work": ("trainer.cli.work:work", "Start the run that a permit in RUN_DIR allows."),
    "plan": ("trainer.cli.plan:plan", "Say what `run` would do."),
    "auth": ("trainer.cli.auth:auth", "Sign in and out: login, logout, status, token."),
    "can-i": ("trainer.cli.can_i:can_i", "Ask the policy whether you may do something."),
    "why": ("trainer.cli.can_i:why", "Why the policy allowed or refused something, and what it would say now."),
    "tags": ("trainer.cli.tags:tags", "Task types: list, show, compare, who uses one, propose."),
    "requests": ("trainer.cli.requests:requests", "Proposals: of task types, of the policy, of exceptions from it."),
    "delegations": ("trainer.cli.delegations:delegations", "Who reviews in whose name: list, make, revoke."),
    "runs": ("trainer.cli.runs:runs", "Runs: list, show, follow one, send a report that waits."),
    "judge": ("trainer.cli.judge:judge", "Have a run's answers judged against another model's: win rate and Elo."),
    "quotas": ("trainer.cli.quotas:quotas", "What a business unit may take of the machines, and how much is taken."),
    "ticket": ("trainer.cli.ticket:ticket", "Run tickets: show, verify offline, revoke."),
    "verify": ("trainer.cli.verify:verify", "Prove offline what a run is, from its permit to its outputs."),
    "trust": ("trainer.cli.verify:trust", "What a verifier trusts: save it from a registry."),
    "reproduce": ("trainer.cli.reproduce:reproduce", "Plan a run again, and say what differs now."),
    "export": ("trainer.cli.export:export", "Write a finished run's model as somebody else needs it."),
    "import-args": (
        "trainer.cli.import_args:import_args",
        "Print the config that asks for a run of ms-swift again, from its args.json.",
    ),
    "serve": ("trainer.cli.serve:serve", "Answer requests with an accepted run's model."),
    "deploy": ("trainer.cli.deploy:deploy", "Write the manifest by which a larger engine serves an accepted run."),
}
VARIABLES = {
    "SWIFT_SUBMIT_SERVER": "the registry's address (http://127.0.0.1:8710)",
    "SWIFT_SUBMIT_TOKEN": "your API token",
    "SWIFT_SUBMIT_TOKEN_FILE": "a 0600 file that holds it",
    "SWIFT_SUBMIT_ISSUER": "what tickets name as issuer (the server's address)",
    "SWIFT_SUBMIT_ALLOW_HTTP": "1 lets tokens cross the network over plain http://",
    "SWIFT_SUBMIT_LOG_PROOF": "required: start nothing whose ticket is not proven to be in the log",
    "SWIFT_SUBMIT_LOG_KEYS": "a JWKS file with the log's keys (those first seen)",
    "SWIFT_SUBMIT_LOG_WITNESSES": "verifier keys of witnesses of the log, with spaces in between",
    "SWIFT_SUBMIT_LOG_QUORUM": "how many of them must have cosigned",
    "SWIFT_SUBMIT_CLUSTER": "the cluster this machine belongs to; tickets are then for it, not for this host",
    "SWIFT_SUBMIT_REPLAY_DIR": "where offline redemptions are remembered; shared by the hosts of a cluster",
    "SWIFT_SUBMIT_REVOKED": "a copy of the registry's /.well-known/revoked.json that is to be heeded",
    "SWIFT_SUBMIT_SERVE_KEY": "the key that clients of `serve` must bring",
    "SWIFT_SUBMIT_JUDGE": "an OpenAI-compatible server that judges answers, for runs with `judge_model`",
    "SWIFT_SUBMIT_JUDGE_KEY": "its key, if it takes one",
    "SWIFT_SUBMIT_JUDGE_KEY_FILE": "a 0600 file that holds it",
    "SWIFT_SUBMIT_MS_SWIFT": "the python that has ms-swift, for runs with `backend: ms-swift`",
}
PLACES = (
    "Settings: flag, then environment, then ~/.config/swift-submit/config.toml "
    "(server, token_file, issuer, timeout, log_*)."
)


class LazyGroup(click.Group):
    """A group that knows names and one-line helps, and imports a command when it is called."""

    def __init__(self, *args: object, lazy: Mapping[str, tuple[str, str]], **settings: object) -> None:
        super().__init__(*args, **settings)  # type: ignore[arg-type]
        self._lazy = lazy

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(self._lazy)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return None
        module, _, name = self._lazy[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self._lazy and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0].replace("_", "-"), self._lazy, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"there are {', '.join(self._lazy)}."
            ctx.fail(f"`{args[0]}` is no command; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, said) for name, (_, said) in self._lazy.items()])

    def format_epilog(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Environment"):
            formatter.write_dl(list(VARIABLES.items()))
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in MEANING.items()])
        formatter.write_paragraph()
        formatter.write_text(PLACES)


def _version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"swift-submit {version('tagwarden')}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    name="swift-submit",
    params=flags.options(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def cli() -> None:
    """Train under a governed task type: a signed ticket first, then the run, then the registry's verdict."""


def main(arguments: list[str] | None = None) -> None:
    """The entry point: every way out is a message and an exit code."""
    try:
        code = cli.main(args=arguments, prog_name="swift-submit", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else FINE)
    except click.ClickException as error:
        sys.exit(_show_usage(error, sys.argv[1:] if arguments is None else arguments))
    except (click.Abort, KeyboardInterrupt):
        click.echo("\ninterrupted", err=True)
        sys.exit(INTERRUPTED)
    except Exception as error:
        from trainer.cli import errors

        sys.exit(errors.show(error, flags.last_seen()))


def _show_usage(error: click.ClickException, words: list[str]) -> int:
    """Programs get their one document, people click's own words with the usage line."""
    from trainer.cli.errors import CommandLineInvalid
    from trainer.cli.output import Output

    if not Output(flags.form_in(words)).problem(CommandLineInvalid(error.format_message()).document()):
        error.show()
    return error.exit_code
