"""Two queries answer alike: whatever their words, the same rows come back."""

import pytest

from trainer.sql.results import is_ordered, normal, query_in, same
from trainer.sql.sandbox import Answer


def gave(*rows: tuple[object, ...], columns: int | None = None, **rest: object) -> Answer:
    return Answer(columns=len(rows[0]) if columns is None else columns, rows=list(rows), **rest)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gold", "predicted"),
    [
        (gave((1, "a"), (2, "b")), gave((2, "b"), (1, "a"))),
        (gave((1, "a"), (2, "b")), gave(("a", 1), ("b", 2))),
        (gave((1, 2), (2, 1)), gave((2, 1), (1, 2))),
        (gave((1, 2, 3), (2, 1, 4)), gave((3, 2, 1), (4, 1, 2))),
        (gave((0.1 + 0.2,)), gave((0.3,))),
        (gave((3,)), gave((3.0,))),
        (gave((2.9999999999999996,)), gave((3,))),
        (gave((2**53 - 1,)), gave((float(2**53 - 1),))),
        (gave((None, 1)), gave((1, None))),
        (gave(("a", "a")), gave(("a", "a"))),
        (gave((float("inf"),)), gave((float("inf"),))),
        (gave(columns=2), gave(columns=2)),
    ],
    ids=["row order", "column order", "alike columns", "a swap inside", "rounding", "types of number", "nearly whole",
         "a large number", "null", "columns twice", "infinity", "nothing"],
)  # fmt: skip
def test_the_same_answer(gold: Answer, predicted: Answer) -> None:
    assert same(gold, predicted, ordered=False)


@pytest.mark.parametrize(
    ("gold", "predicted"),
    [
        (gave((1,), (1,)), gave((1,))),
        (gave((1,), (1,), (2,)), gave((1,), (2,), (2,))),
        (gave((1, "a"), (2, "b")), gave((1, "b"), (2, "a"))),
        (gave((1,)), gave((1, 1))),
        (gave((1,)), gave(("1",))),
        (gave((None,)), gave(("",))),
        (gave((None,)), gave((0,))),
        (gave(("a",)), gave((b"a",))),
        (gave((1.0,)), gave((1.00000001,))),
        (gave(columns=1), gave(columns=2)),
        (gave((1,)), gave((1,), whole=False)),
        (gave((1,)), Answer(error="no such table: city")),
        (Answer(error="locked"), Answer(error="locked")),
    ],
    ids=["a row less", "counted otherwise", "pairs torn apart", "a column twice", "a text", "null is not empty",
         "null is not zero", "a blob", "another number", "columns of nothing", "not the whole", "an error", "errors"],
)  # fmt: skip
def test_not_the_same_answer(gold: Answer, predicted: Answer) -> None:
    assert not same(gold, predicted, ordered=False)


def test_the_order_of_rows_counts_where_the_right_query_orders_them() -> None:
    gold, turned = gave((1, "a"), (2, "b")), gave((2, "b"), (1, "a"))

    assert same(gold, gold, ordered=True)
    assert same(gold, gave(("a", 1), ("b", 2)), ordered=True)
    assert not same(gold, turned, ordered=True)


def test_columns_that_cannot_fit_are_not_tried_in_every_order() -> None:
    """30 columns of which 29 hold the same values in other places: 29! orders, none of them right."""
    shifted = [tuple((row + column) % 29 for column in range(29)) for row in range(29)]
    gold = gave(*[(*row, 1) for row in shifted])
    predicted = gave(*[(*row, 2) for row in shifted])

    assert not same(gold, predicted, ordered=False)


def test_columns_that_hold_the_same_values_in_other_rows_are_tried_only_so_often() -> None:
    """12! orders of columns that each hold 0 to 11, and no order in which the rows are those of the right answer."""
    shifted = [tuple((row + column) % 12 for column in range(12)) for row in range(12)]
    turned = [(*row[:11], (5 * row[11]) % 12) for row in shifted]

    assert not same(gave(*shifted), gave(*turned), ordered=False)


def test_columns_that_are_alike_do_not_use_up_the_tries() -> None:
    """The first two columns are swapped; the other 7 have 5,040 orders, which are one."""
    gold = gave(*[(a, b, *[0] * 7) for a, b in ((1, 2), (2, 3), (3, 1))])
    predicted = gave(*[(b, a, *[0] * 7) for a, b in ((1, 2), (2, 3), (3, 1))])

    assert same(gold, predicted, ordered=False)


@pytest.mark.parametrize(
    ("sql", "ordered"),
    [
        ("SELECT a FROM t ORDER BY a", True),
        ("SELECT a FROM t ORDER /* by what */\n BY a LIMIT 3", True),
        ("SELECT a FROM t UNION SELECT b FROM s order by 1", True),
        ("SELECT max(a) FROM (SELECT a FROM t ORDER BY a LIMIT 3)", False),
        ("SELECT rank() OVER (ORDER BY a) FROM t", False),
        ("SELECT 'order by' FROM t -- ORDER BY a", False),
        ('SELECT "ORDER" BY FROM t', False),
        ("SELECT a FROM t WHERE b = 'it''s (' ORDER BY a", True),
    ],
)
def test_only_the_outermost_order_is_one(sql: str, ordered: bool) -> None:
    assert is_ordered(sql) is ordered


@pytest.mark.parametrize(
    ("text", "sql"),
    [
        ("SELECT 1 ; ", "SELECT 1"),
        ("Sure:\n```sql\nSELECT 1;\n```\nThis counts.", "SELECT 1"),
        ("```\nSELECT 1\n```", "SELECT 1"),
        ("```SQL\nSELECT 1 FROM", "SELECT 1 FROM"),
        ("I do not know", "I do not know"),
        ("", ""),
    ],
)
def test_the_query_is_taken_out_of_what_is_said_around_it(text: str, sql: str) -> None:
    assert query_in(text) == sql


def test_queries_are_one_when_only_spaces_case_and_comments_differ() -> None:
    assert normal("SELECT Name\nFROM city WHERE a = 'X' ;") == normal("select name from city where a='X' -- all")
    assert normal("SELECT 'X'") != normal("SELECT 'x'")
