"""A policy folder is read whole or not at all, and whoever wrote it is told what is wrong, by file and line."""

import re
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest

from enforcer.policy import documents, folder, revision
from enforcer.policy.conditions import POINTS, Conditions, Context
from enforcer.policy.decision import Request
from enforcer.policy.documents import MAX_BYTES
from enforcer.policy.rules import ACTIONS, Level, PolicyInvalid
from enforcer.policy.snapshot import Snapshot

FILES = folder.files_of(Path("policies"))
NLP = "rules/nlp.yaml"


def changed(find: str, put: str, file: str = NLP) -> dict[str, str]:
    assert find in FILES[file]
    return FILES | {file: FILES[file].replace(find, put, 1)}


def refusal(files: dict[str, str]) -> str:
    with pytest.raises(PolicyInvalid) as refused:
        folder.read(files)
    return str(refused.value)


@pytest.mark.parametrize(
    ("find", "put", "says"),
    [
        ("effect: allow", "efect: allow", "nlp.yaml:4: unknown key `efect` (did you mean `effect`?)"),
        ("effect: allow", "effect: DENY", "nlp.yaml:4: `effect`: write 'allow' or 'deny', not `DENY`"),
        ("max_gpus: 8", "max_gpu: 8", "nlp.yaml:8: unknown key `when.max_gpu` (did you mean `max_gpus`?)"),
        (
            "max_gpus: 8",
            "hours: 8-20",
            "nlp.yaml:8: `when.hours`: write two times of day like `08:00-20:00`, not `8-20`",
        ),
        ("max_gpus: 8", "until: 20261215", "nlp.yaml:8: `when.until`: write a time with its zone, like"),
        ("who: group:nlp", "who: nlp", "nlp.yaml:5: `who`: write `group:<name>`, or `user:`,"),
        (
            "who: group:nlp",
            "who: group:nlpp",
            "nlp.yaml:3: rule `nlp-trains-preference-alignment` speaks of unknown group `nlpp` (did",
        ),
        ("[submit, cancel]", "[sumbit]", "unknown action `sumbit` (did you mean `submit`?)"),
        ("[submit, cancel]", "[*]", 'a lone `*` is quoted: `"*"`'),
        (
            "- id: nlp-trains-language-models",
            "- id: nlp-trains-preference-alignment",
            "nlp.yaml:11: id `nlp-trains-preference-alignment` is used twice",
        ),
        ("effect: allow", "effect: allow\n    effect: deny", "nlp.yaml:5: `effect` stands twice, first in line 4"),
        (
            "effect: allow",
            "effect: allow\n    level: {admision: warn}",
            "nlp.yaml:5: `level.admision`: write 'api', 'cli',",
        ),
        ("reason: A", "reason: &a A", "nlp.yaml:9: anchors (`&`) and aliases (`*`) are not read here"),
        (
            "reason: A",
            "reason: !!python/name:os.system A",
            "nlp.yaml:9: the tag `tag:yaml.org,2002:python/name:os.system` is not read here",
        ),
        ("owner: nlp", "owner: nlp\n---\nowner: nlp", "holds a second document"),
        ("rules:", "rules: [", "nlp.yaml:3: is no YAML"),
        (FILES[NLP], "", "nlp.yaml: is empty"),
        (FILES[NLP], "# nothing yet\n", "nlp.yaml: is empty"),
        (FILES[NLP], "words", "nlp.yaml:1: keys and values are expected here, not `words`"),
        (FILES[NLP], "owner: nlp\nrules: " + "[" * 20 + "]" * 20, "is nested more than 16 deep"),
        ("reason: A", "reason: \udce4 A", "is not Unicode"),
        ("reason: A", "reason: \x00 A", "is no YAML"),
    ],
)
def test_a_mistake_is_told_by_file_and_line(find: str, put: str, says: str) -> None:
    assert says in refusal(changed(find, put))


def test_all_mistakes_are_told_at_once() -> None:
    files = changed("effect: allow", "effect: ALLOW") | {
        "rules/security.yaml": FILES["rules/security.yaml"].replace("who:", "woh:")
    }

    told = refusal(files).splitlines()

    assert [line.split(":")[0] for line in told] == ["rules/nlp.yaml", *["rules/security.yaml"] * 6]


def test_a_name_of_the_directory_that_is_not_there_has_its_line() -> None:
    assert refusal(changed("ai: all", "ai: alle", "directory.yaml")).startswith(
        "directory.yaml:4: directory: unit `ai`"
    )


@pytest.mark.parametrize("missing", ["model.conf", "directory.yaml"])
def test_a_file_that_is_missing_is_named(missing: str) -> None:
    assert refusal({name: text for name, text in FILES.items() if name != missing}) == f"{missing}: is missing"


def test_words_that_older_yaml_takes_for_booleans_are_words() -> None:
    """`level: off` was the boolean False, and a group called `no` too."""
    files = changed("effect: allow", "effect: allow\n    level: off")
    files["directory.yaml"] += "  on: []\n  no: [on]\n"

    policy = folder.read(files)

    off = next(rule for rule in policy.rules if rule.id == "nlp-trains-preference-alignment")
    assert off.level == "off"
    assert policy.directory.groups["no"] == ["on"]


def test_numbers_and_nulls_are_read_as_yaml_1_2_has_them() -> None:
    content = documents.read(
        "[1, -2, 1.5, 010, 0x10, 1_0, 12:30, ~, null, true, yes, 2026-12-01, '7', 1e3, .5, '']", "x"
    ).content

    assert content == [
        1,
        -2,
        1.5,
        10,
        "0x10",
        "1_0",
        "12:30",
        None,
        None,
        True,
        "yes",
        "2026-12-01",
        "7",
        1000.0,
        0.5,
        "",
    ]


def test_a_file_of_a_size_that_nobody_writes_is_refused(tmp_path: Path) -> None:
    policies = Path(shutil.copytree("policies", tmp_path / "policies"))
    (policies / NLP).write_text("# " + "x" * MAX_BYTES)

    with pytest.raises(PolicyInvalid, match=r"rules/nlp\.yaml: is larger than 1 MiB"):
        folder.load(policies)
    with pytest.raises(PolicyInvalid, match="is larger than 1 MiB"):
        folder.read(FILES | {NLP: "#" + "é" * (MAX_BYTES // 2)})


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    policies = Path(shutil.copytree("policies", tmp_path / "policies"))
    (policies / NLP).write_bytes(b"owner: \xff\xfe")

    with pytest.raises(PolicyInvalid, match=r"rules/nlp\.yaml: cannot be read"):
        folder.load(policies)


def test_ten_thousand_rules_load_in_seconds() -> None:
    rule = "  - {id: r-%d, effect: allow, who: group:nlp, may: [submit], tag: sft, when: {max_gpus: 8}, reason: why}\n"
    many = {
        f"rules/many{n}.yaml": "owner: nlp\nrules:\n" + "".join(rule % (n * 2500 + at) for at in range(2500))
        for n in range(4)
    }
    begun = time.process_time()

    policy = folder.read(FILES | many)

    assert len(policy.rules) > 10_000
    assert time.process_time() - begun < 10  # about one; what is quadratic would take minutes


def test_a_task_type_stands_below_one_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "vocabulary").mkdir()
    (tmp_path / "vocabulary" / "1.yaml").write_text("tags: [{name: a, parent: b}, {name: b, parent: a}]")

    with pytest.raises(PolicyInvalid, match="`a` stands before its parent `b`"):
        folder.tag_tree(tmp_path)


def test_the_vocabulary_that_ships_is_a_tree() -> None:
    assert folder.tag_tree(Path("policies"))["product-classification"] == "sequence-classification"


def test_a_request_that_names_no_model_is_not_spared_by_a_deny_of_some_models() -> None:
    files = changed("effect: allow", "effect: deny")
    files[NLP] = files[NLP].replace("when: {max_gpus: 8, own_unit: true}", 'when: {models: ["meta-llama/*"]}', 1)
    gate = Snapshot(folder.read(files), {"dpo": None})

    def decided(model: str | None) -> str | None:
        context = Context(now=datetime(2026, 12, 1, tzinfo=UTC), model=model)
        return gate.decide(Request(("group:nlp",), "submit", context, "dpo", "retail", "local")).rule

    assert [decided(model) for model in ("meta-llama/x", None, "Qwen/x")] == [
        "nlp-trains-preference-alignment",
        "nlp-trains-preference-alignment",
        None,
    ]


def test_the_readme_of_policies_tells_every_action_condition_level_and_point() -> None:
    readme = Path("policies/README.md").read_text()

    words = {*ACTIONS, *Conditions.model_fields, *POINTS, *get_args(Level)}
    assert {word for word in words if not re.search(rf"`{word}\b", readme)} - {"zone", "weekdays"} == set()


def test_more_rules_than_anybody_reads_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    count = len(folder.read(FILES).rules)
    monkeypatch.setattr(revision, "MAX_RULES", count - 1)

    assert refusal(FILES) == f"there are {count} rules; at most {count - 1} are taken"
