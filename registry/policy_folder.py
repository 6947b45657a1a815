"""The policy folder as the place where the policy is changed (`policy_source=folder`), a Git checkout as a rule.

What the folder says is published when it changes, with the exceptions that were granted here and have not ended yet.
- A folder that cannot go live changes nothing: the last good revision stays, and the refusal is on record once.
- A folder that says what was superseded is not published by a process that comes with it: an old container that starts
  again must not bring back the policy of its day. A process that had the newest and sees it go back (a revert) does
  publish it, and so does `tagwarden policy publish`.
"""

import hashlib
import logging
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlmodel import Session, col, select

from enforcer.policy import folder
from enforcer.policy.exceptions import PolicyException
from enforcer.policy.revision import Policy
from enforcer.policy.rules import PolicyInvalid
from enforcer.problems import PolicyUnchanged
from registry import audit, db, policies
from registry.books import whom_to_believe
from registry.settings import Settings
from registry.tables import Event, PolicyPublication, PolicyRevision

log = logging.getLogger(__name__)
OPERATOR = "system:operator"  # whoever can write the folder
Look = tuple[tuple[str, int, int], ...]


class Watcher:
    """Looks at the folder now and then, and takes it when it changed and stands still."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine, self._settings = engine, settings
        self._said: str | None = None
        self._seen = look_at(settings.policies_dir)
        self._taken: Look | None = None  # it may have changed since the start, so the first look takes it again

    def look(self) -> None:
        """A folder that is being written differs from one look to the next: it is taken at the second that agrees."""
        seen, before = look_at(self._settings.policies_dir), self._seen
        self._seen = seen
        if seen == before and seen != self._taken:
            self._said = take(self._engine, self._settings, self._said) or self._said
            self._taken = seen


def publish(engine: Engine, settings: Settings, *, said_before: str | None = None, force: bool = False) -> str:
    """Publish what the folder says, where that is news; returns the revision that it says.

    `said_before` is what it said when this process read it last. With `force` it is news whatever was there before.

    Raises:
        PolicyInvalid: it cannot go live.
        PolicyUnchanged: it was forced, and is live.
    """
    policy = folder.load(settings.policies_dir)
    whom_to_believe(settings, policy.directory)
    with db.writing(engine) as session:
        db.queue_for(session, "policy")
        if force or _is_news(session, policy, said_before):
            _publish(session, policy, settings.policies_dir)
    return policy.revision


def take(engine: Engine, settings: Settings, said_before: str | None = None) -> str | None:
    """The same for a folder that may say anything: None where it cannot go live, which is on record.

    Raises:
        PolicyInvalid: it cannot go live, and there is no policy yet.
    """
    try:
        return publish(engine, settings, said_before=said_before)
    except PolicyInvalid as error:
        with db.writing(engine) as session:
            if policies.seen(session) == 0:
                raise
            _refuse(session, settings.policies_dir, error)
        return None


def take_at_start(engine: Engine, settings: Settings) -> None:
    """A registry without a policy gets the folder's, whatever the source; else only a folder that is the source counts.

    Raises:
        PolicyInvalid: it cannot go live, and there is no policy yet.
    """
    with db.reading(engine) as session:
        empty = policies.seen(session) == 0
    if empty or settings.policy_source == "folder":
        take(engine, settings)


def look_at(where: Path) -> Look:
    """Names, times and sizes of what a revision is made of: cheap enough for every second."""
    files = sorted([where / "model.conf", *where.glob("*.yaml"), *where.glob("rules/*.yaml")])
    stats = [(file, file.stat()) for file in files if file.exists()]
    return tuple((file.as_posix(), stat.st_mtime_ns, stat.st_size) for file, stat in stats)


def author_of(where: Path) -> str:
    """`git:<commit>` where the folder is as a commit has it; else whoever can write it."""
    commit = _git(where, "rev-parse", "--verify", "HEAD")
    # Not a folder that merely lies inside somebody's working tree, like an installed package.
    tracked = _git(where, "ls-files", "--error-unmatch", "model.conf", "directory.yaml")
    changes = _git(where, "status", "--porcelain", "--", ".")
    return f"git:{commit}" if commit and tracked and changes == "" else OPERATOR


def _is_news(session: Session, policy: Policy, said_before: str | None) -> bool:
    newest = _newest(session)
    if newest is None:
        return True
    if newest.folder == policy.revision:  # unless proposals changed more than exceptions since, which the folder undoes
        return not _same_but_for_exceptions(session, policies.live_revision(session), policy.revision)
    if newest.folder == said_before:
        return True
    ever = select(PolicyPublication.version).where(PolicyPublication.folder == policy.revision)
    if session.exec(ever.limit(1)).first() is None:
        return True
    log.warning(
        "the policy folder says revision %s, which was superseded, and is left alone; if it is to be live again: "
        "`tagwarden policy publish`",
        policy.revision,
    )
    return False


def with_what_was_granted_here(session: Session, policy: Policy) -> tuple[Policy, list[str]]:
    """With the exceptions of the live policy that no folder said, as far as they have a place in this one; and the ids
    of those that have none, because what they lifted, or somebody they name, is gone."""
    complete, dropped = policy, []
    for exception in _granted_here(session, policy):
        try:
            complete = complete.with_exceptions([*complete.exceptions, exception])
        except PolicyInvalid as error:
            log.warning("exception `%s` ends, since it has no place in the new policy: %s", exception.id, error)
            dropped.append(exception.id)
    return complete, dropped


def _publish(session: Session, policy: Policy, where: Path) -> None:
    complete, dropped = with_what_was_granted_here(session, policy)
    newest = _newest(session)
    if newest and newest.folder == policy.revision and policies.live_revision(session) == complete.revision:
        raise PolicyUnchanged(f"revision `{complete.revision[:19]}` is live already")
    policies.publish(
        session,
        complete,
        source="folder",
        author=author_of(where),
        approver=None,
        seen=policies.seen(session),
        folder=policy,
        by=policies.SYSTEM,
        detail={"dropped_exceptions": dropped} if dropped else {},
    )


def _granted_here(session: Session, policy: Policy) -> Sequence[PolicyException]:
    """Exceptions of the live policy that did not come from a folder, nor are in this one, and have not ended."""
    newest = _newest(session)
    if newest is None:
        return ()
    was, live = (_exceptions(session, one) for one in (newest.folder, policies.live_revision(session)))
    not_ours = {exception["id"] for exception in was} | {exception.id for exception in policy.exceptions}
    found = [PolicyException.model_validate(said) for said in live if said["id"] not in not_ours]
    return [exception for exception in found if exception.until > db.utc_now()]


def _newest(session: Session) -> PolicyPublication | None:
    """The last that came from a folder."""
    query = select(PolicyPublication).where(PolicyPublication.source == "folder")
    return session.exec(query.order_by(col(PolicyPublication.version).desc()).limit(1)).first()


def _exceptions(session: Session, revision: str | None) -> list[dict[str, Any]]:
    row = session.get(PolicyRevision, revision)
    return row.exceptions if row else []


def _same_but_for_exceptions(session: Session, one: str, other: str) -> bool:
    rows = [session.get(PolicyRevision, revision) for revision in (one, other)]
    parts = [row and (row.model, row.directory, row.rule_set, row.quotas, row.approvals) for row in rows]
    return parts[0] == parts[1]


def _refuse(session: Session, where: Path, error: PolicyInvalid) -> None:
    """On record once for what the folder holds, however often it is looked at, and by however many."""
    try:
        files = folder.files_of(where)
    except PolicyInvalid as unreadable:
        files = {"": str(unreadable)}
    content = hashlib.sha256("\0".join(part for file in sorted(files.items()) for part in file).encode()).hexdigest()
    digest = f"sha256:{content}"
    log.critical("the policy folder cannot go live, the last good revision stays: %s", error)
    same = select(Event.id).where(Event.kind == "policy.refused", Event.digest == digest)
    if session.exec(same.limit(1)).first() is None:
        reason = str(error)[:1_000]
        audit.record(session, "policy.refused", policies.SYSTEM, outcome="refused", reason=reason, digest=digest)


def _git(where: Path, *arguments: str) -> str | None:
    try:
        # A repository's own configuration may name programs to run (core.fsmonitor); we only want to look.
        command = ["git", "-C", str(where), "-c", "core.fsmonitor=false", "--no-optional-locks", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
