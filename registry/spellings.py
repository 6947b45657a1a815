"""What names mean: one index over tags, aliases and reserved words (`tables.KnownName`), and what is left.

The index that a new name is held against is built once for each state of the books, which `Stamp.names` tells apart: it
is another random word after each change, also of one that is rolled back, so what was built is right for whoever reads
the same word, in whichever transaction or database.
"""

import threading
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from sqlmodel import Session, col, select

from enforcer import names, wire
from enforcer.canonical import dumps
from enforcer.policy.rules import PolicyInvalid
from enforcer.problems import NameInvalid, NameIsVariant, NameNeedsReason
from enforcer.runspec import digest
from registry import audit, db
from registry.identity import Actor
from registry.tables import KnownName, NameRules, Stamp

MOST_KEPT = 4  # indexes: of the live books, and of what transactions made of them that are still open

_kept: dict[str, names.KnownNames] = {}
_building = threading.Lock()


def known(session: Session) -> names.KnownNames:
    """All that is known of names, as this session sees it."""
    stamp = session.exec(select(Stamp.names)).one()  # before what it stands for, which then is no older
    found = _kept.get(stamp)
    if found is None:
        with _building:  # whoever waits would build the same
            found = _kept.get(stamp) or _build(session)
            _kept[stamp] = found
            while len(_kept) > MOST_KEPT:
                del _kept[next(iter(_kept))]
    return found


def _build(session: Session) -> names.KnownNames:
    """From what was built last, where nothing was taken away since: adding a name to ten thousand is quick, and reading
    them all again is not."""
    rules = current_rules(session)
    read = session.exec(select(KnownName.spelling, KnownName.tag, KnownName.reason, KnownName.until))
    now_known = {text: names.Spelling(text, tag, reason or "", until) for text, tag, reason, until in read}
    for before in reversed(_kept.values()):
        more = [one for text, one in now_known.items() if before.spellings.get(text) != one]
        if before.rules == rules and len(before.spellings) + len(more) == len(now_known):
            return before.plus(more)
    return names.KnownNames.of(rules, now_known.values())


def check(
    session: Session,
    name: str,
    *,
    parent: str | None = None,
    distinct_from: Iterable[wire.DistinctFrom] = (),
    aside: str | None = None,
) -> names.NameVerdict:
    """What the rules say of a new name, or said before the tag `aside` was there."""
    said = {one.tag: one.because for one in distinct_from}
    all_names = known(session)
    if aside is not None and aside in all_names.spellings:
        others = (one for one in all_names.spellings.values() if one.tag != aside)
        all_names = names.KnownNames.of(all_names.rules, others)
    return names.check_name(name, all_names, now=db.utc_now(), parent=parent, distinct_from=said)


def refuse_bad_name(
    session: Session,
    name: str,
    aliases: Iterable[str] = (),
    *,
    parent: str | None = None,
    distinct_from: Iterable[wire.DistinctFrom] = (),
) -> list[names.Match]:
    """Rule on a new tag and its aliases. Returns what comes near and was answered for, which reviewers should see.

    Raises:
        NameInvalid: breaks the grammar, is reserved or noise, or stands twice.
        NameIsVariant: says what an existing tag says.
        NameNeedsReason: extends an existing tag, and says nothing of what it has to do with it.
    """
    spellings = [name, *aliases]
    if len(set(spellings)) != len(spellings):
        raise NameInvalid(f"`{name}`: a name or alias stands twice; name each once")
    near = _refuse(check(session, name, parent=parent, distinct_from=distinct_from))
    for alias in spellings[1:]:
        near += _refuse(check(session, alias, parent=parent, distinct_from=distinct_from), alias_of=name)
    return near


def refuse_bad_alias(
    session: Session, alias: str, tag: str, distinct_from: Iterable[wire.DistinctFrom] = ()
) -> list[names.Match]:
    """Rule on a new alias of a tag that exists. Returns and raises as `refuse_bad_name`."""
    return _refuse(check(session, alias, parent=tag, distinct_from=distinct_from), alias_of=tag)


def _refuse(verdict: names.NameVerdict, *, alias_of: str | None = None) -> list[names.Match]:
    """An alias exists to catch odd spellings of its own tag, so coming near that, or being noisy, is no reason against
    it; having a meaning already is."""
    near = [match for match in verdict.matches if match.verdict is names.Verdict.OK]
    against = [match for match in verdict.matches if match.verdict is not names.Verdict.OK]
    if alias_of is not None:
        own = {match for match in against if match.tag == alias_of and match.rule not in ("exists", "alias")}
        against = [m for m in against if m not in own and not (m.rule == "noise" and m.tag is None)]
    if not against:
        return near
    sentence = f"`{verdict.name}`: " + "; ".join(match.evidence for match in against)
    detail: dict[str, Any] = {
        "suggestion": verdict.suggestion,
        "matches": as_evidence(against),
    }
    rules = {match.rule for match in against}
    if rules == {"extends"}:
        raise NameNeedsReason(f"{sentence}. Name it as `parent`, or say in `distinct_from` why it is another", **detail)
    advice = f"; use `{verdict.suggestion}`" if verdict.suggestion else ""
    if rules <= {"typo", "extends"}:
        advice += ", or say in `distinct_from` why it is another"
    raise (NameIsVariant if any(m.tag for m in against) else NameInvalid)(sentence + advice, **detail)


def as_evidence(near: Iterable[names.Match]) -> list[dict[str, Any]]:
    """As a proposal keeps it and shows it to reviewers (`wire.NameMatch`)."""
    return [{"rule": match.rule, "evidence": match.evidence, "tag": match.tag} for match in near]


# --- what changes the index -------------------------------------------------------------------------------------------


def release_what_ended(session: Session, spelling: str, now: datetime) -> None:
    """A reservation whose end has passed makes room. Whoever reserves for longer proposes that in time."""
    row = session.get(KnownName, spelling)
    if row is not None and row.kind == "reserved" and row.until is not None and row.until <= now:
        session.delete(row)
        session.flush()


def add_alias(session: Session, alias: str, tag: str) -> None:
    release_what_ended(session, alias, db.utc_now())
    session.add(KnownName(spelling=alias, kind="alias", tag=tag))
    session.flush()


def aliases_of(session: Session, tag: str) -> list[str]:
    own = select(KnownName.spelling).where(KnownName.tag == tag, KnownName.kind == "alias")
    return list(session.exec(own.order_by(col(KnownName.spelling))))


def reserve(session: Session, word: str, reason: str, until: datetime | None) -> None:
    """In the place of an earlier reservation, if there is one."""
    release(session, word)
    session.add(KnownName(spelling=word, kind="reserved", reason=reason, until=until))
    session.flush()


def release(session: Session, word: str) -> None:
    row = session.get(KnownName, word)
    if row is not None:
        session.delete(row)  # the database refuses where it is more than reserved
        session.flush()


# --- the words that the check goes by ---------------------------------------------------------------------------------


def current_rules(session: Session) -> names.NameRules:
    newest = select(NameRules.rules).order_by(col(NameRules.number).desc()).limit(1)
    return names.NameRules.model_validate(session.exec(newest).first() or {"owner": "nobody"})


def load_rules(folder: Path) -> names.NameRules:
    """Raises `PolicyInvalid`: `names.yaml` is missing, or says something that cannot be."""
    file = folder / "names.yaml"
    try:
        return names.NameRules.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise PolicyInvalid(f"{file.name}: {error}") from error


def publish_rules(session: Session, folder: Path, by: Actor) -> bool:
    """Take over `names.yaml`, where it says something new; whether it did. Words that stand in `reserved` for the first
    time are reserved, unless they have a meaning; what is released later by proposal stays released.

    Raises:
        PolicyInvalid: it cannot be used.
    """
    rules = load_rules(folder)
    document = rules.model_dump(mode="json")
    for words in ("noise", "never_first", "soft_noise"):
        document[words].sort()
    newest = session.exec(select(NameRules).order_by(col(NameRules.number).desc()).limit(1)).first()
    as_digest = digest(dumps(document))
    if newest is not None and newest.digest == as_digest:
        return False
    number = newest.number + 1 if newest else 1
    session.add(NameRules(number=number, digest=as_digest, rules=document, published_at=db.utc_now()))
    before: Mapping[str, Any] = newest.rules["reserved"] if newest else {}
    for word, reserved in sorted(rules.reserved.items()):
        if word not in before and session.get(KnownName, word) is None:
            session.add(KnownName(spelling=word, kind="reserved", reason=reserved.reason, until=reserved.ends_at))
    session.flush()
    audit.record(session, "tag.name-rules-published", by, detail={"digest": as_digest})
    return True
