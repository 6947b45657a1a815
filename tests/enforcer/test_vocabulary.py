"""Task types in files: what is read with anchors, and the one form that is written."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings, strategies as st

from enforcer import vocabulary
from enforcer.inheritance import inherit
from enforcer.policy import documents
from enforcer.policy.rules import PolicyInvalid
from enforcer.profiles import Profile, ProfileOverrides
from enforcer.vocabulary import Entry, in_order, narrowed, written

SHIPPED = sorted((Path(__file__).parents[2] / "policies" / "vocabulary").glob("*.yaml"))


def shipped() -> list[Entry]:
    return [placed.entry for placed in vocabulary.read({file.name: file.read_text("utf-8") for file in SHIPPED})]


ENTRIES = {entry.name: entry for entry in shipped()}
ROOT = ENTRIES["sequence-classification"].profile
assert ROOT is not None

# Words that some reader of YAML takes for something else, and characters that some take for a line's end.
odd = st.sampled_from(["off", "-", "null", "~", "1e5", "1_000", "0x1f", "2024-01-01", "12:30:45", "- a", "a: b", "#",
                       "a #b", "'", '"', "*a", "&a", "!a", "%a", "@a", "<<", "=", "a,b", "[a]", "{a}", "a\\b", " a ",
                       "\u0085", "\u2028", "\ufeff", "\u00a0", "\x7f", "\U0001f600", "a\tb", "a\n\nb"])  # fmt: skip
texts = odd | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=30)


@given(text=texts, words=st.lists(texts, min_size=1, max_size=12), number=st.floats(0, 1e300))
@settings(max_examples=80)
def test_what_is_written_is_read_back_as_it_was_by_every_reader(text: str, words: list[str], number: float) -> None:
    label = {"type": "strings", "help": text, "required": True, "choices": words}
    rate = {"type": "float", "help": "h", "default": number}
    assert ROOT is not None
    parameters = {"problem_type": ROOT.parameters["problem_type"], "label_names": label, "rate": rate}
    profile = Profile.model_validate({**ROOT.model_dump(), "parameters": parameters})
    entry = Entry(name="a", kind=ENTRIES["dpo"].kind, description=text, profile=profile, aliases=[])

    content = written([entry])

    (back,) = vocabulary.read({"f.yaml": content})
    assert back.entry == entry
    assert Entry.model_validate(yaml.safe_load(content)["tags"][0]) == entry
    assert written([back.entry]) == content


def test_any_order_is_written_as_one_text_with_parents_first() -> None:
    entries = shipped()

    ordered = [entry.name for entry in in_order(entries)]

    assert written(reversed(entries)) == written(entries)
    for entry in entries:
        assert entry.parent is None or ordered.index(entry.parent) < ordered.index(entry.name)
    assert max(map(len, written(entries).splitlines())) <= vocabulary.WIDTH
    assert written([]) == "tags: []\n"


def test_a_list_of_none_is_read_as_none() -> None:
    assert vocabulary.read({"f.yaml": written([])}) == []


numbers = st.sampled_from([None, 1, 2, 16, 64])


@given(
    batch=numbers,
    gates=st.booleans(),
    gpus=st.sampled_from([None, 0, 1, 2]),
    column=st.booleans(),
    extra=st.booleans(),
    locked=st.booleans(),
)
def test_what_a_child_says_is_found_from_what_came_of_it(
    batch: int | None, gates: bool, gpus: int | None, column: bool, extra: bool, locked: bool
) -> None:
    gate = {"metric": "macro_f1", "op": ">=", "value": 0.8, "min_n": 200, "confidence": 0.95}
    size: dict[str, Any] = {"default": batch, "maximum": batch} if batch else {}
    said = ProfileOverrides.model_validate(
        {
            "parameters": {"per_device_train_batch_size": size, "seed": {"locked": True} if locked else {}},
            "gates": [gate] if gates else [],
            "limits": None if gpus is None else {"max_gpus": gpus, "max_runtime_s": 600},
            "columns": {"topic": {"type": "text", "help": "h"}} if column else {},
            "artifacts": ["faiss"] if extra else [],
            "pool": None,
        }
    )
    assert ROOT is not None
    child = inherit(ROOT, said)

    found = narrowed(ROOT, child)

    assert found is not None
    assert inherit(ROOT, found).digest() == child.digest()
    assert set(found.parameters) <= {"per_device_train_batch_size", "seed"}


def test_what_narrows_nothing_says_nothing_and_what_is_no_child_cannot_be_said() -> None:
    dpo = ENTRIES["dpo"].profile
    assert ROOT is not None
    assert dpo is not None

    assert narrowed(ROOT, ROOT) == ProfileOverrides()
    assert narrowed(ROOT, dpo) is None


# --- anchors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_anchors_and_merges_mean_what_they_mean_to_every_reader(file: Path) -> None:
    text = file.read_text("utf-8")

    assert documents.read(text, file.name, anchors=True).content == yaml.safe_load(text)


def test_what_stands_there_wins_over_what_is_merged_and_the_first_over_the_second() -> None:
    text = "a: &a {x: 1, y: 1, z: 1}\nb: &b {x: 2, y: 2, w: 2}\nc: {y: 3, <<: [*a, *b]}\n"

    content = documents.read(text, "f", anchors=True).content

    assert content["c"] == yaml.safe_load(text)["c"] == {"x": 1, "y": 3, "z": 1, "w": 2}
    assert content["c"].lines == {"y": 3, "x": 1, "z": 1, "w": 2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: *nothing", "f:1: `*nothing` stands for nothing"),
        ("a: &a\n  b: *a", "f:2: `*a` stands for nothing"),
        ("a: &a [1]\nb: {<<: *a}", "f:2: `<<` merges mappings"),
        ("a: &a {x: 1}\nb: {x: 1, x: 2, <<: *a}", "f:2: `x` stands twice"),
    ],
)
def test_an_anchor_that_means_nothing_is_refused_with_its_line(text: str, said: str) -> None:
    with pytest.raises(PolicyInvalid) as refused:
        documents.read(text, "f", anchors=True)

    assert str(refused.value).startswith(said)


def test_ten_lines_do_not_grow_into_a_gigabyte() -> None:
    lines = ["x0: &x0 [" + ", ".join("a" * 10) + "]"]
    lines += [f"x{at}: &x{at} [" + ", ".join([f"*x{at - 1}"] * 10) + "]" for at in range(1, 12)]

    with pytest.raises(PolicyInvalid, match="more than 500,000 values once its aliases"):
        documents.read("\n".join(lines), "f", anchors=True)


def test_rules_still_have_no_anchors() -> None:
    with pytest.raises(PolicyInvalid, match="are not read here"):
        documents.read("a: &a 1\nb: *a", "f")
