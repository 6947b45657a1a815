"""What a person may ask for, and how a slip is answered."""

from pathlib import Path

import pytest
import yaml

from enforcer.problems import ArgumentInvalid, NotConfigured
from trainer.arguments import PLACE_FIELDS, TAG_PARAMETERS, TrainingArguments, from_file, parse_setting

LEAST = {"task_type": "embedding", "model_name_or_path": "m"}


def test_the_three_examples_of_the_article_are_taken_word_for_word() -> None:
    TrainingArguments(task_type="dpo", model_name_or_path="Qwen/Qwen3-7B", dataset="dpo_zh_en_mixed",
                      per_device_train_batch_size=4, output_dir="./output/dpo-qwen3")  # fmt: skip
    TrainingArguments(task_type="embedding", model_name_or_path="BAAI/bge-small-zh-v1.5", pooling_method="mean",
                      normalize_embeddings=True, output_dir="./output/bge-finetuned")  # fmt: skip
    TrainingArguments(task_type="sequence-classification", num_labels=5,
                      label_names=["科技", "体育", "娱乐", "财经", "军事"], model_name_or_path="Qwen/Qwen3-1B",
                      use_lora=True, lora_rank=64, max_length=1024, output_dir="./output/news-classifier")  # fmt: skip


def test_only_what_was_set_outright_is_sent() -> None:
    args = TrainingArguments(**LEAST, pooling_method="mean", seed=None, output_dir="somewhere")

    assert args.tag_arguments == {"pooling_method": "mean"}
    assert args.learning_rate is None, "the registry fills in defaults"


def test_every_parameter_of_the_shipped_vocabulary_can_be_set() -> None:
    files = (Path(__file__).parents[2] / "policies" / "vocabulary").glob("*.yaml")
    tags = [tag for file in files for tag in yaml.safe_load(file.read_text("utf-8"))["tags"]]

    known = {name for tag in tags if "profile" in tag for name in tag["profile"]["parameters"]}

    assert known
    assert not known - TAG_PARAMETERS


def test_every_field_is_either_a_place_or_a_parameter_of_a_tag() -> None:
    fields = set(TrainingArguments.model_fields)

    assert fields == TAG_PARAMETERS | PLACE_FIELDS
    assert not TAG_PARAMETERS & PLACE_FIELDS


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"learnin_rate": 1e-4}, "`learnin_rate` is not a training argument; did you mean `learning_rate`?"),
        ({"lora-rank": 8}, "did you mean `lora_rank`?"),
        ({"lora_rank": "many"}, "`lora_rank`: 'many'"),
        ({"label_names": [True, False]}, "put it in quotes"),
        ({"eval_fraction": 1.0}, "`eval_fraction`: 1.0"),
        ({"task_type": "dpo@latest"}, "it looks like `embedding` or `embedding@2`"),
        ({"gpus": -1}, "`gpus`: -1"),
        ({"business_unit": "x" * 201}, "`business_unit`"),
        ({"dataset": 3}, "`dataset`: 3"),
        ({"dataset": ["d.jsonl", False]}, "`dataset`: ['d.jsonl', False]"),
        ({"learning_rate": float("nan")}, "`learning_rate`"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(given: dict[str, object], says: str) -> None:
    with pytest.raises(ArgumentInvalid) as refused:
        TrainingArguments(**{**LEAST, **given})

    assert says in refused.value.detail
    assert refused.value.facts["pointer"].startswith("/")


def test_a_missing_model_is_named() -> None:
    with pytest.raises(ArgumentInvalid, match="`model_name_or_path` is missing"):
        TrainingArguments(task_type="embedding")


@pytest.mark.parametrize(("given", "tag", "version"), [("dpo", "dpo", None), ("dpo@4", "dpo", 4)])
def test_a_task_type_may_carry_a_version(given: str, tag: str, version: int | None) -> None:
    args = TrainingArguments(task_type=given, model_name_or_path="m")

    assert (args.tag, args.version) == (tag, version)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.yaml", "task_type: embedding\nmodel_name_or_path: m\nlearning_rate: 2e-5\n"),  # YAML 1.1 reads 2e-5 as text
        ("c.json", '{"task_type": "embedding", "model_name_or_path": "m", "learning_rate": 2e-5}'),
        ("c.toml", 'task_type = "embedding"\nmodel_name_or_path = "m"\nlearning_rate = 2e-5\n'),
    ],
)
def test_configs_come_in_three_formats_and_flags_win(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)

    args = from_file(tmp_path / name, {"model_name_or_path": "other"})

    assert (args.learning_rate, args.model_name_or_path) == (2e-5, "other")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("c.yaml", b"task_type: [", "cannot be read"),
        ("c.yaml", b"- a list", "must hold `name: value` lines"),
        ("c.yaml", b"task_type: \xb7\xd6", "it is not UTF-8 text"),
        ("c.ini", b"x", "is not a format of configs"),
        ("c.json", b"{", "cannot be read"),
    ],
)
def test_a_config_that_is_none_is_told_so(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(NotConfigured) as refused:
        from_file(tmp_path / name, {})

    assert says in refused.value.detail


def test_settings_on_the_command_line_are_yaml() -> None:
    assert parse_setting("label_names=[科技, 体育]") == ("label_names", ["科技", "体育"])
    assert parse_setting("columns={text: review}") == ("columns", {"text": "review"})
    assert parse_setting("use_lora=true") == ("use_lora", True)
    with pytest.raises(ArgumentInvalid, match="is not `KEY=VALUE`"):
        parse_setting("use_lora")
