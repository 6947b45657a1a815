"""`tagwarden policy lint`, `test`, `coverage`, `fmt`: what a change of the policy passes before somebody reads it."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.cli.errors import in_words
from registry.cli.policy_folder import Opened, folder_of, of_a_folder, opened, print_json, read

if TYPE_CHECKING:
    from enforcer.policy.cases import Outcome
    from enforcer.policy.lint import Finding


@click.command()
@of_a_folder
@click.option("--github", is_flag=True, help="As annotations of a GitHub workflow.")
@click.option("--strict", is_flag=True, help="Warnings fail too.")
def lint(policies: Path | None, database: bool, as_json: bool, github: bool, strict: bool) -> None:
    """Find what is wrong, or says what nobody meant.

    Errors: what refuses the whole policy (unknown names and keys, bad values), a person's right without an end, what
    has expired, rules that never count, denies that say the opposite of what is meant, denies and exceptions that no
    case of tests/ decides. Warnings: task types that do not exist, rules that change nothing, groups without rules.
    """
    findings = in_words(lambda: _findings(policies, database))
    if as_json:
        print_json(findings)
    for finding in [] if as_json else findings:
        click.echo(_annotation(folder_of(policies), finding) if github else _line(finding))
    failing = [finding for finding in findings if strict or finding.severity == "error"]
    if not as_json and not github:
        errors = sum(finding.severity == "error" for finding in findings)
        click.echo(f"{errors} errors, {len(findings) - errors} warnings")
    raise SystemExit(1 if failing else 0)


@click.command()
@of_a_folder
@click.option("--junit", type=click.Path(path_type=Path), help="Also write a JUnit report.")
@click.option("--mutants", is_flag=True, help="Drop each rule and each condition: some case must notice.")
def test(policies: Path | None, database: bool, as_json: bool, junit: Path | None, mutants: bool) -> None:
    """Decide the cases of tests/*.yaml; each must come out as written, by the rule that it names."""
    found = opened(policies, database)
    outcomes = _outcomes(found)
    surviving = _survivors(found) if mutants else []
    failed = [outcome for outcome in outcomes if outcome.failure]
    if junit is not None:
        in_words(lambda: junit.write_text(_junit(outcomes), encoding="utf-8"))
    if as_json:
        print_json({"cases": [_told(outcome) for outcome in outcomes], "survivors": surviving})
    else:
        for outcome in outcomes:
            place = f"{outcome.place.file}:{outcome.place.line}"
            click.echo(f"{'FAIL' if outcome.failure else 'ok  '}  {place:<28} {outcome.case.says}")
            if outcome.failure:
                click.echo(f"      {outcome.failure}")
        for gone in surviving:
            click.echo(f"FAIL  no case notices that {gone} is gone")
        click.echo(
            f"{len(outcomes)} cases, {len(failed)} failed" + (f"; {len(surviving)} survivors" if mutants else "")
        )
    raise SystemExit(1 if failed or surviving or not outcomes else 0)


@click.command()
@of_a_folder
def coverage(policies: Path | None, database: bool, as_json: bool) -> None:
    """Which rules decide a case that comes out as written.

    All denies and all exceptions must; the exit code says whether they do.
    """
    from enforcer.policy.coverage import coverage as covered

    found = opened(policies, database)
    reached = covered(found.written.policy, _outcomes(found))
    if as_json:
        print_json(
            {
                "share": reached.share,
                "decided": sorted(reached.decided),
                "missing": reached.missing,
                "missing_and_required": reached.missing_and_required,
            }
        )
    else:
        for rule in reached.missing:
            place = found.written.places[rule]
            needed = "  a deny or an exception: a case is required" if rule in reached.missing_and_required else ""
            click.echo(f"{place.file}:{place.line}  {rule}{needed}")
        decided, all_ = len(reached.decided), len(reached.decided) + len(reached.missing)
        click.echo(f"{decided} of {all_} rules and exceptions decide a case ({reached.share:.0%})")
    raise SystemExit(1 if reached.missing_and_required else 0)


@click.command()
@click.option("--policies", type=click.Path(path_type=Path), help="The folder.  [env: TAGWARDEN_POLICIES_DIR]")
@click.option("--check", is_flag=True, help="Write nothing; exit 1 when a file has another form.")
def fmt(policies: Path | None, check: bool) -> None:
    """Write rules/*.yaml, exceptions.yaml and quotas.yaml in the one form that diffs well.

    An entry a paragraph, its keys in one order. Comments stay.
    """
    from enforcer.policy.documents import text_of
    from enforcer.policy.formatting import formatted

    folder = folder_of(policies)
    files = [*sorted(folder.glob("rules/*.yaml")), folder / "exceptions.yaml", folder / "quotas.yaml"]

    def changes() -> dict[Path, str]:
        found = {}
        for file in files:
            if file.exists():
                name = file.relative_to(folder).as_posix()
                before = text_of(file, name)
                if (after := formatted(before, name)) != before:
                    found[file] = after
        return found

    changed: dict[Path, str] = in_words(changes)
    for file, after in changed.items():
        if not check:
            in_words(lambda file=file, after=after: file.write_text(after, encoding="utf-8"))
        click.echo(f"{'would format' if check else 'formatted'} {file}")
    raise SystemExit(1 if check and changed else 0)


# --- lint -------------------------------------------------------------------------------------------------------------


def _findings(policies: Path | None, database: bool) -> "list[Finding]":
    from enforcer.policy.coverage import coverage as covered
    from enforcer.policy.lint import Finding, lint as found_in, owners_differ
    from enforcer.policy.rules import PolicyInvalid

    try:
        found = read(policies, database)
        outcomes = _decided(found)
    except PolicyInvalid as invalid:
        hint = "nothing of this policy goes live until it is mended"
        return [
            Finding("error", "invalid", f.message, hint, f.file or "", f.line or 1, f.about) for f in invalid.faults
        ]
    decided = covered(found.written.policy, outcomes).decided
    findings = found_in(found.written, found.tags, found.now, decided)
    codeowners = found.folder / "CODEOWNERS"
    if codeowners.exists():
        findings += owners_differ(found.written, codeowners.read_text(encoding="utf-8"))
    return findings


def _line(finding: "Finding") -> str:
    place = f"{finding.file}:{finding.line}: " if finding.file else ""
    return f"{place}{finding.severity}: {finding.message}; {finding.hint} [{finding.check}]"


def _annotation(folder: Path, finding: "Finding") -> str:
    """https://docs.github.com/actions/reference/workflow-commands-for-github-actions"""
    said = f"{finding.message}; {finding.hint}".replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    where = f"file={folder / finding.file},line={finding.line}".replace("%", "%25")
    return f"::{finding.severity} {where},title=policy {finding.check}::{said}"


# --- test -------------------------------------------------------------------------------------------------------------


def _outcomes(found: Opened) -> "list[Outcome]":
    outcomes: list[Outcome] = in_words(lambda: _decided(found))
    return outcomes


def _decided(found: Opened) -> "list[Outcome]":
    """Raises PolicyInvalid."""
    from enforcer.policy import cases

    return cases.run(cases.read(found.folder), found.gate(), found.now)


def _survivors(found: Opened) -> list[str]:
    from enforcer.policy import cases
    from enforcer.policy.coverage import survivors

    return survivors(found.written.policy, found.tags, cases.read(found.folder), found.now)


def _told(outcome: "Outcome") -> dict[str, Any]:
    case = outcome.case
    return {
        "file": outcome.place.file,
        "line": outcome.place.line,
        "says": case.says,
        "expected": {"decision": case.expect, "because": case.because},
        "got": {"decision": "allow" if outcome.decision.allowed else "deny", "because": outcome.by},
        "failure": outcome.failure,
    }


def _junit(outcomes: "Iterable[Outcome]") -> str:
    import re
    from xml.etree import ElementTree

    def plain(text: str) -> str:
        return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)

    outcomes = list(outcomes)
    failed = sum(outcome.failure is not None for outcome in outcomes)
    suite = ElementTree.Element("testsuite", name="policy", tests=str(len(outcomes)), failures=str(failed))
    for outcome in outcomes:
        file, line = outcome.place
        case = ElementTree.SubElement(
            suite, "testcase", classname=file, name=plain(outcome.case.says), file=file, line=str(line)
        )
        if outcome.failure:
            ElementTree.SubElement(case, "failure", message=plain(outcome.failure))
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
