"""SECURITY.md traces ASVS 5.0: every requirement of four chapters has a row, and every test it names exists."""

import ast
import re
from pathlib import Path

# Requirements a section, from the published 5.0.0.
SECTIONS = {
    "8.1": 4, "8.2": 4, "8.3": 3, "8.4": 2,
    "9.1": 3, "9.2": 4,
    "10.1": 2, "10.2": 3, "10.3": 5, "10.4": 16, "10.5": 5, "10.6": 2, "10.7": 3,
    "16.1": 1, "16.2": 5, "16.3": 4, "16.4": 3, "16.5": 4,
}  # fmt: skip
ROW = re.compile(r"^\| (\d+\.\d+\.\d+) \([123]\) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
SAID = re.compile(r"\b(n/a|documented|not met): \S")
TEXT = Path("SECURITY.md").read_text("utf-8")


def test_every_requirement_of_the_four_chapters_has_one_row() -> None:
    wanted = [f"{section}.{number}" for section, count in SECTIONS.items() for number in range(1, count + 1)]

    assert [row[0] for row in ROW.findall(TEXT)] == wanted


def test_every_row_names_a_test_or_says_why_there_is_none() -> None:
    silent = [
        number for number, _, held_by in ROW.findall(TEXT) if not TEST.search(held_by) and not SAID.search(held_by)
    ]

    assert silent == []


def test_every_test_that_is_named_exists() -> None:
    missing = []
    for file, name in sorted(set(TEST.findall(TEXT))):
        tree = ast.parse(Path(file).read_text("utf-8")) if Path(file).is_file() else ast.Module([], [])
        if name not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}:
            missing.append(f"{file}::{name}")

    assert missing == []
    assert len(TEST.findall(TEXT)) == TEXT.count("::test_"), "each is written as `tests/file.py::test_name`"
