"""What there is to say of policy files before anybody proposes or publishes them: faults, findings, and tests."""

from collections.abc import Iterator, Mapping

from enforcer import wire
from enforcer.policy import cases, folder
from enforcer.policy.coverage import coverage
from enforcer.policy.lint import Finding, lint
from enforcer.policy.rules import Fault, PolicyInvalid
from enforcer.policy.snapshot import Snapshot
from registry import db

TESTS = "tests/"


def validate(files: Mapping[str, str], tags: Mapping[str, str | None]) -> wire.PolicyValidation:
    """Read, compile, lint and test a policy over this task-type tree. Whatever is wrong is part of the answer."""
    try:
        written = folder.written({name: text for name, text in files.items() if not name.startswith(TESTS)})
        gate = Snapshot(written.policy, tags)
        tests = [case for name in sorted(files) if name.startswith(TESTS) for case in cases.parsed(files[name], name)]
    except PolicyInvalid as invalid:
        return wire.PolicyValidation(
            valid=False, revision=None, tests=0, tests_failed=0, findings=[_fault(fault) for fault in invalid.faults]
        )
    outcomes = cases.run(tests, gate, db.utc_now())
    findings = [
        *_red(outcomes),
        *map(_finding, lint(written, tags, db.utc_now(), coverage(gate.policy, outcomes).decided)),
    ]
    return wire.PolicyValidation(
        valid=not any(finding.severity == "error" for finding in findings),
        revision=gate.revision,
        tests=len(outcomes),
        tests_failed=sum(outcome.failure is not None for outcome in outcomes),
        findings=findings[:500],
    )


def _red(outcomes: list[cases.Outcome]) -> Iterator[wire.PolicyFinding]:
    for outcome in outcomes:
        if outcome.failure is not None:
            yield wire.PolicyFinding(
                severity="error",
                check="test",
                message=f"{outcome.case.says}: {outcome.failure}",
                hint="the case says what must come out; change the rule, or the case",
                file=outcome.place.file,
                line=outcome.place.line,
                rule=None,
            )


def _fault(fault: Fault) -> wire.PolicyFinding:
    return wire.PolicyFinding(
        severity="error",
        check="invalid",
        message=fault.message,
        hint="the whole revision is refused until this is mended",
        file=fault.file,
        line=fault.line,
        rule=fault.about,
    )


def _finding(finding: Finding) -> wire.PolicyFinding:
    return wire.PolicyFinding.model_validate(finding)
