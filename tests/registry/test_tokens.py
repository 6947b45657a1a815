"""API tokens that people make for themselves, scopes, and who is shut out."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Registry, ask, ticket_request
from sqlmodel import select

from enforcer.policy.rules import ACTIONS, PolicyInvalid
from enforcer.problems import Invalid
from registry import db, identity
from registry.cli import main
from registry.settings import Settings
from registry.tables import ApiToken


def with_token(registry: Registry, token: str) -> Any:
    return registry.anonymous(headers={"Authorization": f"Bearer {token}"})


def scoped(registry: Registry, *scopes: str, groups: tuple[str, ...] = ("nlp",), hours: float = 1) -> Any:
    with db.writing(registry.books.engine) as session:
        token = identity.create_token(
            session, "wang", groups, "retail", life=timedelta(hours=hours), now=db.utc_now(), scopes=scopes
        )
    return with_token(registry, token)


def test_a_token_of_ones_own_works_is_listed_and_ends(registry: Registry) -> None:
    wang = registry.as_("wang", "nlp")

    made = wang.post("/v1/tokens", json={"scopes": ["submit"], "life_s": 3600})

    assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
    mine = with_token(registry, made.json()["token"])
    assert ask(mine, ticket_request()).status_code == 201
    listed = {row["id"]: row for row in wang.get("/v1/tokens").json()["items"]}
    assert (listed[made.json()["id"]]["scopes"], "token" in listed[made.json()["id"]]) == (["submit"], False)
    assert wang.delete(f"/v1/tokens/{made.json()['id']}").status_code == 204
    assert mine.get("/v1/tags").status_code == 401
    kinds = [event.kind for event in registry.events() if event.kind.startswith("token.")]
    assert kinds == ["token.created", "token.revoked"]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"scopes": ["submit", "approve"]}, "scope `approve`"),
        ({"scopes": ["*"]}, r"scope `*`"),
        ({"scopes": ["submit"], "groups": ["platform-admins"]}, "group `platform-admins`"),
        ({"scopes": ["submit"], "life_s": 86_400}, "ends with the credential that asks"),
    ],
)
def test_a_token_never_gets_more_than_the_one_that_asks(registry: Registry, asked: dict[str, Any], says: str) -> None:
    reply = scoped(registry, "submit", "run-read").post("/v1/tokens", json=asked)

    assert (reply.status_code, reply.json()["code"]) == (403, "not-permitted")
    assert says in reply.json()["detail"]
    assert len(registry.events("token.create.refused")) == 1


def test_left_open_a_token_gets_what_the_one_that_asks_has_and_no_day_longer(registry: Registry) -> None:
    made = scoped(registry, "submit", hours=2).post("/v1/tokens", json={"scopes": ["submit"]}).json()

    life = datetime.fromisoformat(made["expires_at"]) - datetime.fromisoformat(made["created_at"])
    assert made["groups"] == ["nlp"]
    assert timedelta(hours=1, minutes=55) < life <= timedelta(hours=2)


@pytest.mark.parametrize("asked", [{}, {"scopes": ["sumbit"]}, {"scopes": ["submit"], "life_s": 5}, {"scopes": "*"}])
def test_what_is_no_request_for_a_token_is_refused(registry: Registry, asked: dict[str, Any]) -> None:
    assert registry.as_("wang", "nlp").post("/v1/tokens", json=asked).status_code == 422


def test_nobody_ends_or_sees_a_token_of_somebody_else(registry: Registry) -> None:
    li = registry.as_("li", "nlp").post("/v1/tokens", json={"scopes": ["*"]}).json()
    wang = registry.as_("wang", "platform-admins")

    assert li["id"] not in {row["id"] for row in wang.get("/v1/tokens").json()["items"]}
    assert (wang.delete(f"/v1/tokens/{li['id']}").status_code, wang.delete("/v1/tokens/none").status_code) == (404, 404)
    assert with_token(registry, li["token"]).get("/v1/tags").status_code == 200


@pytest.mark.parametrize("scopes", [("run-read",), ()])
def test_scopes_take_away_what_the_groups_would_allow(registry: Registry, scopes: tuple[str, ...]) -> None:
    refused = ask(scoped(registry, *scopes), ticket_request())

    assert (refused.status_code, refused.json()["reason_code"]) == (403, "not-in-scope")


def test_scopes_give_nothing_that_the_groups_do_not(registry: Registry) -> None:
    everything = scoped(registry, *ACTIONS, groups=("search-ml",))

    assert ask(everything, ticket_request("dpo", arguments={})).status_code == 403


def test_can_i_knows_scopes(registry: Registry) -> None:
    asked = {"resource": {"type": "task-type", "id": "dpo"}, "action": {"name": "submit"}}

    answer = scoped(registry, "run-read").post("/access/v1/evaluation", json=asked).json()

    assert (answer["decision"], answer["context"]["reason"]) == (False, "not-in-scope")


def test_the_use_of_a_token_is_noted_once_a_minute(registry: Registry) -> None:
    client, engine = registry.as_("wang", "nlp"), registry.books.engine

    def last_used() -> Any:
        with db.reading(engine) as session:
            return session.exec(select(ApiToken.last_used_at).where(ApiToken.actor == "user:wang")).one()

    unused = last_used()
    client.get("/v1/tags")
    first = last_used()
    client.get("/v1/tags")
    second = last_used()
    with db.writing(engine) as session:
        session.exec(select(ApiToken).where(ApiToken.actor == "user:wang")).one().last_used_at = first - timedelta(
            seconds=61
        )
    client.get("/v1/tags")

    assert (unused, second) == (None, first)
    assert last_used() > first


@pytest.mark.parametrize(
    "user", ["group:nlp", "ci:nightly", "workload:x", "user:", "user:a:b:c", "Li", "user:corp:a/b"]
)
def test_a_token_is_never_for_what_could_pass_as_something_else(registry: Registry, user: str) -> None:
    with pytest.raises(Invalid, match="not a user name"), db.writing(registry.books.engine) as session:
        identity.create_token(session, user, [], "retail", life=timedelta(hours=1), now=db.utc_now())


@pytest.mark.parametrize("user", ["li", "user:corp:248289761001", "service:nightly", "user:corp:~0123abcd"])
def test_a_token_is_for_a_name_or_a_whole_id(registry: Registry, user: str) -> None:
    me = with_token(registry, registry.token(user)).get("/v1/me").json()

    assert me["id"] == (user if ":" in user else f"user:{user}")


# --- who is shut out --------------------------------------------------------------------------------------------------


def disable(client: Any, who: str, verb: str = "disable") -> Any:
    headers = {"If-Match": "*"}
    return client.post(f"/v1/principals/{who}:{verb}", json={"reason": "left the company"}, headers=headers)


def test_a_disabled_principal_gets_nowhere_with_the_next_request_and_it_is_on_record(registry: Registry) -> None:
    wang, admin = registry.as_("wang", "nlp"), registry.as_("boss", "platform-admins")
    assert wang.get("/v1/tags").status_code == 200

    reply = disable(admin, "user:wang")

    refused = wang.get("/v1/tags")
    assert (reply.json()["enabled"], reply.json()["disabled_by"]) == (False, "user:boss")
    assert (refused.status_code, refused.json()["code"]) == (403, "principal-disabled")
    done, attempt = registry.events("principal.disabled", "sign-in.refused")
    assert (done.actor, done.rule, done.reason) == ("user:boss", "platform-deactivates", "left the company")
    assert (attempt.actor, attempt.detail["problem"]) == ("user:wang", "principal-disabled")
    assert with_token(registry, registry.token("wang", "nlp")).get("/v1/tags").status_code == 403  # a new token, too


def test_an_enabled_principal_is_back_and_nothing_is_forgotten(registry: Registry) -> None:
    wang, admin = registry.as_("wang", "nlp"), registry.as_("boss", "platform-admins")
    disable(admin, "user:wang")

    reply = disable(admin, "user:wang", "enable")

    assert (reply.json()["enabled"], wang.get("/v1/tags").status_code) == (True, 200)
    kinds = [event.kind for event in registry.events("principal.disabled", "principal.enabled")]
    assert kinds == ["principal.disabled", "principal.enabled"]


def test_doing_it_twice_changes_nothing(registry: Registry) -> None:
    admin = registry.as_("boss", "platform-admins")

    replies = [disable(admin, "user:wang").json() for _ in range(2)]
    again = [disable(admin, "user:wang", "enable").status_code for _ in range(2)]

    assert (replies[0], again) == (replies[1], [200, 200])
    assert len(registry.events("principal.disabled", "principal.enabled")) == 2


def test_only_platform_admins_shut_people_out_and_never_themselves(registry: Registry) -> None:
    by_steward = disable(registry.as_("sun", "tag-stewards"), "user:wang")
    themselves = disable(registry.as_("boss", "platform-admins"), "user:boss")

    assert [reply.status_code for reply in (by_steward, themselves)] == [403, 403]
    refused = registry.events("deactivate.refused")
    assert [(event.actor, event.detail["principal"]) for event in refused] == [
        ("user:sun", "user:wang"),
        ("user:boss", "user:boss"),
    ]


@pytest.mark.parametrize("who", ["wang", "group:nlp", "system:seed", "user:", "user:a%20b"])
def test_what_is_no_principal_is_not_disabled(registry: Registry, who: str) -> None:
    assert disable(registry.as_("boss", "platform-admins"), who).status_code == 422


def test_an_operator_shuts_somebody_out_beside_the_database(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TAGWARDEN_STATE_DIR", str(registry.settings.state_dir))
    wang = registry.as_("wang", "nlp")

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["principal", *arguments])
        assert ended.value.code == 0
        return capsys.readouterr().out

    run("disable", "user:wang", "--reason", "a laptop was stolen")
    refused, listed = wang.get("/v1/tags").status_code, run("list")
    run("enable", "user:wang", "--reason", "it was found")

    assert (refused, wang.get("/v1/tags").status_code) == (403, 200)
    assert "user:wang" in listed
    assert "by system:operator  a laptop was stolen" in listed
    assert run("list") == ""


def test_a_scoped_token_from_the_command_line(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TAGWARDEN_STATE_DIR", str(registry.settings.state_dir))
    with pytest.raises(SystemExit):
        main(["token", "create", "wang", "--group", "nlp", "--unit", "retail", "--scope", "run-read"])

    me = with_token(registry, capsys.readouterr().out.strip()).get("/v1/me").json()

    assert (me["id"], me["scopes"]) == ("user:wang", ["run-read"])


def test_an_identity_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(PolicyInvalid, match="cannot be read"):
        Registry(Settings(state_dir=tmp_path / "state", identity_file=tmp_path / "missing.yaml"))


def test_a_token_for_something_else_does_nothing_with_what_is_ones_own(registry: Registry) -> None:
    grant = ask(registry.as_("wang", "nlp"), ticket_request()).json()

    reply = scoped(registry, "run-read").post(f"/v1/tickets/{grant['jti']}:revoke", json={"reason": "wrong data"})

    assert (reply.status_code, reply.json()["reason_code"]) == (403, "not-in-scope")
