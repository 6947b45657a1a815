"""`backend: ms-swift`: what is said to it, what it says back, and what becomes of a run that goes through it.

Its process is played by a program that writes what ms-swift 4.6.0 writes; `test_ms_swift_itself.py` runs the real one.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import CLASSIFICATION, LANGUAGE, Watcher, asked_rows, make_chat, make_job

from enforcer.bindings import Binding
from enforcer.problems import ArgumentInvalid, DatasetInvalid, ModelInvalid, NotBound, NotConfigured, TrainingFailed
from trainer.backends import ms_swift_arguments, ms_swift_installed, ms_swift_rows
from trainer.backends.ms_swift import MsSwift
from trainer.backends.ms_swift_log import Log
from trainer.inputs.chat import Reader
from trainer.job import Job

SFT = Binding(framework="ms-swift", versions=">=4.0,<5", command="sft", args={"task_type": "causal_lm"})
DPO = Binding(framework="ms-swift", versions=">=4.0,<5", command="rlhf", args={"rlhf_type": "dpo"})

# Recorded from ms-swift 4.6.0.
FIRST = (
    '{"loss": 5.57231617, "grad_norm": 2.94610715, "learning_rate": 0.0015, "token_acc": 0.0, "epoch": 0.04166667, '
    '"global_step/max_steps": "1/2", "elapsed_time": "0s", "remaining_time": "3s", "train_speed(s/it)": 0.246237}\n'
)
SECOND = (
    '{"loss": 5.6005969, "grad_norm": 3.72908282, "learning_rate": 0.003, "token_acc": 0.0, "epoch": 0.08333333, '
    '"global_step/max_steps": "2/2", "elapsed_time": "0s", "remaining_time": "1s", "train_speed(s/it)": 0.138399}\n'
)
RUNTIME = '{"train_runtime": 0.5064, "train_loss": 4.52912043, "epoch": 0.5, "global_step/max_steps": "2/2"}\n'
SUM = (
    '{"train_dataset": "54.609375±2.567529, min=49.000000, max=64.000000, size=ROWS", "last_model_checkpoint": '
    '"out/checkpoint-2", "best_model_checkpoint": null, "best_metric": null, "global_step": 2}\n'
)

PLAYED = """#!{python}
import json, shutil, sys, time
from pathlib import Path
if "-c" in sys.argv:
    print(json.dumps({{"python": "3.11.7", "packages": {{"ms-swift": "{version}", "trl": "0.29.1"}}}}))
    sys.exit()
said = dict(zip(sys.argv[4::2], sys.argv[5::2]))
out = Path(said["--output_dir"])
out.mkdir()
(out / "args.json").write_text(json.dumps(said))
log = (out / "logging.jsonl").open("w")
print({first!r}, end="", file=log, flush=True)
time.sleep({pause})
rows = len(Path(said["--dataset"]).read_text().splitlines()) - {dropped}
print({rest!r}.replace("ROWS", str(rows)), end="", file=log, flush=True)
shutil.copytree(said["--model"], out / "checkpoint-2")
(out / "checkpoint-2" / "training_args.bin").write_bytes(b"a pickle")
sys.exit({code})
"""


@pytest.fixture(scope="session")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat(tmp_path_factory.mktemp("models") / "chat")


def played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, first: str = FIRST, pause: float = 0.0, dropped: int = 0,
    code: int = 0, version: str = "4.6.0",
) -> None:  # fmt: skip
    python = tmp_path / "python"
    rest = SECOND + RUNTIME + SUM
    python.write_text(PLAYED.format(
        python=sys.executable, first=first, rest=rest, pause=pause, dropped=dropped, code=code, version=version
    ))  # fmt: skip
    python.chmod(0o700)
    monkeypatch.setenv("SWIFT_SUBMIT_MS_SWIFT", str(python))


def job_of(tmp_path: Path, model: Path, arguments: Any = LANGUAGE, **changes: Any) -> Job:
    return make_job(tmp_path / "output", model, arguments, loss_mask=changes.pop("loss_mask", "assistant"), **changes)


def test_a_run_is_followed_brought_home_and_scored(tmp_path: Path, chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played(tmp_path, monkeypatch)
    watcher = Watcher()
    job = job_of(tmp_path, chat, listener=watcher)

    outcome = MsSwift("sft", "sft", [SFT]).train(job)

    assert [(step, total, logs["loss"]) for step, total, logs in watcher.steps] == [
        (1, 2, 5.57231617),
        (2, 2, 5.6005969),
    ]
    assert outcome.scores.keys() == {"eval_loss", "perplexity", "token_accuracy"}
    assert outcome.scores["eval_loss"].n == len(job.eval_rows)
    assert (job.folder.model / "model.safetensors").is_file()
    assert (job.folder.model / "chat_template.jinja").is_file()
    assert not (job.folder.model / "training_args.bin").exists()
    told = outcome.details["backend"]
    assert told["packages"]["ms-swift"] == "4.6.0"
    assert told["arguments"]["model"] == "chat"
    # Its record of itself stays; the rows that it was given go.
    assert sorted(path.name for path in (job.folder.root / "ms-swift").iterdir()) == ["args.json", "logging.jsonl"]


def test_a_stop_ends_its_process_and_leaves_no_model(
    tmp_path: Path, chat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played(tmp_path, monkeypatch, pause=20)
    job = job_of(tmp_path, chat, listener=Watcher(stop_at=1))

    outcome = MsSwift("sft", "sft", [SFT]).train(job)

    assert (outcome.stopped, outcome.steps, outcome.scores) == ("interrupted", 1, {})
    assert not job.folder.model.exists()
    assert not (job.folder.root / "ms-swift" / "train.jsonl").exists()


def test_rows_that_it_dropped_are_no_run_of_ours(tmp_path: Path, chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played(tmp_path, monkeypatch, dropped=1)

    with pytest.raises(TrainingFailed, match="trained on 191 rows and was given 192"):
        MsSwift("sft", "sft", [SFT]).train(job_of(tmp_path, chat))


def test_a_failure_of_its_process_is_one_of_the_run(
    tmp_path: Path, chat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played(tmp_path, monkeypatch, code=3)

    with pytest.raises(TrainingFailed, match="ended with code 3"):
        MsSwift("sft", "sft", [SFT]).train(job_of(tmp_path, chat))


def test_a_loss_that_is_no_number_ends_it(tmp_path: Path, chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played(tmp_path, monkeypatch, first=FIRST.replace("5.57231617", "NaN"), pause=20)

    with pytest.raises(ArithmeticError, match="the loss is nan at step 1"):
        MsSwift("sft", "sft", [SFT]).train(job_of(tmp_path, chat))


def test_a_version_without_a_binding_is_refused(tmp_path: Path, chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played(tmp_path, monkeypatch, version="3.9.0")

    with pytest.raises(NotBound, match=r">=4\.0,<5"):
        MsSwift("sft", "sft", [SFT]).refuse(LANGUAGE, chat)


def test_a_machine_without_ms_swift_says_what_to_set(chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWIFT_SUBMIT_MS_SWIFT", raising=False)
    with pytest.raises(NotConfigured, match="SWIFT_SUBMIT_MS_SWIFT"):
        MsSwift("sft", "sft", [SFT]).refuse(LANGUAGE, chat)

    monkeypatch.setenv("SWIFT_SUBMIT_MS_SWIFT", sys.executable)
    with pytest.raises(NotConfigured, match="has no ms-swift"):
        MsSwift("sft", "sft", [SFT]).refuse(LANGUAGE, chat)


def test_hyper_parameters_do_not_come_in_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFONCE_TEMPERATURE", "0.9")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")

    variables = ms_swift_installed.variables({})

    assert not {"INFONCE_TEMPERATURE", "PYTHONPATH"} & variables.keys()
    assert variables["HF_HUB_OFFLINE"] == "1"


def test_arguments_are_spelled_as_it_reads_them(chat: Path) -> None:
    asked = {**LANGUAGE, "use_lora": True, "beta": 0.2, "loss_type": "ipo", "label_smoothing": 0.0}

    said = ms_swift_arguments.spelled(asked, DPO, chat, "completion", on_gpu=False)
    words = ms_swift_arguments.command(Path("python"), DPO, said)

    assert words[:4] == ["python", "-P", "-m", "swift.cli.rlhf"]
    told = dict(zip(words[4::2], words[5::2], strict=True))
    assert told["--rlhf_type"] == "dpo"
    assert (told["--beta"], told["--loss_type"]) == ("0.2", "ipo")
    assert (told["--tuner_type"], told["--lora_rank"], told["--lora_alpha"]) == ("lora", "4", "8")
    assert (told["--add_version"], told["--strict"], told["--bf16"]) == ("false", "true", "false")
    assert told["--truncation_strategy"] == "delete"
    assert told["--data_seed"] == told["--seed"] == "7"
    assert told["--adam_beta2"] == "0.999"
    assert told["--model_type"] == "llama"


def test_a_classifier_and_a_mask_of_all_tokens_are_spelled_out(chat: Path) -> None:
    classifier = ms_swift_arguments.spelled(CLASSIFICATION, SFT, chat, None, on_gpu=True)
    everything = ms_swift_arguments.spelled({**LANGUAGE, "truncation": True}, SFT, chat, "all", on_gpu=False)

    assert (classifier["problem_type"], classifier["num_labels"]) == ("single_label_classification", 3)
    assert classifier["bf16"] is True
    assert (everything["loss_scale"], everything["truncation_strategy"]) == ("all", "right")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"packing": True}, "flash attention"),
        ({"nproc": 2}, "one process"),
        ({"sequence_parallel_size": 2}, "one process"),
    ],
)
def test_what_it_would_do_otherwise_is_refused(chat: Path, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ArgumentInvalid, match=why):
        ms_swift_arguments.refuse({**LANGUAGE, **changes}, chat)


@pytest.mark.parametrize("file", ["modeling_own.py", "config.json"])
def test_a_model_with_code_of_its_own_is_refused(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_text('{"auto_map": {"AutoModel": "other--modeling_own.Model"}}')

    with pytest.raises(ModelInvalid, match="code of its own"):
        ms_swift_arguments.refuse(LANGUAGE, tmp_path)


def test_no_run_through_it_continues_another_or_has_a_recipe_that_it_lacks(chat: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentInvalid, match="starts afresh"):
        MsSwift("sft", "sft", [SFT]).refuse(LANGUAGE, chat, tmp_path)
    with pytest.raises(ArgumentInvalid, match="by the recipe `text-to-sql`"):
        MsSwift("text-to-sql", "text-to-sql", [SFT]).refuse(LANGUAGE, chat)


def test_an_answer_is_rendered_by_the_model_s_own_template(tmp_path: Path, chat: Path) -> None:
    row = {"prompt": "which?", "completion": "this"}
    job = job_of(tmp_path, chat, train_rows=[row])
    reader = Reader(chat)

    (said,) = ms_swift_rows.written("sft", job, reader)

    asked, answered = (message["content"] for message in said["messages"])
    assert asked == "<|im_start|>user\nwhich?<|im_end|>\n<|im_start|>assistant\n"
    assert answered == "this"  # ms-swift puts the end token behind it
    tokens = reader.row(row, "assistant")
    end = reader.tokenizer.token_to_id("<|im_end|>")
    expected = [*reader.tokenizer.encode(asked + answered).ids, end]
    assert tokens.ids[: len(expected)] == expected


def test_pairs_and_sets_of_labels_have_their_own_forms(tmp_path: Path, chat: Path, encoder: Path) -> None:
    pair = {"prompt": "which?", "chosen": "this", "rejected": "that"}
    labelled = {"text": "chip goal", "labels": ["财经", "科技"]}
    pairs = job_of(tmp_path, chat, train_rows=[pair], task_type="dpo")
    sets = job_of(tmp_path, encoder, {**CLASSIFICATION, "problem_type": "multi-label"}, train_rows=[labelled])

    (said,) = ms_swift_rows.written("dpo", pairs, Reader(chat))
    (marked,) = ms_swift_rows.written("sequence-classification", sets, Reader(encoder))

    assert (said["messages"][1]["content"], said["rejected_response"]) == ("this", "that")
    assert marked == {"messages": [{"role": "user", "content": "chip goal"}], "label": [0, 2]}


def test_rows_that_would_be_dropped_or_half_learned_are_refused(tmp_path: Path, chat: Path) -> None:
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user", "assistant")]
    job = job_of(tmp_path, chat, train_rows=[{"messages": turns}])
    with pytest.raises(DatasetInvalid, match="2 turns of the assistant"):
        ms_swift_rows.written("sft", job, Reader(chat))

    long = job_of(
        tmp_path, chat, run_id="run-2", train_rows=[*asked_rows(1, 1), {"prompt": "x" * 200, "completion": "y"}]
    )
    with pytest.raises(DatasetInvalid, match="1 texts are longer than `max_length` 128"):
        ms_swift_rows.written("sft", long, Reader(chat))


def test_half_a_line_waits_for_the_other_half(tmp_path: Path) -> None:
    file = tmp_path / "logging.jsonl"
    log = Log(file)
    assert list(log.steps()) == []  # not there yet

    file.write_text(FIRST + SECOND[:40])
    assert [step.number for step in log.steps()] == [1]
    with file.open("a") as more:
        more.write(SECOND[40:] + RUNTIME + SUM.replace("ROWS", "192"))
    (second,) = log.steps()

    assert (second.number, second.total, second.logs["loss"]) == (2, 2, 5.6005969)
    assert log.rows == 192


def test_an_args_json_is_read_back_and_what_is_lost_is_named() -> None:
    document = {  # what ms-swift 4.6.0 wrote, of its 347 keys
        "swift_version": "4.6.0", "model": "Qwen/Qwen3-0.6B", "dataset": ["train.jsonl"], "tuner_type": "lora",
        "lora_rank": 8, "lora_alpha": 32.0, "lora_dropout": 0.05, "learning_rate": 1e-4, "max_steps": -1, "seed": 42,
        "rlhf_type": "dpo", "loss_type": ["sigmoid"], "beta": 0.1, "label_smoothing": 0, "problem_type": None,
        "truncation_strategy": "delete", "neftune_noise_alpha": 5.0, "packing": False, "system": None,
    }  # fmt: skip

    ours, lost = ms_swift_arguments.read_back(document)

    assert ours == {
        "model_name_or_path": "Qwen/Qwen3-0.6B", "dataset": ["train.jsonl"], "use_lora": True, "lora_rank": 8,
        "lora_alpha": 32.0, "lora_dropout": 0.05, "learning_rate": 1e-4, "max_steps": -1, "seed": 42,
        "loss_type": "sigmoid", "beta": 0.1, "label_smoothing": 0, "truncation": False,
    }  # fmt: skip
    assert lost == ["neftune_noise_alpha: 5.0"]


def test_numbers_that_are_nought_are_said() -> None:
    ours, _ = ms_swift_arguments.read_back(json.loads('{"weight_decay": 0.0, "gradient_checkpointing": false}'))

    assert (ours["weight_decay"], ours["gradient_checkpointing"]) == (0.0, False)
