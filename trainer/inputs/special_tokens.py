"""Which tokens of a model end what it says, and which stands for what it does not know."""

import json
from pathlib import Path
from typing import Any

from trainer.inputs.folders import weights_folder


def named(folder: Path) -> dict[str, str]:
    """`bos_token`, `eos_token` and the like, by which templates name them."""
    config = {**json_object(folder / "special_tokens_map.json"), **json_object(folder / "tokenizer_config.json")}
    tokens = {name: value for name, value in config.items() if name.endswith("_token")}
    return {
        name: text
        for name, value in tokens.items()
        if isinstance(text := value.get("content") if isinstance(value, dict) else value, str)
    }


def ends(folder: Path, tokenizer: Any) -> set[str]:
    """Those at which generation stops: the tokenizer's, and those of `generation_config.json` (else `config.json`)."""
    by_model = json_object(folder / "generation_config.json").get("eos_token_id")
    by_model = json_object(folder / "config.json").get("eos_token_id") if by_model is None else by_model
    ids = by_model if isinstance(by_model, list) else [by_model]
    spelled = [tokenizer.id_to_token(i) for i in ids if isinstance(i, int)]
    return {token for token in (named(folder).get("eos_token"), *spelled) if token}


def unknown(model: Path, tokenizer: Any) -> int | None:
    """The token for all that has none; None where there is no such token."""
    token = getattr(tokenizer.model, "unk_token", None) or named(weights_folder(model)).get("unk_token")
    return None if token is None else tokenizer.token_to_id(token)


def json_object(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
