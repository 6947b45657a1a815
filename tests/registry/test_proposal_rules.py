"""Each rule of who agrees to what, as a short story; and each story fails where its rule is taken away."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import pytest
from mutants import mutant
from sqlalchemy.exc import SQLAlchemyError
from stewards import KNOWN, World, new_tag, new_version

from registry import approvals, delegations, glass, people, proposals, tag_changes, tags
from registry.tables import Proposal, Tag

TAG = new_tag("apple-sorting")
INCIDENT = {"incident": "INC-1", "reason": "it burns"}
Story = Callable[[World], None]


def opened(world: World, by: str = "ann", change: dict[str, Any] = TAG, **more: Any) -> Proposal:
    reply = world.propose(by, change, **more)
    assert reply.status_code == 201, reply.text
    return world.get(reply.json()["id"])


def refused(reply: httpx2.Response) -> Any:
    return reply.json().get("code", reply.json().get("state"))


def edited(world: World, proposal: Proposal, by: str) -> Proposal:
    path, headers = f"/v1/proposals/{proposal.id}", {"If-Match": "*"}
    assert world.clients[by].patch(path, json={"reason": "better"}, headers=headers).status_code == 200
    return world.get(proposal.id)


def known(world: World) -> None:
    """The task type whose next version is proposed."""
    proposal = opened(world, change=new_tag(KNOWN))
    for steward in ("sam", "sue"):
        assert world.review(steward, proposal).status_code == 201


def nobody_approves_their_own(world: World) -> None:
    assert refused(world.review("sue", opened(world, "sue"))) == "self-approval"


def nobody_approves_what_they_edited(world: World) -> None:
    assert refused(world.review("sue", edited(world, opened(world), "sue"))) == "contributor-approval"


def a_review_is_for_what_was_seen(world: World) -> None:
    proposal = opened(world)
    proposal.digest = "sha256:" + "0" * 64
    assert refused(world.review("sam", proposal)) == "stale-review"


def an_edit_voids_approvals(world: World) -> None:
    proposal = opened(world)
    world.review("sam", proposal)
    assert refused(world.review("sid", edited(world, proposal, "ann"))) == "open"


def everybody_reviews_once(world: World) -> None:
    proposal = opened(world)
    world.review("sam", proposal)
    assert refused(world.review("sam", proposal)) == "already-reviewed"


def a_delegate_is_not_counted_twice(world: World) -> None:
    proposal = opened(world)
    world.delegate("sam", "dan")
    assert refused(world.review("dan", proposal, on_behalf_of="user:sam")) == "open"
    assert refused(world.review("sam", proposal)) == "already-reviewed"


def nor_would_they_count_if_they_had_reviewed(world: World) -> None:
    """Were a second review taken in, by an error or a race, it would not make a quorum."""
    with mutant(proposals, "_refuse_reviewer", "{given.reviewer, given.on_behalf_of}", "set()"):
        proposal = opened(world)
        world.delegate("sam", "dan")
        world.review("dan", proposal, on_behalf_of="user:sam")
        world.review("sam", proposal)
    assert world.get(proposal.id).state == "open"


def who_lost_the_group_counts_no_longer(world: World) -> None:
    proposal = opened(world)
    world.review("sam", proposal)
    world.lose("sam")
    assert refused(world.review("sue", proposal)) == "approval-lost"


def who_is_shut_out_counts_no_longer(world: World) -> None:
    proposal = opened(world)
    world.review("sam", proposal)
    world.shut("sam")
    assert refused(world.review("sue", proposal)) == "approval-lost"


def a_delegation_ends_by_the_clock(world: World) -> None:
    proposal = opened(world)
    world.delegate("sam", "dan", days=1)
    world.review("dan", proposal, on_behalf_of="user:sam")
    world.ahead += timedelta(days=2)
    assert refused(world.review("sue", proposal)) == "approval-lost"


def nobody_delegates_what_they_may_not(world: World) -> None:
    """Whoever answers for the policy may delegate, but agrees to no task type."""
    world.groups["dan"] = ("security",)
    world.sign_in("dan")
    assert refused(world.delegate("dan", "sam")) == "not-permitted"


def what_is_decided_stays_decided(world: World) -> None:
    proposal = opened(world)
    world.review("sam", proposal, "reject")
    assert refused(world.review("sue", proposal)) == "already-decided"


def time_to_agree_ends(world: World) -> None:
    proposal = opened(world)
    world.ahead += timedelta(days=15)
    assert refused(world.review("sam", proposal)) == "proposal-expired"


def what_nobody_ratified_is_undone(world: World) -> None:
    known(world)
    before = in_force(world)
    opened(world, "sid", new_version(1), break_glass=INCIDENT)
    assert in_force(world) != before
    world.ahead += timedelta(hours=72)
    world.tend()
    assert in_force(world) == before


def what_came_after_is_not_overwritten(world: World) -> None:
    """Were another version taken in, by an error or a race, it would stay."""
    known(world)
    opened(world, "sid", new_version(1), break_glass=INCIDENT)
    with mutant(glass, "refuse_beside", "if earlier is not None:", "if False:"):
        after = opened(world, change=new_version(2))
        for steward in ("sam", "sue"):
            world.review(steward, after)
    agreed = in_force(world)
    world.ahead += timedelta(hours=72)
    world.tend()
    assert in_force(world) == agreed == after.result["profile"]


def nothing_comes_to_stand_on_what_is_provisional(world: World) -> None:
    known(world)
    opened(world, "sid", new_version(1), break_glass=INCIDENT)
    assert refused(world.propose("ann", new_version(2))) == "break-glass-refused"


def what_was_open_before_does_not_take_effect_beside_it(world: World) -> None:
    known(world)
    alias = {"kind": "alias", "tag": KNOWN, "alias": "chat-mood"}
    proposal = opened(world, change=alias)
    opened(world, "sid", new_version(1), break_glass=INCIDENT)
    told = [refused(world.review(steward, proposal)) for steward in ("sam", "sue")]
    assert told[-1] == "break-glass-refused"


def people_end_nothing_that_was_not_undone(world: World) -> None:
    known(world)
    proposal = opened(world, "sid", new_version(1), break_glass=INCIDENT)
    with mutant(tag_changes, "revert", "if tag.version != proposal.version:", "if True:"):
        assert refused(world.review("sam", proposal, "reject")) == "stale-base"
    assert world.get(proposal.id).state == "open"


def the_mode_comes_back_with_the_version(world: World) -> None:
    known(world)
    before = mode(world)
    opened(world, "sid", new_version(1, compatibility="BACKWARD"), break_glass=INCIDENT)
    assert mode(world) != before
    world.ahead += timedelta(hours=72)
    world.tend()
    assert mode(world) == before


def what_was_made_from_what_was_there_before_is_over(world: World) -> None:
    known(world)
    rival = opened(world, change=new_version(2))
    broken = opened(world, "sid", new_version(1), break_glass=INCIDENT)
    world.ahead += timedelta(hours=72)
    with mutant(tag_changes, "revert", "if tag.version != proposal.version:", "if True:"):
        world.tend()
    assert world.get(broken.id).provisional == "not-reverted"
    assert world.get(rival.id).state == "superseded"


def what_was_made_from_what_comes_back_goes_on(world: World) -> None:
    known(world)
    waiting = opened(world, change=new_version(2))
    broken = opened(world, "sid", new_version(1), break_glass=INCIDENT)
    world.review("sam", broken, "reject")
    for steward in ("sam", "sue"):
        world.review(steward, waiting)
    assert world.get(waiting.id).state == "applied"


def the_glass_is_not_broken_again(world: World) -> None:
    known(world)
    opened(world, "sid", new_version(1), break_glass=INCIDENT)
    world.ahead += timedelta(hours=72)
    world.tend()
    assert refused(world.propose("sid", new_version(1), break_glass=INCIDENT)) == "break-glass-refused"


def mode(world: World) -> str:
    with world.registry.books.reading() as session:
        return session.get_one(Tag, KNOWN).compatibility


def in_force(world: World) -> dict[str, Any]:
    with world.registry.books.reading() as session:
        return tags.version(session, KNOWN).profile


Mutant = tuple[Story, ModuleType, str, str, str]
MUTANTS: list[Mutant] = [
    (nobody_approves_their_own, proposals, "_refuse_reviewer", "if proposal.author == one.id:", "if False:"),
    (nobody_approves_what_they_edited, proposals, "_refuse_reviewer", "if one.id in asked.excluded:", "if False:"),
    (nobody_approves_what_they_edited, approvals, "excluded", "*others", "*[]"),
    (a_review_is_for_what_was_seen, proposals, "review", "if verdict.digest != proposal.digest:", "if False:"),
    (an_edit_voids_approvals, approvals, "approvals", "review.round == proposal.round and", ""),
    (everybody_reviews_once, proposals, "_refuse_reviewer", "{given.reviewer, given.on_behalf_of}", "set()"),
    (a_delegate_is_not_counted_twice, proposals, "_refuse_reviewer", ", given.on_behalf_of}", "}"),
    (nor_would_they_count_if_they_had_reviewed, approvals, "count", "elif any(", "elif False and any("),
    (who_lost_the_group_counts_no_longer, proposals, "refuse_lost", "if gone:", "if False:"),
    (who_is_shut_out_counts_no_longer, people, "now", "if session.get(Principal, who) is not None:", "if False:"),
    (a_delegation_ends_by_the_clock, delegations, "why_over", "if row.not_after <= db.utc_now():", "if False:"),
    (nobody_delegates_what_they_may_not, delegations, "_refuse_unfit", "if not _may(", "if False and not _may("),
    (what_is_decided_stays_decided, proposals, "_refuse_unless", "if proposal.state not in states:", "if False:"),
    (time_to_agree_ends, proposals, "_refuse_late", 'if proposal.state == "open" and', "if False and"),
    (
        what_nobody_ratified_is_undone,
        proposals,
        "turn",
        "undone = proposal.provisional == glass.IN_EFFECT",
        "undone = False",
    ),
    (what_nobody_ratified_is_undone, glass, "undo", "kind.revert(session, proposal, by)", "pass"),
    (what_came_after_is_not_overwritten, tag_changes, "revert", "if tag.version != proposal.version:", "if False:"),
    (the_glass_is_not_broken_again, glass, "refuse_unfit", "if earlier.provisional != RATIFIED", "if False"),
    (nothing_comes_to_stand_on_what_is_provisional, glass, "refuse_beside", "if earlier is not None:", "if False:"),
    (what_was_open_before_does_not_take_effect_beside_it, proposals, "apply", "glass.refuse_beside(", "str("),
    (people_end_nothing_that_was_not_undone, glass, "undo", "if not or_alarm:", "if False:"),
    (
        the_mode_comes_back_with_the_version,
        tag_changes,
        "revert",
        'Compatibility(proposal.base["compatibility"])',
        "None",
    ),
    (
        what_was_made_from_what_was_there_before_is_over,
        proposals,
        "turn",
        "if undone:\n        _super",
        "if 0:\n        _super",
    ),
    (what_was_made_from_what_comes_back_goes_on, proposals, "_another", 'if name != "version"', "if True"),
]
STORIES = list(dict.fromkeys(story for story, *_ in MUTANTS))


def tell(story: Story, root: Path) -> None:
    world = World(root / "world")
    try:
        story(world)
    finally:
        world.close()


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_the_story_holds(story: Story, tmp_path: Path) -> None:
    tell(story, tmp_path)


@pytest.mark.parametrize("one", MUTANTS, ids=lambda one: f"{one[0].__name__}-{one[2]}")
def test_the_story_fails_without_its_rule(one: Mutant, tmp_path: Path) -> None:
    story, module, name, old, new = one

    with mutant(module, name, old, new), pytest.raises((AssertionError, SQLAlchemyError)):
        tell(story, tmp_path)
