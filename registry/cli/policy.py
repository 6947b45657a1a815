"""`tagwarden policy`: read, check, try and compare policies, on a folder and without a service."""

import click

from registry.cli import LazyGroup

COMMANDS = {
    "lint": ("registry.cli.policy_check:lint", "Find what is wrong, or says what nobody meant."),
    "test": (
        "registry.cli.policy_check:test",
        "Decide the cases of tests/*.yaml; each must come out as written, by the rule that it names.",
    ),
    "coverage": ("registry.cli.policy_check:coverage", "Which rules decide a case that comes out as written."),
    "fmt": (
        "registry.cli.policy_check:fmt",
        "Write rules/*.yaml, exceptions.yaml and quotas.yaml in the one form that diffs well.",
    ),
    "diff": (
        "registry.cli.policy_diff:diff",
        "Which decisions differ between the folder OLD and the one of --policies.",
    ),
    "simulate": (
        "registry.cli.policy_ask:simulate",
        "Decide one request and explain it in full: may it ACTION the task type TAG?",
    ),
    "can": ("registry.cli.policy_ask:can", "Decide one request: yes (exit 0) or no (exit 1), by which rule."),
    "who-can": (
        "registry.cli.policy_ask:who_can",
        "Who may ACTION the task type TAG, by which rules, under which conditions.",
    ),
    "publish": (
        "registry.cli.policy_books:publish",
        "Make what the folder says live, even where it was superseded before.",
    ),
    "history": ("registry.cli.policy_books:history", "Which revisions went live, newest first."),
    "show": ("registry.cli.policy_books:show", "Print all that a revision says; the live one unless another is named."),
    "shadow": (
        "registry.cli.policy_books:shadow",
        "Watch what the policy in FOLDER would have decided, beside the live one; without it, show what was counted.",
    ),
}


@click.group(cls=LazyGroup, lazy=COMMANDS)
def policy() -> None:
    """Policies as code: lint, test, coverage, fmt, diff, simulate, can, who-can.

    All work on a folder (`--policies`) and need no service; publish, history, show and shadow are about the policy in
    the registry's database. Exit codes: 0 fine, 1 findings, failures or "no", 2 usage.
    """
