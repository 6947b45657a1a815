r"""What a run reads besides rows, resolved to digests: the base model's folder, and the code it was submitted from.

The digest of a model folder is `sha256sum` over `sha256sum`: one line `<hex>  <relative path>` for each file, sorted by
the bytes of the path. Links are followed, hidden files and folders (`.git`, `.cache`) left out. In a shell, inside the
folder:

    find -L . -type f -not -path '*/.*' -printf '%P\n' | LC_ALL=C sort | xargs -d '\n' sha256sum -- | sha256sum

What loads must be what is digested, so weights that a folder refers to outside of itself, or hidden in it, are refused.
"""

import contextlib
import hashlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from enforcer import runspec
from enforcer.problems import ModelInvalid, OutputInvalid
from enforcer.runspec import Code
from trainer.inputs import safetensors

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
GGUF = ".gguf"
NO_GGUF = (
    "GGUF holds weights for inference, mostly quantised, and training needs them whole: name the folder of the model "
    "in safetensors that it was made from"
)
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z")
AGAIN = "copy or download it again"
# Models that count positions from behind the padding token's id (RoBERTa's `create_position_ids_from_input_ids`).
OFFSET_POSITIONS = frozenset(
    """camembert data2vec-text esm ibert layoutlmv3 lilt longformer luke markuplm mpnet roberta roberta-prelayernorm
    xlm-roberta xlm-roberta-xl xmod""".split()
)
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def model_folder(name: str, environment: Mapping[str, str] | None = None) -> Path:
    """Where a model lies: a folder, or a hub name that has been downloaded before. Nothing is downloaded here.

    Raises:
        ModelInvalid: neither; or the folder holds no model that may be loaded.
    """
    folder = Path(name).expanduser()
    if folder.is_file():
        _refuse_file(name, folder)
    if not folder.is_dir():
        cached = _hub_snapshot(name, os.environ if environment is None else environment)
        if cached is None:
            download = f"; `hf download {name}` fetches it" if _HUB_NAME.fullmatch(name) else ""
            raise ModelInvalid(f"`{name}` is no model folder on this machine{download}", model=name)
        folder = cached
    try:
        _check(name, folder)
    except OSError as error:
        raise ModelInvalid(f"`{name}` cannot be read: {(error.strerror or '').lower()}", model=name) from error
    return folder.absolute()


def weights_folder(folder: Path) -> Path:
    """Where config, weights and tokenizer lie: in the folder, or where a sentence-transformers `modules.json` says.

    Raises:
        ModelInvalid: it says a place that the folder's digest does not cover.
    """
    modules = _json(folder / "modules.json")
    if isinstance(modules, list) and modules and isinstance(modules[0], dict):
        return folder / _covered(str(modules[0].get("path", "")), "modules.json", folder)
    return folder


def public_name(folder: Path) -> str:
    """What a model is called where this machine's folders mean nothing: its hub name, else the folder's own name."""
    cache = folder.parent.parent.name  # models--<owner>--<name>/snapshots/<commit>
    return cache.removeprefix("models--").replace("--", "/") if cache.startswith("models--") else folder.name


def config(weights: Path) -> dict[str, Any]:
    """`config.json`; empty where it cannot be read."""
    return _object(weights / "config.json")


def max_positions(folder: Path) -> int | None:
    """How many tokens the model can read, where its config or its tokenizer says so: the smaller of the two."""
    weights = weights_folder(folder)
    config, tokenizer = _object(weights / "config.json"), _object(weights / "tokenizer_config.json")
    limits = [config.get("max_position_embeddings"), tokenizer.get("model_max_length")]
    if config.get("model_type") in OFFSET_POSITIONS and isinstance(limits[0], int):
        padding = config.get("pad_token_id")
        limits[0] -= 1 + (padding if isinstance(padding, int) else 1)
    # transformers writes the limit of a tokenizer that has none as 10 ** 30.
    return min((limit for limit in limits if isinstance(limit, int) and 0 < limit < 10**9), default=None)


def vocabulary_size(folder: Path) -> int | None:
    """How many tokens the model tells apart, padding of the matrix included, where its config says so."""
    config = _object(weights_folder(folder) / "config.json")
    size = config.get("vocab_size") or dict(config.get("text_config") or {}).get("vocab_size")
    return size if isinstance(size, int) else None


def attention_heads(folder: Path) -> int | None:
    """How many heads a layer of attention has, where the config says so."""
    heads = _object(weights_folder(folder) / "config.json").get("num_attention_heads")
    return heads if isinstance(heads, int) else None


def attends_otherwise(folder: Path) -> str | None:
    """What in a model's config says that its tokens do not simply attend to all before them; None if they do."""
    config = _object(weights_folder(folder) / "config.json")
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        return "sliding_window"
    if config.get("attn_logit_softcapping"):
        return "attn_logit_softcapping"
    return "layer_types" if set(config.get("layer_types") or ()) - {"full_attention"} else None


def folder_digest(folder: Path) -> str:
    """The digest described on top of this file."""
    return runspec.folder_digest(file_digests(folder))


def file_digests(folder: Path) -> dict[str, str]:
    """Relative POSIX path -> `sha256:<hex>` of every file that is not hidden, sorted by the bytes of the path."""
    named = {path.relative_to(folder).as_posix(): path for path in _visible_files(folder)}
    names = sorted(named, key=os.fsencode)
    with ThreadPoolExecutor(4) as pool:  # hashlib lets other threads run while it hashes
        digests = pool.map(lambda name: file_digest(named[name]), names)
        return dict(zip(names, digests, strict=True))


def file_digest(path: Path) -> str:
    """`sha256:<hex>` of a file's bytes."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def code(folder: Path | None = None) -> Code:
    """Commit and dirtiness of the working tree around `folder`; untracked files do not count. None outside of one."""
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if commit is None or not re.fullmatch(r"[0-9a-f]{40}(?:[0-9a-f]{24})?", commit):
        return Code(commit=None, dirty=None)
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return Code(commit=commit, dirty=None if changes is None else bool(changes))


def check_writable(output_dir: Path) -> None:
    """See that a run folder can be made, without leaving anything behind.

    Raises:
        OutputInvalid: something else is in the way, or nothing can be written there.
    """
    place = output_dir.expanduser().absolute()
    while not os.path.lexists(place):
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise OutputInvalid(
            f"`output_dir` `{output_dir}` cannot be written (`{place}`: {(error.strerror or '').lower()}); "
            "choose another",
            output_dir=str(output_dir),
        ) from error


def _check(name: str, folder: Path) -> None:
    weights = weights_folder(folder)
    if (weights / "adapter_config.json").exists():
        raise ModelInvalid(
            f"`{name}` is a LoRA adapter (`adapter_config.json`) and no whole model; export its run as `merged`, and "
            "train from that",
            model=name,
        )
    config = _object(weights / "config.json")
    if not config:
        raise ModelInvalid(
            f"`{name}` has no readable `config.json`; a model folder holds one beside its weights", model=name
        )
    for file in ("config.json", "tokenizer_config.json"):
        if _object(weights / file).get("auto_map"):
            raise ModelInvalid(
                f"`{name}` wants its own code run (`auto_map` in `{file}`), which no run does; use a model that "
                "transformers knows by itself",
                model=name,
            )
    if config.get("transformers_weights"):
        raise ModelInvalid(
            f"`{name}` names a file for its weights (`transformers_weights` in `config.json`); call it "
            "`model.safetensors` and take that line out",
            model=name,
        )
    files = sorted(path.name for path in weights.iterdir())
    if any(file.endswith(".safetensors") for file in files):
        for index in weights.glob("*.safetensors.index.json"):
            shards = _object(index).get("weight_map")
            for shard in dict.fromkeys(shards.values()) if isinstance(shards, dict) else ():
                if not (weights / _covered(str(shard), index.name, folder)).is_file():
                    raise ModelInvalid(f"`{name}` lacks `{shard}`, which `{index.name}` names; {AGAIN}", model=name)
        _check_whole(name, weights)
        return
    if pickles := [file for file in files if file.endswith(PICKLES)]:
        raise ModelInvalid(
            f"`{name}` has its weights only as pickle (`{pickles[0]}`), which runs code when loaded; "
            "convert it to safetensors",
            model=name,
        )
    if ggufs := [file for file in files if file.endswith(GGUF)]:
        raise ModelInvalid(f"`{name}` has its weights only as `{ggufs[0]}`; {NO_GGUF}", model=name)
    raise ModelInvalid(f"`{name}` holds no weights (`*.safetensors`)", model=name)


def _check_whole(name: str, weights: Path) -> None:
    for file in weights.glob("*.safetensors"):
        try:
            safetensors.tensors(file)
        except safetensors.Broken as fault:
            raise ModelInvalid(f"`{file.name}` of `{name}` {fault}; {AGAIN}", model=name) from fault


def _refuse_file(name: str, path: Path) -> None:
    """A file where a folder is needed: say what it is, if its name tells."""
    suffix = path.suffix.lower()
    advice = (
        NO_GGUF
        if suffix == GGUF
        else "an archive is not opened; unpack it and name the folder"
        if suffix in ARCHIVES
        else "it is a pickle, which runs code when loaded; convert it to safetensors, in a folder with `config.json`"
        if suffix in PICKLES
        else "name the folder that holds it, with `config.json` and the tokenizer"
    )
    raise ModelInvalid(f"`{name}` is a file, and a model is a folder: {advice}", model=name)


def _covered(path: str, named_in: str, folder: Path) -> str:
    """A path that a model folder's own file names: inside the folder and not hidden, where the digest looks."""
    if any(part.startswith((".", "/")) for part in PurePosixPath(path).parts):
        raise ModelInvalid(
            f"`{named_in}` in `{folder}` points to `{path}`, which the model's digest does not cover; move it into the "
            "folder, under a name that is not hidden",
            model=str(folder),
        )
    return path


def _visible_files(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Every file that is not hidden, through links, except those that lead back to a folder they lie in."""
    here = folder.resolve()
    if here in above:
        return
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _visible_files(path, (*above, here))
        elif path.is_file():
            yield path


def _hub_snapshot(name: str, environment: Mapping[str, str]) -> Path | None:
    """The snapshot of a hub name's `main` in the Hugging Face cache."""
    if not _HUB_NAME.fullmatch(name):
        return None
    home = environment.get("HF_HOME") or "~/.cache/huggingface"
    cache = Path(environment.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()
    repository = cache / f"models--{name.replace('/', '--')}"
    with contextlib.suppress(OSError):
        snapshot = repository / "snapshots" / (repository / "refs" / "main").read_text().strip()
        return snapshot if snapshot.is_dir() else None
    return None


def _object(path: Path) -> dict[str, Any]:
    """A JSON file's object; an empty one when it is missing, broken or something else."""
    document = _json(path)
    return document if isinstance(document, dict) else {}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _git(folder: Path | None, *command: str) -> str | None:
    # A repository's own configuration may name programs to run (core.fsmonitor); we only want to look.
    git = ["git", "-C", str(folder or Path.cwd()), "-c", "core.fsmonitor=false", "--no-optional-locks", *command]
    try:
        answer = subprocess.run(git, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
