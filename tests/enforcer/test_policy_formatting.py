"""`policy fmt`: one form, the same meaning, every comment."""

from pathlib import Path

import pytest

from enforcer.policy import documents, folder
from enforcer.policy.formatting import formatted
from enforcer.policy.rules import PolicyInvalid

FILES = folder.files_of(Path("policies"))
OF_ENTRIES = [name for name in FILES if name not in ("model.conf", "directory.yaml", "approvals.yaml")]
UGLY = """# Who answers.
owner: nlp   # the group
# All rules.
rules:
  # This one is the first.
  - effect: allow   # deny is the default
    id: first
    may: submit
    who: [ "group:nlp" ]
    # Small ones.
    when:
      own_unit: true   # at home
      max_gpus: 8
    reason: >-
      folded: with a colon
  - {id: second, effect: deny, who: [group:nlp, 'user:x'], may: ["*"], level: off, reason: "it's #1"}
  # After the rules.
"""
PRETTY = """# Who answers.
owner: nlp  # the group
# All rules.
rules:
  # This one is the first.
  - id: first
    effect: allow  # deny is the default
    who: group:nlp
    may: [submit]
    # Small ones.
    when: {max_gpus: 8, own_unit: true}  # at home
    reason: "folded: with a colon"

  - id: second
    effect: deny
    who: [group:nlp, user:x]
    may: ["*"]
    level: off
    reason: "it's #1"
# After the rules.
"""


def test_there_is_one_form() -> None:
    assert formatted(UGLY, "rules/x.yaml") == PRETTY
    assert formatted(PRETTY, "rules/x.yaml") == PRETTY


@pytest.mark.parametrize("name", OF_ENTRIES)
def test_what_ships_has_it(name: str) -> None:
    assert formatted(FILES[name], name) == FILES[name]


def test_what_does_not_fit_on_a_line_is_written_over_several_and_means_the_same() -> None:
    models = [f"organisation-{n}/*" for n in range(12)]
    reason = "word " * 40 + "end"
    one_line = f"owner: nlp\nrules: [{{id: x, effect: allow, who: group:nlp, may: [submit], when: {{models: {models}, own_unit: true}}, reason: {reason}}}]"  # noqa: E501

    written = formatted(one_line, "rules/x.yaml")

    assert max(map(len, written.splitlines())) <= 120
    assert formatted(written, "rules/x.yaml") == written
    rules = folder.kind_of("rules/x.yaml")
    assert documents.read(written, "x").as_(rules) == documents.read(one_line, "x").as_(rules)


STRANGE = [
    "on: off",
    "# no comment",
    "it's",
    '"quoted"',
    "a, b] c",
    "~",
    "123",
    "2026-12-01",
    "- dash",
    "über 中文",
    "a\\tb",
]


@pytest.mark.parametrize("reason", [*STRANGE, "x" * 300])
def test_any_words_come_back(reason: str) -> None:
    content = PRETTY.replace('"it\'s #1"', documents.yaml.dump(reason, width=10_000).strip().removesuffix("\n..."))

    written = formatted(content, "rules/x.yaml")

    assert documents.read(written, "x").content["rules"][1]["reason"] == reason


@pytest.mark.parametrize(
    ("find", "put"),
    [
        ("reason: >-", "reason: >-  # folded"),
        ("# Who answers.", "---  # a document"),
        ('[ "group:nlp" ]', '[  # a list\n      # of one\n      "group:nlp" ]'),
        ('may: ["*"],', 'may: ["*"],  # all\n  '),
        ("  # After the rules.", "# a\n\n  # b\n# c"),
    ],
)
def test_comments_stay_wherever_they_stand(find: str, put: str) -> None:
    assert find in UGLY
    content = UGLY.replace(find, put)

    written = formatted(content, "rules/x.yaml")

    words = [line.partition("#")[2].strip() for line in put.splitlines() if "#" in line]
    assert all(f"# {word}" in written for word in words)
    assert formatted(written, "rules/x.yaml") == written


def test_a_file_that_says_nothing_right_is_left_alone() -> None:
    with pytest.raises(PolicyInvalid, match="unknown key `efect`"):
        formatted(UGLY.replace("effect", "efect", 1), "rules/x.yaml")
