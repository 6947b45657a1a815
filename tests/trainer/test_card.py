"""The model card says where a model came from, and nothing that a user typed can break out of it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from enforcer.gates import Gate, Score, judge
from trainer import recipes
from trainer.card import write_card
from trainer.card_metadata import dump, of_base, of_merged
from trainer.layout import RunFolder

ACCURACY = Score(value=0.9, n=200, low=0.85, high=0.93, confidence=0.95)


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def card(**changes: Any) -> str:
        folder = RunFolder.of(tmp_path, "message-tone", "run-7").create()
        given: dict[str, Any] = {
            "task_type": "message-tone",
            "version": 3,
            "recipe": "sequence-classification",
            "base_model": "all-MiniLM-L6-v2",
            "run_id": "run-7",
            "ticket_id": "0192-jti",
            "arguments": {"label_names": ["好评", "差评"], "use_lora": True, "lora_rank": 8},
            "datasets": {"train": "aa" * 32, "eval": "bb" * 32},
            "scores": {"accuracy": ACCURACY},
            "judgements": [judge(Gate(metric="accuracy", value=0.8, min_n=1, confidence=0.95), ACCURACY)],
        }
        write_card(folder, **{**given, **changes})
        return folder.card.read_text(encoding="utf-8")

    return card


def metadata(card: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(card.removeprefix("---\n").split("\n---\n")[0])
    return loaded


def test_the_head_is_what_hugging_face_reads(write: Any) -> None:
    head = metadata(write())

    assert head["base_model"] == "all-MiniLM-L6-v2"
    assert head["base_model_relation"] == "adapter"
    assert (head["library_name"], head["pipeline_tag"]) == ("peft", "text-classification")
    assert "task-type:message-tone" in head["tags"]
    assert head["model-index"][0]["results"][0]["metrics"] == [
        {
            "type": "accuracy",
            "value": 0.9,
            "name": "accuracy",
            "args": {"n": 200, "low": 0.85, "high": 0.93, "confidence": 0.95},
        }
    ]


def test_scores_show_their_interval_and_sample_count(write: Any) -> None:
    assert r"| accuracy | 0.9000 | \[0.8500, 0.9300\] at 95% | 200 |" in write()


def test_gates_show_their_verdict_and_the_reason(write: Any) -> None:
    assert r"| accuracy &gt;= 0.8 | pass | \[0.8500, 0.9300\] &gt;= 0.8 |" in write()


def test_the_origin_is_named(write: Any) -> None:
    card = write()

    for origin in ("message-tone, version 3", "run-7", "0192-jti", "aa" * 32, "bb" * 32, "好评"):
        assert origin in card


def test_a_run_without_scores_or_gates_says_so(write: Any) -> None:
    card = write(scores={}, judgements=[])

    assert "model-index" not in metadata(card)
    assert card.count("None.") == 2


def test_a_users_words_cannot_leave_their_cell(write: Any) -> None:
    card = write(arguments={"label_names": ["a | b\n\n# Approved", "<script>", "![x](http://evil)", "\\| c"]})

    line = next(line for line in card.splitlines() if "label_names" in line)
    assert r"a \| b\\n\\n# Approved" in line  # str() of a list shows the line breaks
    assert "<script>" not in card
    assert "![x]" not in card
    assert not any(line.startswith("# Approved") for line in card.splitlines())


def test_a_line_break_in_a_name_stays_in_its_cell_and_out_of_the_head(write: Any) -> None:
    card = write(base_model="evil\n---\n# Approved\nlicense: mit")

    assert metadata(card)["base_model"].startswith("evil\n")
    assert "license" not in metadata(card)
    assert not any(line.startswith("# Approved") for line in card.splitlines())


def test_the_hubs_own_library_reads_the_card_and_its_results(write: Any) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")

    card = huggingface_hub.ModelCard(write())

    (result,) = card.data.eval_results
    assert (result.task_type, result.metric_type, result.metric_value) == ("text-classification", "accuracy", 0.9)
    assert result.metric_args == {"n": 200, "low": 0.85, "high": 0.93, "confidence": 0.95}
    assert result.dataset_revision == "bb" * 32
    assert (card.data.base_model, card.data.model_name) == ("all-MiniLM-L6-v2", "run-7")


@pytest.mark.parametrize("recipe", sorted(recipes.known()))
def test_every_recipe_has_a_pipeline_that_the_hub_knows(recipe: str, write: Any) -> None:
    head = metadata(write(recipe=recipe, arguments={"use_lora": False}))

    assert head["pipeline_tag"] in {"text-classification", "text-generation", "text-ranking", "sentence-similarity"}
    assert head["library_name"] in {"transformers", "sentence-transformers"}
    assert head["base_model_relation"] == "finetune"


def test_license_and_language_are_the_base_models_and_unknown_ones_are_not_made_up(write: Any, tmp_path: Path) -> None:
    assert {"license", "language"}.isdisjoint(metadata(write()))
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text(
        "---\nlicense: apache-2.0\nlanguage: [en, zh]\nlicense_link: {a: 1}\n---\n# A model"
    )

    known = of_base(base)

    assert known == {"license": "apache-2.0", "language": ["en", "zh"]}
    assert of_merged(f"---\n{dump(known)}---\n# x").splitlines()[1] == "license: apache-2.0"


@pytest.mark.parametrize(
    "card", ["", "# no head", "---\nlicense: [\n---\n", "---\n- a list\n---\n", "---\nnever closed"]
)
def test_a_base_without_a_readable_card_tells_nothing(card: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card)

    assert of_base(tmp_path) == {}
    assert of_base(tmp_path / "nowhere") == {}


def test_the_card_of_a_merged_model_is_no_adapters(write: Any) -> None:
    card = write()

    merged = of_merged(card)

    head = metadata(merged)
    assert (head["base_model_relation"], head["library_name"]) == ("finetune", "transformers")
    assert "lora" not in head["tags"]
    assert merged.split("\n---\n", 1)[1] == card.split("\n---\n", 1)[1]


def test_an_elo_says_against_whom(write: Any) -> None:
    elo = Score(value=1080, n=400, low=1052, high=1108, confidence=0.95)

    assert "the base model, which has 1000 points" in write(scores={"elo": elo})
