"""Lists: filters over published fields, orders, pages that lose nothing, and one statement for a page of tags."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Registry
from hypothesis import given, settings, strategies as st
from sqlalchemy import event, text
from sqlmodel import Session, select

from registry import db, runs, tags
from registry.paging import Filter, ListQuery, Page
from registry.settings import Settings
from registry.tables import KnownName, Run, Tag, TagVersion

MANY = 1_200
WORDS = ("pass", "fail", "inconclusive")


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """The seed, and a long vocabulary beside it: every third tag with two aliases, every second with two versions."""
    unlimited = {name: 0 for name in Settings.model_fields if name.endswith("_per_minute")}
    registry = Registry(Settings(state_dir=tmp_path_factory.mktemp("lists"), **unlimited))
    with registry.books.writing() as session:
        profile = session.get_one(TagVersion, ("dpo", 1))
        for number in range(MANY):
            _plant(session, f"many-{number:04}", profile, aliases=2 * (number % 3 == 0), versions=1 + number % 2)
    return registry


def _plant(session: Session, name: str, like: TagVersion, *, aliases: int, versions: int) -> None:
    said = {
        "kind": "business",
        "parent": "dpo",
        "description": f'"{name}" 100%_',
        "state": "active",
        "compatibility": "NONE",
    }
    session.add(Tag(name=name, version=versions, created_at=db.utc_now(), **said))
    session.flush()
    session.add_all(KnownName(spelling=f"{name}-alias{n}", kind="alias", tag=name) for n in range(aliases))
    for version in range(1, versions + 1):
        row = {**like.model_dump(), "tag": name, "version": version, "profile_digest": f"sha256:{version:064x}"}
        session.add(TagVersion(**row))


@pytest.fixture(scope="module")
def reader(vocabulary: Registry) -> Any:
    return vocabulary.as_("wang", "trainers")


def names(reply: Any) -> list[str]:
    assert reply.status_code == 200, reply.text
    return [item["name"] for item in reply.json()["items"]]


def test_a_page_of_a_long_vocabulary_is_one_statement_over_indexes(vocabulary: Registry) -> None:
    said: list[tuple[str, Any]] = []
    listen = lambda *args: said.append((args[2], args[3]))  # noqa: E731
    event.listen(vocabulary.books.engine, "before_cursor_execute", listen)
    with vocabulary.books.reading() as session:
        items, token = tags.listed(session, Page(ListQuery(page_size=500), Filter(), tags.LISTING))
    event.remove(vocabulary.books.engine, "before_cursor_execute", listen)

    [(statement, values)] = [each for each in said if each[0] != "BEGIN"]
    with vocabulary.books.engine.connect() as connection:
        plan = [row.detail for row in connection.exec_driver_sql(f"explain query plan {statement}", values)]
    assert (len(items), token is not None) == (500, True)
    assert [step for step in plan if step.startswith("SCAN") and "USING INDEX" not in step] == ["SCAN anon_1"], plan
    assert any("SCAN tag USING INDEX" in step for step in plan), plan
    assert any("SEARCH tag_version USING INDEX" in step for step in plan), plan
    assert any("SEARCH known_name USING INDEX" in step for step in plan), plan


def test_a_tag_in_the_list_is_the_tag_itself(vocabulary: Registry, reader: Any) -> None:
    for item in reader.get("/v1/tags", params={"filter": "name:many-000 OR name = dpo"}).json()["items"]:
        detail = reader.get(f"/v1/tags/{item['name']}").json()
        assert item == {name: value for name, value in detail.items() if name != "profile"}


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("kind = head AND (name = embedding OR name = dpo)", ["embedding"]),
        ("aliases:many-0003-alias1", ["many-0003"]),
        ("name >= many-1198 AND name < many-2", ["many-1198", "many-1199"]),
        ("NOT parent:* AND name:DP", ["dpo"]),
        ("parent != dpo AND (name = dpo OR name = many-0001)", ["dpo"]),
        ("(kind = business AND (version >= 2 AND name < many-0004))", ["many-0001", "many-0003"]),
        ('description = "\\"many-0007\\" 100%_"', ["many-0007"]),
        ('description:"many-0008\\" 100%" OR description:MANY-0009', ["many-0008", "many-0009"]),
        ('description:"0%_" AND name = many-0005', ["many-0005"]),
        ('description:"many_0005"', []),  # no wildcard
        ('name = "x\' OR 1=1 --"', []),
    ],
)
def test_a_filter_finds_what_it_says(reader: Any, asked: str, found: list[str]) -> None:
    assert names(reader.get("/v1/tags", params={"filter": asked})) == found


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("owner = me", "`owner` is not a field of this list; there are `name`, `kind`, `parent`, `state`"),
        ("kind = heda", "`kind` is never `heda`; it is one of `objective`, `head`"),
        ("kind < head", "`kind` takes `=`, `!=`, `:`, not `<`"),
        ("aliases = x", "`aliases` takes `:`, not `=`"),
        ("version = two", "`version` is a whole number, and `two` is none"),
        ("created_at > yesterday", "`created_at` is a time with its zone"),
        ("created_at > 2026-11-24T18:00:00", "`created_at` is a time with its zone"),
        ("name = a OR name = b AND kind = head", "mixes AND and OR at 24; say which belong together"),
        ("name = a name = b", "has `name = b` at 9 where `AND`, `OR` or the end belongs"),
        ("name = ", "has nothing at 7 where a value belongs"),
        ("name", "has nothing at 4 where one of = != < <= > >= : belongs"),
        ("(name = a", "has nothing at 9 where `)` belongs"),
        ('name = "a', "where text in double quotes belongs"),
        ("name = 'a'", "has `'a'` at 7 where a value belongs"),
        ("= a", "has `= a` at 0 where a field belongs"),
        ("NOT NOT name = a", "`NOT` is not a field of this list"),
        ("(" * 9 + "name = a" + ")" * 9, "nested deeper than 8"),
        (" AND ".join(["name = a"] * 31), "more than 30 comparisons"),
    ],
)
def test_what_is_no_filter_is_refused_in_words(reader: Any, asked: str, said: str) -> None:
    reply = reader.get("/v1/tags", params={"filter": asked})

    assert (reply.status_code, reply.json()["code"]) == (422, "filter-invalid"), reply.text
    assert said in reply.json()["detail"]


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ("parent", "`parent` is not a field to order by; there are `name`, `kind`, `state`, `version`, `created_at`"),
        ("name down", "`name down` is no order; write `name`, or `name desc`"),
        ("name,name desc", "`name` stands twice"),
        ("name,", "`` is not a field to order by"),
        ("kind,state,version,created_at", "takes 3 fields at most"),
    ],
)
def test_what_is_no_order_is_refused_in_words(reader: Any, order: str, said: str) -> None:
    reply = reader.get("/v1/tags", params={"order_by": order})

    assert (reply.status_code, reply.json()["code"]) == (422, "filter-invalid"), reply.text
    assert said in reply.json()["detail"]


@pytest.mark.parametrize("order", [None, "name desc", "version desc, name", "kind,version,created_at desc", "state"])
def test_pages_in_any_order_lose_and_repeat_nothing(reader: Any, order: str | None) -> None:
    query: dict[str, Any] = {"page_size": 500, **({"order_by": order} if order else {})}
    whole, token = [], None
    while True:
        page = reader.get("/v1/tags", params=query | ({"page_token": token} if token else {})).json()
        whole += page["items"]
        if (token := page["next_page_token"]) is None:
            break

    assert len({item["name"] for item in whole}) == len(whole) > MANY
    if order == "version desc, name":
        assert [(-item["version"], item["name"]) for item in whole] == sorted(
            (-item["version"], item["name"]) for item in whole
        )


@pytest.mark.parametrize("other", [{"filter": "kind = head"}, {"order_by": "name desc"}, {"kind": "head"}])
def test_a_page_token_goes_with_its_filter_and_order(reader: Any, other: dict[str, str]) -> None:
    token = reader.get("/v1/tags", params={"page_size": 1}).json()["next_page_token"]

    reply = reader.get("/v1/tags", params={"page_size": 1, "page_token": token, **other})

    assert (reply.status_code, reply.json()["code"]) == (400, "page-token-invalid")


@pytest.mark.parametrize(
    "said", ["[]", '["x"]', '["x",1]', '["x",null]', '{"a":1}', "[" * 900, '["x","a","b"]', "9" * 50]
)
def test_a_page_token_that_somebody_made_up_is_refused(reader: Any, said: str) -> None:
    import base64

    token = base64.urlsafe_b64encode(said.encode()).decode().rstrip("=")

    reply = reader.get("/v1/tags", params={"page_token": token, "order_by": "created_at"})

    assert (reply.status_code, reply.json()["code"]) == (400, "page-token-invalid")


def test_half_of_a_surrogate_pair_is_no_key(reader: Any) -> None:
    import base64
    import json

    token = reader.get("/v1/tags", params={"page_size": 1}).json()["next_page_token"]
    fingerprint, _ = json.loads(base64.urlsafe_b64decode(token + "=="))
    forged = base64.urlsafe_b64encode(json.dumps([fingerprint, "\ud800"]).encode()).decode().rstrip("=")

    reply = reader.get("/v1/tags", params={"page_size": 1, "page_token": forged})

    assert (reply.status_code, reply.json()["code"]) == (400, "page-token-invalid")


def test_more_than_a_page_holds_is_a_page(reader: Any) -> None:
    assert len(names(reader.get("/v1/tags", params={"page_size": 10**9}))) == 500


def test_every_list_with_fields_publishes_them(vocabulary: Registry) -> None:
    document = vocabulary.app.openapi()
    lists = {
        operation["operationId"]: operation
        for operations in document["paths"].values()
        for operation in operations.values()
        if any(parameter["name"] == "filter" for parameter in operation.get("parameters", ()))
    }

    assert sorted(lists) == ["listExceptions", "listProposals", "listRuns", "listTags"]
    assert all(operation["x-filterable-fields"] for operation in lists.values())
    assert lists["listTags"]["x-filterable-fields"]["kind"] == {
        "type": "word",
        "operators": ["=", "!=", ":"],
        "values": ["objective", "head", "use-case", "business"],
    }


# --- what a filter means, against plain Python ------------------------------------------------------------------------

Row = Mapping[str, Any]


@pytest.fixture(scope="module")
def judged(vocabulary: Registry) -> Iterator[tuple[Session, list[Row]]]:
    """Runs with and without a verdict."""
    start = db.utc_now()
    with vocabulary.books.writing() as session:
        for number in range(30):
            at = start - timedelta(hours=number)
            same: dict[str, Any] = {"task_type": "dpo", "actor": "user:li", "business_unit": "retail", "target": "t"}
            same |= {
                "run_spec_digest": "d",
                "state": "finished",
                "policy_rule": "r",
                "logs": {},
                "scores": {},
                "gates": [],
            }
            told = {"verdict": (*WORDS, None)[number % 4], "ended_at": at if number % 5 else None}
            made = {"id": f"run-{db.uuid7(at)}", "jti": f"jti-{number}", "created_at": at}
            session.add(Run(version=1 + number % 3, pool=f"p{number % 2}", **made, **same, **told))
    with vocabulary.books.reading() as session:
        yield session, [row.model_dump() for row in session.exec(select(Run))]


comparisons = st.one_of(
    st.tuples(st.just("verdict"), st.sampled_from(["=", "!="]), st.sampled_from(WORDS)),
    st.tuples(st.just("version"), st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), st.integers(0, 4)),
    st.tuples(st.just("pool"), st.sampled_from(["=", "!=", "<", ">", ":"]), st.sampled_from(["p0", "P1", "p"])),
    st.tuples(st.sampled_from(["verdict", "ended_at", "pool"]), st.just(":"), st.just("*")),
)
filters = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.tuples(st.just("NOT"), inner),
        st.tuples(st.sampled_from(["AND", "OR"]), st.lists(inner, min_size=2, max_size=3)),
    ),
    max_leaves=5,
)


def written(tree: Any) -> str:
    if tree[0] == "NOT":
        return f"NOT ({written(tree[1])})"
    if tree[0] in ("AND", "OR"):
        return f" {tree[0]} ".join(f"({written(part)})" for part in tree[1])
    return f"{tree[0]}{tree[1]}{tree[2]}"


def meant(tree: Any, row: Row) -> bool:
    if tree[0] == "NOT":
        return not meant(tree[1], row)
    if tree[0] in ("AND", "OR"):
        return (all if tree[0] == "AND" else any)(meant(part, row) for part in tree[1])
    name, operator, value = tree
    has = row[name]
    if has is None:
        return operator == "!="
    if operator == ":":
        return value == "*" or str(value).lower() in has.lower()
    compare = {"=": "__eq__", "!=": "__ne__", "<": "__lt__", "<=": "__le__", ">": "__gt__", ">=": "__ge__"}
    return bool(getattr(has, compare[operator])(value))


@given(tree=filters)
@settings(max_examples=200)
def test_a_filter_means_what_python_would_mean(judged: tuple[Session, list[Row]], tree: Any) -> None:
    session, rows = judged

    found, _ = Page(ListQuery(filter=written(tree), page_size=500), Filter(), runs.LISTING).rows(session, Run)

    assert {run.id for run in found} == {row["id"] for row in rows if meant(tree, row)}


def test_runs_are_sorted_by_time_both_ways(judged: tuple[Session, list[Row]]) -> None:
    session, rows = judged
    times = sorted(row["created_at"] for row in rows)

    for order, expected in (("created_at", times), ("created_at desc", times[::-1]), (None, times[::-1])):
        found, _ = Page(ListQuery(order_by=order, page_size=500), Filter(), runs.LISTING).rows(session, Run)
        assert [run.created_at for run in found] == expected


def test_a_filter_on_its_tag_finds_runs_by_index(judged: tuple[Session, list[Row]]) -> None:
    session, _ = judged
    query = Page(ListQuery(filter="task_type = dpo"), Filter(), runs.LISTING).query(select(Run.id), Run)
    statement = str(query.compile(session.get_bind(), compile_kwargs={"literal_binds": True}))

    plan = [row.detail for row in session.connection().execute(text(f"explain query plan {statement}"))]

    assert plan == ["SEARCH run USING COVERING INDEX run_by_tag (task_type=?)"]


@pytest.mark.postgresql
def test_both_databases_find_and_sort_alike(postgresql: str, tmp_path: Path) -> None:
    asked = [
        {"filter": "aliases:* AND NOT parent:*", "order_by": "version desc, name"},
        {"filter": "description:MODEL OR parent != sft", "order_by": "created_at"},
        {"filter": "name > d AND name < r", "page_size": 2},
        {"filter": "created_at > 2026-01-01T00:00:00+02:00 AND version <= 1"},
    ]
    found = []
    for url in (postgresql, None):
        registry = Registry(Settings(state_dir=tmp_path / ("lite" if url is None else "pg"), database_url=url))
        reader = registry.as_("wang", "trainers")
        pages = [reader.get("/v1/tags", params=params).json() for params in asked]
        following = {**asked[2], "page_token": pages[2]["next_page_token"]}
        pages.append(reader.get("/v1/tags", params=following).json())
        found.append([page["items"] for page in pages])

    assert found[0] == found[1]
    assert all(found[0])
