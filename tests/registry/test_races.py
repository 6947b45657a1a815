"""Redemption is one statement: however many race, on either database, each ticket starts one run."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import Registry, ask, redeem, ticket_request

from enforcer.keys import SigningKey
from registry.settings import Settings

RACERS, TICKETS = 64, 4


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def books(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    url = request.getfixturevalue("postgresql") if request.param == "postgresql" else None
    return Registry(Settings(state_dir=tmp_path / "state", database_url=url))


def test_of_64_racing_redeemers_of_each_ticket_exactly_one_wins(books: Registry) -> None:
    keys = [SigningKey.generate() for _ in range(TICKETS)]
    wang = books.as_("wang", "trainers")
    grants = [ask(wang, ticket_request(jkt=key.thumbprint)).json() for key in keys]
    racing = [(grants[i % TICKETS], keys[i % TICKETS]) for i in range(RACERS * TICKETS)]

    with ThreadPoolExecutor(RACERS) as pool:
        replies = list(pool.map(lambda pair: (pair[0]["jti"], redeem(books, *pair).status_code), racing))

    assert Counter(replies) == {
        (grant["jti"], status): count for grant in grants for status, count in ((200, 1), (409, RACERS - 1))
    }
    mine = {grant["jti"] for grant in grants}
    for kind, count in (("ticket.redeemed", 1), ("redeem.refused", RACERS - 1)):
        events = Counter(event.ticket_id for event in books.events(kind) if event.ticket_id in mine)
        assert events == dict.fromkeys(mine, count)


def test_a_revocation_races_a_redemption_and_one_of_them_is_first(books: Registry) -> None:
    """Whoever is first, nothing hangs, and a run that started is told to stop."""
    wang = books.as_("wang", "trainers")
    for _ in range(8):
        key = SigningKey.generate()
        grant = ask(wang, ticket_request(jkt=key.thumbprint)).json()
        with ThreadPoolExecutor(3) as pool:
            redeemed = pool.submit(redeem, books, grant, key)
            path = f"/v1/tickets/{grant['jti']}:revoke"
            taken_back = pool.submit(wang.post, path, json={"reason": "wrong data"})
            cancelled = pool.submit(wang.post, f"/v1/runs/{grant['run_id']}:cancel")
        statuses = redeemed.result().status_code, taken_back.result().status_code, cancelled.result().status_code

        run = wang.get(f"/v1/runs/{grant['run_id']}").json()
        assert set(statuses) <= {200, 409}, statuses
        assert run["state"] == ("running" if statuses[0] == 200 else "interrupted")
