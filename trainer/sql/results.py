"""Whether two queries give the same answer: execution accuracy on one database.

Follows the evaluation of Zhong, Yu & Klein 2020, "Semantic Evaluation for Text-to-SQL with Distilled Test Suites"
(arXiv:2010.02840): rows as a multiset, as a list where the right query orders them, columns in any order. An answer on
one database can be right by chance: they measured false positives on Spider's single databases (2.5 % on average, up
to 8.1 % of a model's answers), and a right answer that gives no rows is met by any query that gives none. So the score
is an upper bound of what a distilled suite would find.

Where two answers differ from theirs: numbers are equal up to 12 significant digits (a sum depends on its order), 3 is
3.0, and an answer without rows still needs the right number of columns.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise

from trainer.sql.sandbox import Answer, Cell

DIGITS = 12
MAX_ORDERS = 1_000  # of columns; only columns that hold the same values are ever tried against each other
_FENCED = re.compile(r"```(?:\w+[ \t]*\n|\n)?(.*?)(?:```|\Z)", re.DOTALL)
# Comments and quoted texts first: what they hold is no SQL.
_TOKENS = re.compile(
    r"""--[^\n]*|/\*.*?(?:\*/|\Z)|'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|\w+|\s+|.""", re.DOTALL
)
_Row = tuple[Cell, ...]


def same(gold: Answer, predicted: Answer, *, ordered: bool) -> bool:
    """Whether a query answered as the right one did. What has no answer, or not the whole of it, is not the same."""
    if gold.error or predicted.error or not (gold.whole and predicted.whole):
        return False
    if gold.columns != predicted.columns or len(gold.rows) != len(predicted.rows):
        return False
    wanted, given = (_comparable(answer.rows) for answer in (gold, predicted))
    if not wanted:
        return True
    bag = Counter(wanted)
    for order in islice(_orders(wanted, given), MAX_ORDERS):
        arranged = [tuple(row[i] for i in order) for row in given]
        if arranged == wanted if ordered else Counter(arranged) == bag:
            return True
    return False


def is_ordered(sql: str) -> bool:
    """Whether a query orders its answer, not only a part that it is made of."""
    depth, words = 0, []
    for token in _TOKENS.findall(sql):
        depth += (token == "(") - (token == ")")
        if depth == 0 and not token.isspace() and not token.startswith(("--", "/*")):
            words.append(token.lower())
    return any(pair == ("order", "by") for pair in pairwise(words))


def query_in(text: str) -> str:
    """The query in a model's answer: in the first fenced block, where there is one, else all of it."""
    fenced = _FENCED.search(text)
    return (fenced.group(1) if fenced else text).strip().rstrip(";").rstrip()


def normal(sql: str) -> str:
    """A query without what never matters: comments, spaces, the case of words outside of quotes, a last semicolon."""
    kept = [
        token if token[0] in "'\"`[" else token.lower()
        for token in _TOKENS.findall(sql)
        if not token.isspace() and not token.startswith(("--", "/*"))
    ]
    return " ".join(kept[:-1] if kept[-1:] == [";"] else kept)


def _comparable(rows: Sequence[_Row]) -> list[_Row]:
    return [tuple(_rounded(value) if isinstance(value, float) else value for value in row) for row in rows]


def _rounded(number: float) -> float:
    """To `DIGITS` digits, or whole. Python's 3.0 equals and hashes as 3, so it meets integers of the same value."""
    return number if number.is_integer() else float(f"{number:.{DIGITS}g}")


def _orders(wanted: Sequence[_Row], given: Sequence[_Row]) -> Iterator[list[int]]:
    """Ways to put the given columns in the place of the wanted ones, so that each holds the same values.

    Of columns that are alike in every row, one order is enough.
    """
    goals = [Counter(column) for column in zip(*wanted, strict=True)]
    columns = list(zip(*given, strict=True))
    bags = [Counter(column) for column in columns]
    if Counter(map(_values, bags)) != Counter(map(_values, goals)):
        return iter(())

    def placed(order: list[int]) -> Iterator[list[int]]:
        if len(order) == len(goals):
            yield order
            return
        tried: list[tuple[Cell, ...]] = []
        for i, column in enumerate(columns):
            if i not in order and bags[i] == goals[len(order)] and column not in tried:
                tried.append(column)
                yield from placed([*order, i])

    return placed([])


def _values(bag: Counter[Cell]) -> frozenset[tuple[Cell, int]]:
    return frozenset(bag.items())
