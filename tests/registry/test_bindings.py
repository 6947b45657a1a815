"""What other frameworks call a task type: asked of the service, of the seed, and of the frameworks themselves."""

import json
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import Registry

from enforcer import names
from enforcer.bindings import BoundTag, spelling, tags_of
from enforcer.policy.rules import PolicyInvalid
from enforcer.problems import FrameworkUnreadable
from registry import bindings, frameworks
from registry.cli import main

POLICIES = Path("policies")

# What ms-swift 4.6.0 has, as read from its wheel.
ROUTES = "app deploy eval export infer merge-lora pt rlhf rollout sample sft web-ui".split()
TASK_TYPES = "causal_lm decision embedding generative_reranker reranker seq_cls".split()
RLHF_TYPES = "cpo dpo gkd grpo kto orpo ppo rm simpo".split()
# And TRL 1.16.0.
TRAINERS = "DPO Distillation GRPO KTO RLOO Reward SFT".split()
EXPERIMENTAL = {
    "cpo": "CPO",
    "distillation": "Distillation",
    "gkd": "GKD",
    "gold": "GOLD",
    "iw_opd": "IWOPD",
    "kto": "KTO",
    "online_dpo": "OnlineDPO",
    "orpo": "ORPO",
    "sdft": "SDFT",
    "sdpo": "SDPO",
    "server_distillation": "ServerDistillation",
    "tpo": "TPO",
}


@pytest.fixture(scope="module")
def seed() -> list[BoundTag]:
    return bindings.of_folder(POLICIES)


def tagwarden(*command: str) -> Result:
    return CliRunner().invoke(main, ["bindings", *command, "--policies", str(POLICIES)])


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def swift(site: Path, task_types: list[str], rlhf_types: list[str], routes: list[str], version: str = "4.6.0") -> Path:
    """A tree with these words where ms-swift has its own."""
    write(site / "swift/__init__.py", "raise AssertionError('nothing of a framework is run')")
    write(site / "swift/cli/main.py", f"ROUTE_MAPPING: Dict[str, str] = {dict.fromkeys(routes, 'x')!r}")
    write(site / "swift/arguments/model.py", f"class A:\n    task_type: Optional[Literal{task_types!r}] = None")
    write(site / "swift/arguments/rlhf.py", f"class B:\n    rlhf_type: typing.Literal{rlhf_types!r} = 'dpo'")
    write(
        site / f"ms_swift-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: ms-swift\nVersion: {version}\n"
    )
    return site


def trl(site: Path) -> Path:
    stable = [f"{name}{part}" for name in TRAINERS for part in ("Trainer", "Config")]
    write(site / "trl/__init__.py", f"_import_structure = {{'trainer': {stable!r}}}\nraise AssertionError")
    write(site / "trl/experimental/harbor/__init__.py", "")
    for module, name in EXPERIMENTAL.items():
        write(site / f"trl/experimental/{module}/__init__.py", f"__all__ = ['{name}Config', '{name}Trainer']")
    write(site / "trl-1.16.0.dist-info/METADATA", "Name: trl\nVersion: 1.16.0\n")
    return site


# --- the seed ---------------------------------------------------------------------------------------------------------


def test_every_objective_and_head_of_the_seed_is_bound_to_ms_swift(seed: list[BoundTag]) -> None:
    assert [tag.name for tag in seed if "ms-swift" not in {binding.framework for binding in tag.bindings}] == []


def test_every_binding_of_the_seed_leads_back_to_its_tag(seed: list[BoundTag]) -> None:
    kin = {tag.name: tag.parent for tag in seed}
    lost = []
    for tag in seed:
        for binding in tag.bindings:
            version = {"ms-swift": "4.6.0", "trl": "1.16.0", "sentence-transformers": "6.2.0"}[binding.framework]
            assert spelling(tag.name, tag.bindings, binding.framework, version) == binding
            for record in binding.records():
                matches = tags_of(seed, binding.framework, version, {binding.command}, record).matches
                told = {name for match in matches for name in (match.tag, *match.narrower)}
                if len(matches) != 1 or tag.name not in told or kin[matches[0].tag] not in (None, kin[tag.name]):
                    lost.append((tag.name, record, matches))

    assert lost == []


def test_aliases_and_names_of_the_seed_are_spelt_as_names_are(seed: list[BoundTag]) -> None:
    assert [tag.name for tag in seed if not names.is_canonical(tag.name)] == []


# --- what a framework says --------------------------------------------------------------------------------------------


def test_the_seed_and_ms_swift_have_not_drifted(tmp_path: Path) -> None:
    done = tagwarden("drift", "--path", str(swift(tmp_path, TASK_TYPES, RLHF_TYPES, ROUTES)))

    assert done.exit_code == 0, done.output
    assert "ms-swift 4.6.0: 0 removed, 0 new, 11 unbound on purpose, 0 task types outside" in done.output


def test_the_seed_and_trl_have_not_drifted(tmp_path: Path) -> None:
    done = tagwarden("drift", "--framework", "trl", "--path", str(trl(tmp_path)))

    assert done.exit_code == 0, done.output
    assert "trl 1.16.0: 0 removed, 0 new, 11 unbound" in done.output


def test_the_seed_and_the_installed_sentence_transformers_have_not_drifted() -> None:
    done = tagwarden("drift", "--framework", "sentence-transformers")

    assert done.exit_code == 0, done.output
    assert f"sentence-transformers {metadata.version('sentence-transformers')}: 0 removed, 0 new" in done.output


def test_a_word_that_is_gone_and_one_that_is_new_end_with_one(tmp_path: Path) -> None:
    there = swift(tmp_path, [*TASK_TYPES, "token_cls"], RLHF_TYPES[1:], ROUTES, "4.7.0.dev0")

    done = tagwarden("drift", "--path", str(there), "--json")

    assert done.exit_code == 1
    found = json.loads(done.output)
    assert found["version"] == "4.7.0.dev0"
    assert [(one["axis"], one["value"], one["note"]) for one in found["removed"]] == [
        ("rlhf_type", "cpo", "cpo, simpo")
    ]
    assert [(one["axis"], one["value"]) for one in found["new"]] == [("task_type", "token_cls")]


def test_a_version_that_nothing_is_bound_to_is_told(tmp_path: Path) -> None:
    done = tagwarden("drift", "--path", str(swift(tmp_path, TASK_TYPES, RLHF_TYPES, ROUTES, "5.0.0")))

    assert done.exit_code == 1
    assert "outside  dpo" in done.output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--framework", "ms-swift"], "`ms-swift` is not installed here"),
        (["--framework", "axolotl"], "there are ms-swift, trl, sentence-transformers"),
        (["--path", "tests"], "holds no package `swift`"),
        (["--framework-version", "latest"], "`latest` is no version"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(options: list[str], says: str) -> None:
    done = tagwarden("drift", *options)

    assert done.exit_code == 3  # and 1 is a framework that was read and differs
    assert says in done.output
    assert "Traceback" not in done.output


def test_a_list_that_moved_is_an_error_and_no_empty_list(tmp_path: Path) -> None:
    there = swift(tmp_path, TASK_TYPES, RLHF_TYPES, ROUTES)
    write(there / "swift/arguments/model.py", "class A:\n    task_type: str = None")

    with pytest.raises(FrameworkUnreadable, match="no field `task_type"):
        frameworks.read("ms-swift", there)


def test_a_checkout_without_its_version_asks_for_it(tmp_path: Path) -> None:
    there = swift(tmp_path, TASK_TYPES, RLHF_TYPES, ROUTES)
    shutil.rmtree(there / "ms_swift-4.6.0.dist-info")

    with pytest.raises(FrameworkUnreadable, match="--framework-version"):
        frameworks.read("ms-swift", there)
    assert frameworks.read("ms-swift", there, "4.6.1").version == "4.6.1"


def test_a_bad_list_of_what_stays_unbound_names_the_file(tmp_path: Path) -> None:
    write(tmp_path / "frameworks.yaml", "ms-swift: [ppo]")

    with pytest.raises(PolicyInvalid, match=r"frameworks\.yaml: .*\n?ms-swift"):
        bindings.unbound(tmp_path, "ms-swift")
    assert bindings.unbound(tmp_path / "nowhere", "ms-swift") == {}


# --- what a run was ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "tags"),
    [
        ({"rlhf_type": "dpo", "task_type": "causal_lm"}, ["dpo"]),
        ({"rlhf_type": "cpo", "loss_type": "simpo", "cpo_alpha": 0.0}, ["simpo"]),
        ({"rlhf_type": "cpo", "loss_type": "simpo", "cpo_alpha": 1.0}, []),
        ({"rlhf_type": "cpo", "loss_type": "sigmoid", "cpo_alpha": 1.0}, ["cpo"]),
        ({"rlhf_type": "rm", "task_type": "seq_cls", "num_labels": 1}, ["reward-modeling"]),
        ({"rlhf_type": None, "task_type": "seq_cls"}, ["sequence-classification"]),
        ({"task_type": "causal_lm", "use_chat_template": True}, ["sft"]),
        ({"task_type": "causal_lm", "use_chat_template": False}, ["pre-training"]),
        ({"task_type": "causal_lm", "use_chat_template": True, "agent_template": "hermes"}, ["agent-training"]),
        ({"task_type": "generative_reranker"}, ["reranker"]),
        ({"task_type": "decision"}, []),
        ({"rlhf_type": "ppo", "task_type": "causal_lm"}, []),
    ],
)
def test_a_record_of_ms_swift_reads_as_a_task_type(seed: list[BoundTag], args: dict[str, Any], tags: list[str]) -> None:
    reading = tags_of(seed, "ms-swift", "4.6.0", frameworks.commands_of("ms-swift", args), {"seed": 42, **args})

    assert [match.tag for match in reading.matches] == tags


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (
            {"task_type": "seq_cls"},
            0,
            "sequence-classification  (task_type=seq_cls, ms-swift 4.6.0); or narrower: intent-",
        ),
        ({"rlhf_type": "cpo", "loss_type": "simpo", "cpo_alpha": 1}, 1, "not simpo, because of cpo_alpha=1"),
        ({"rlhf_type": "dpo", "swift_version": "3.9"}, 1, "no task type is bound to rlhf_type=dpo of ms-swift 3.9"),
    ],
)
def test_lint_says_what_the_run_was_or_why_it_was_nothing(
    tmp_path: Path, args: dict[str, Any], code: int, says: str
) -> None:
    file = tmp_path / "args.json"
    file.write_text(json.dumps({"swift_version": "4.6.0", **args}))

    done = tagwarden("lint", str(file))

    assert says in done.output
    assert done.exit_code == code


def test_the_answer_for_machines_has_the_words_it_went_by(tmp_path: Path) -> None:
    file = tmp_path / "args.json"
    file.write_text(json.dumps({"rlhf_type": "kto"}))

    done = tagwarden("lint", str(file), "--json", "--framework-version", "4.6.0")

    told = {"tag": "kto", "by": {"rlhf_type": "kto"}, "narrower": []}
    assert json.loads(done.output) == {"tags": [told], "forbidden": {}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "is no args.json"),
        ("{", "is no args.json"),
        ("[" * 100_000, "is no args.json"),
        ("{}", "has no `swift_version`"),
        ('{"swift_version": "x"}', "`x` is no version"),
    ],
)
def test_what_is_no_record_is_said_in_a_sentence(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "args.json"
    file.write_text(text)

    done = tagwarden("lint", str(file))

    assert (done.exit_code, says in done.output) == (1, True)
    assert isinstance(done.exception, SystemExit)


# --- what the service says --------------------------------------------------------------------------------------------


def resolve(registry: Registry, **query: str) -> Any:
    asked = {"name": "dpo", "framework": "ms-swift", "framework_version": "4.6.0", **query}
    return registry.as_("tina", "trainers").get("/v1/tags:resolve", params=asked)


def test_the_service_spells_a_task_type_for_a_framework(registry: Registry) -> None:
    said = resolve(registry, name="direct-preference-optimization").json()

    digest = said.pop("profile_digest")
    assert digest.startswith("sha256:")
    assert said == {
        "name": "direct-preference-optimization",
        "tag": "dpo",
        "version": 1,
        "state": "active",
        "framework": "ms-swift",
        "framework_version": "4.6.0",
        "versions": ">=4.0,<5",
        "command": "rlhf",
        "config": None,
        "args": {"rlhf_type": "dpo"},
        "forbids": {},
    }
    assert resolve(registry, framework="trl", framework_version="1.16.0").json()["config"] == "DPOConfig"
    assert resolve(registry, name="product-classification").json()["args"] == {"task_type": "seq_cls"}


@pytest.mark.parametrize("name", ["text-to-sql", "agent-training"])
def test_a_child_keeps_the_bindings_to_frameworks_that_it_does_not_speak_of(registry: Registry, name: str) -> None:
    assert resolve(registry, name=name, framework="trl", framework_version="1.16.0").json()["config"] == "SFTConfig"
    assert resolve(registry, name=name).json()["command"] == "sft"


def test_what_is_not_bound_is_refused_with_what_is(registry: Registry) -> None:
    refusals = [
        ({"name": "dpoo-x"}, 404, "unknown-task-type", "dpoo-x"),
        ({"framework": "axolotl"}, 404, "not-bound", "it is bound to `ms-swift`, `trl`"),
        ({"framework_version": "3.9"}, 404, "not-bound", "bound to `ms-swift` >=4.0,<5, not to 3.9"),
        ({"framework_version": "latest"}, 422, "malformed-request", "framework_version"),
        ({"framework_version": "9" * 5000}, 422, "malformed-request", "framework_version"),
        ({"nmae": "dpo"}, 422, "malformed-request", "nmae"),
    ]
    for query, status, code, says in refusals:
        refused = resolve(registry, **query)

        assert (refused.status_code, refused.json()["code"]) == (status, code)
        assert says in refused.text
