"""A real but tiny world for training tests: a random BERT, its tokenizer, rows that can be learned, a listener.

labels    each text carries the word that gives its label away; the rest of the words are noise
pairs     anchor and positive share a word that no other pair has
"""

import json
import random
import shutil
import string
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from trainer.job import Job, Outcome, Row
from trainer.layout import RunFolder

Run = tuple[Job, Outcome]

LABELS = ("科技", "体育", "财经")
GIVEAWAY = {"科技": "chip", "体育": "goal", "财经": "stock"}
NOISE = "the a of and in on some very new old big small people say today".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

ARGUMENTS: dict[str, Any] = {
    "max_length": 32, "truncation": False, "use_lora": False, "lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.0,
    "learning_rate": 3e-3, "num_train_epochs": 1.0, "max_steps": 12, "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 32, "gradient_accumulation_steps": 1, "warmup_ratio": 0.1, "weight_decay": 0.0,
    "lr_scheduler_type": "linear", "seed": 7, "logging_steps": 1,
}  # fmt: skip
CLASSIFICATION = {**ARGUMENTS, "problem_type": "single-label", "num_labels": len(LABELS), "label_names": list(LABELS)}
EMBEDDING = {
    **ARGUMENTS,
    "loss_type": "infonce",
    "pooling_method": "mean", "normalize_embeddings": True, "use_inbatch_negatives": True, "temperature": 0.05,
}  # fmt: skip
LANGUAGE = {
    **ARGUMENTS,
    "max_length": 128, "gradient_checkpointing": False, "packing": False, "per_device_train_batch_size": 8,
}  # fmt: skip


@dataclass
class Watcher:
    """A listener that remembers, and that asks for a stop at a given step."""

    stop_at: int | None = None
    steps: list[tuple[int, int, Mapping[str, float]]] = field(default_factory=list)

    def on_step(self, step: int, total: int, logs: Mapping[str, float]) -> None:
        self.steps.append((step, total, logs))

    def should_stop(self) -> str | None:
        return "interrupted" if self.stop_at is not None and len(self.steps) >= self.stop_at else None

    @property
    def losses(self) -> list[float]:
        return [logs["loss"] for _, _, logs in self.steps]


def losses(outcome: Outcome) -> list[float]:
    """The logged training losses, in order."""
    return [entry["loss"] for entry in outcome.details["log_history"] if "loss" in entry]


def trained(root: Path, encoder: Path, arguments: Mapping[str, Any], **changes: Any) -> Run:
    """A finished run that has learned something."""
    from trainer.recipes import embedding, sequence_classification

    recipe: Any = embedding if "pooling_method" in arguments else sequence_classification
    job = make_job(root, encoder, arguments, max_steps=20, learning_rate=5e-3, **changes)
    return job, recipe.train(job)


def copied(run: Run, root: Path) -> Run:
    """A run whose folder a test may write into: those of the session's fixtures are everybody's."""
    job, outcome = run
    return replace(job, folder=RunFolder(Path(shutil.copytree(job.folder.root, root / job.run_id)))), outcome


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path in it."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def labelled_rows(count: int, seed: int) -> list[Row]:
    pick = random.Random(seed)
    labels = [LABELS[i % len(LABELS)] for i in range(count)]
    return [{"text": " ".join([*pick.choices(NOISE, k=4), GIVEAWAY[label]]), "label": label} for label in labels]


def pair_rows(count: int, seed: int, negatives: bool = False) -> list[Row]:
    pick = random.Random(seed)
    rows: list[Row] = []
    for i in range(count):
        row = {"anchor": f"{pick.choice(NOISE)} w{i}", "positive": f"w{i} {pick.choice(NOISE)} {pick.choice(NOISE)}"}
        rows.append({**row, "negative": f"w{(i + 1) % count} {pick.choice(NOISE)}"} if negatives else row)
    return rows


def asked_rows(count: int, seed: int) -> list[Row]:
    """What is asked gives the answer away: `which? goal` is answered with `体育`."""
    return [{"prompt": f"which? {row['text']}", "completion": row["label"]} for row in labelled_rows(count, seed)]


def ranked_rows(queries: int, seed: int) -> list[Row]:
    """Four documents for each query: one shares both of its words, one the first of them, two none."""
    pick = random.Random(seed)
    rows: list[Row] = []
    for i in range(queries):
        one, other = f"w{i % 90}", f"w{(i * 7 + 1) % 90}"
        noise = [pick.choice(NOISE) for _ in range(6)]
        documents = [f"{one} {other}", f"{one} {noise[0]}", " ".join(noise[1:3]), " ".join(noise[3:5])]
        rows += [
            {"query": f"{one} {other}", "document": f"{document} {noise[5]}", "label": label}
            for document, label in zip(documents, (2, 1, 0, 0), strict=True)
        ]
    pick.shuffle(rows)
    return rows


def make_job(root: Path, model_dir: Path, arguments: Mapping[str, Any], run_id: str = "run-1", **changes: Any) -> Job:
    """A job as the registry permits it; `changes` override `arguments`, except for the rows and the listener."""
    known = (
        "embedding" if "pooling_method" in arguments else "sft" if "packing" in arguments else "sequence-classification"
    )
    make = {"embedding": pair_rows, "sft": asked_rows}.get(known, labelled_rows)
    train = changes.pop("train_rows", None) or make(96 if known == "embedding" else 192, 1)
    held_out = changes.pop("eval_rows", None) or make(48 if known == "embedding" else 60, 2)
    listener, mask = changes.pop("listener", None) or Watcher(), changes.pop("loss_mask", None)
    task_type = changes.pop("task_type", known)
    folder = RunFolder.of(root, task_type, run_id).create()
    return Job(task_type, run_id, {**arguments, **changes}, model_dir, train, held_out, folder, listener, mask)


def make_encoder(folder: Path, head: bool = False) -> Path:
    """A random BERT of 2 layers and 64 hidden units, and a WordPiece tokenizer of the words in these rows."""
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertModel, PreTrainedTokenizerFast

    # Not trained: the trainer numbers words that are equally frequent by chance, and other numbers learn otherwise.
    letters = string.ascii_lowercase + string.digits
    words = [*NOISE, *GIVEAWAY.values(), *(f"w{i}" for i in range(96))]
    pieces = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *(w for w in words if len(w) > 1)]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=64,
    ).save_pretrained(folder)  # fmt: skip

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=128, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    (BertForMaskedLM(config) if head else BertModel(config)).save_pretrained(folder)
    return folder


def make_decoder(folder: Path, encoder: Path) -> Path:
    """A random Llama with the encoder's words and, like many decoders, no padding token."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = AutoTokenizer.from_pretrained(encoder).backend_tokenizer
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token="[SEP]").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=words.get_vocab_size(), hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=128, max_position_embeddings=64, eos_token_id=3, bos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


CHATML = """\
{%- if tools %}{{ '<|im_start|>system\\n' + (tools | tojson) + '<|im_end|>\\n' }}{% endif -%}
{%- for m in messages -%}
{{ '<|im_start|>' + m['role'] + '\\n' -}}
{%- if m.get('content') %}{{ m['content'] }}{% endif -%}
{%- for call in m.get('tool_calls') or [] -%}
{%- set f = call.function -%}
{{ '<tool_call>\\n' + ({'name': f.name, 'arguments': f.arguments} | tojson) + '\\n</tool_call>' }}
{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}"""


def make_chat(folder: Path, template: str | None = CHATML) -> Path:
    """A random Llama that reads bytes, so any text, with a chat template (or, with None, without one)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    words = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate([*special, *alphabet])}, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.add_special_tokens(special)
    saved = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    saved.chat_template = template
    saved.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=words.get_vocab_size(), hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=128, max_position_embeddings=1024, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_encoder_decoder(folder: Path, encoder: Path) -> Path:
    """A random BART with the encoder's words; each text ends with the [SEP] that it classifies at."""
    import torch
    from transformers import AutoTokenizer, BartConfig, BartModel, PreTrainedTokenizerFast

    words = AutoTokenizer.from_pretrained(encoder).backend_tokenizer
    PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", eos_token="[SEP]", bos_token="[CLS]", pad_token="[PAD]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=words.get_vocab_size(), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64,
        pad_token_id=0, bos_token_id=2, eos_token_id=3, decoder_start_token_id=3,
    )  # fmt: skip
    BartModel(config).save_pretrained(folder)
    return folder


def make_nested(folder: Path, encoder: Path) -> Path:
    """The encoder as an older sentence-transformers saved it: one folder for each module."""
    shutil.copytree(encoder, folder / "0_Transformer")
    module = {"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}
    (folder / "modules.json").write_text(json.dumps([module]))
    return folder
