"""What a run reads besides rows: models that may be loaded, digests anybody can repeat, the code around us."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from tiny import whole_weights

from enforcer.problems import ModelInvalid, OutputInvalid
from enforcer.runspec import Code
from trainer.inputs import folders


def model(folder: Path, **config: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **config}))
    (folder / "model.safetensors").write_bytes(whole_weights())
    return folder


def test_the_digest_of_a_folder_is_the_one_that_the_documented_command_gives(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "sub" / "deep" / "字.txt").write_text("x")
    (folder / "Z").write_text("")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "lock").write_text("not part of it")
    (folder / "sub" / ".hidden").write_text("nor this")
    (model(tmp_path / "elsewhere") / "round").symlink_to(folder)
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "sub" / "up").symlink_to(folder)
    command = next(line.strip() for line in (folders.__doc__ or "").splitlines() if line.strip().startswith("find "))

    shell = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=True)

    assert folders.folder_digest(folder) == f"sha256:{shell.stdout.split()[0]}"
    assert list(folders.file_digests(folder)) == [
        "Z", "config.json", "linked/config.json", "linked/model.safetensors", "model.safetensors", "sub/deep/字.txt"
    ]  # fmt: skip


def test_a_renamed_file_changes_the_digest(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    before = folders.folder_digest(folder)

    (folder / "model.safetensors").rename(folder / "other.safetensors")

    assert folders.folder_digest(folder) != before


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: shutil.rmtree(f), "is no model folder on this machine"),
        (lambda f: (f / "config.json").unlink(), "has no readable `config.json`"),
        (lambda f: (f / "config.json").write_text("{"), "has no readable `config.json`"),
        (lambda f: (f / "model.safetensors").unlink(), "holds no weights"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "only as pickle (`pytorch_model.bin`)"),
        (lambda f: (f / "config.json").write_text('{"auto_map": {"AutoModel": "x.Y"}}'), "wants its own code run"),
        (lambda f: (f / "tokenizer_config.json").write_text('{"auto_map": {"A": "x.Y"}}'), "`tokenizer_config.json`"),
        (
            lambda f: (f / "config.json").write_text('{"transformers_weights": ".w.safetensors"}'),
            "names a file for its",
        ),
        (lambda f: (f / "model.safetensors").rename(f / "model.Q4_1.gguf"), "safetensors that it was made from"),
        (lambda f: _cut(f / "model.safetensors", 1), "bytes, and its header speaks of"),
        (lambda f: _cut(f / "model.safetensors", 20), "is cut off inside its header"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "has 0 bytes, which is no safetensors file"),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"version https://git-lfs"),
            "does not begin as a safetensors",
        ),
        (
            lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"w": "gone.safetensors"}}'),
            "lacks `gone.safetensors`, which `model.safetensors.index.json` names",
        ),
    ],
)
def test_a_model_that_cannot_or_may_not_be_loaded_is_refused(tmp_path: Path, spoil: object, says: str) -> None:
    folder = model(tmp_path / "m")
    spoil(folder)  # type: ignore[operator]

    with pytest.raises(ModelInvalid) as refused:
        folders.model_folder(str(folder))

    assert says in refused.value.detail


def _cut(path: Path, by: int) -> None:
    path.write_bytes(path.read_bytes()[:-by])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("m.gguf", "GGUF holds weights for inference"),
        ("m.tar.gz", "an archive is not opened"),
        ("m.bin", "it is a pickle, which runs code"),
        ("m.safetensors", "name the folder that holds it"),
    ],
)
def test_a_file_is_no_model_and_what_to_do_depends_on_its_kind(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / name).write_bytes(b"x")

    with pytest.raises(ModelInvalid, match=f"is a file, and a model is a folder: {says}"):
        folders.model_folder(str(tmp_path / name))


def test_a_hub_name_is_found_in_the_cache_and_otherwise_the_download_is_named(tmp_path: Path) -> None:
    cache = tmp_path / "hub"
    snapshot = model(cache / "models--BAAI--bge-small-zh-v1.5" / "snapshots" / "abc")
    (cache / "models--BAAI--bge-small-zh-v1.5" / "refs").mkdir()
    (cache / "models--BAAI--bge-small-zh-v1.5" / "refs" / "main").write_text("abc")
    environment = {"HF_HUB_CACHE": str(cache)}

    assert folders.model_folder("BAAI/bge-small-zh-v1.5", environment) == snapshot
    with pytest.raises(ModelInvalid, match="`hf download Qwen/Qwen3-7B` fetches it"):
        folders.model_folder("Qwen/Qwen3-7B", environment)


def test_a_sentence_transformers_folder_may_keep_its_weights_one_level_down(tmp_path: Path) -> None:
    folder = tmp_path / "st"
    model(folder / "0_Transformer", max_position_embeddings=77)
    (folder / "modules.json").write_text('[{"path": "0_Transformer"}]')

    assert folders.model_folder(str(folder)) == folder
    assert folders.max_positions(folder) == 77


@pytest.mark.parametrize("path", ["../enc", "/enc", ".w", "sub/.w", "sub/../../enc"])
def test_weights_that_the_digest_does_not_cover_are_refused(tmp_path: Path, path: str) -> None:
    folder = model(tmp_path / "st")
    for place in (folder / ".w", folder / "sub" / ".w", tmp_path / "enc"):
        model(place)
    (folder / "modules.json").write_text(json.dumps([{"path": path}]))
    sharded = model(tmp_path / "sharded")
    index = {"weight_map": {"a": "model.safetensors", "b": f"{path}/model.safetensors"}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))

    for refused in (folder, sharded):
        with pytest.raises(ModelInvalid, match="which the model's digest does not cover"):
            folders.model_folder(str(refused))


def test_weights_behind_a_link_are_digested(tmp_path: Path) -> None:
    weights = model(tmp_path / "enc")
    folder = tmp_path / "st"
    folder.mkdir()
    (folder / "modules.json").write_text('[{"path": "0_Transformer"}]')
    (folder / "0_Transformer").symlink_to(weights)
    before = folders.folder_digest(folders.model_folder(str(folder)))

    (weights / "model.safetensors").write_bytes(b"others")

    assert folders.folder_digest(folder) != before


def test_an_adapter_is_no_base_model(tmp_path: Path) -> None:
    folder = model(tmp_path / "lora")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere"}')

    with pytest.raises(ModelInvalid, match=r"is a LoRA adapter .* export its run as `merged`"):
        folders.model_folder(str(folder))


@pytest.mark.parametrize(
    ("config", "tokenizer", "reads"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0}, {}, 512),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}, {}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514}, {}, 512),
        ({"max_position_embeddings": 512}, {"model_max_length": 128}, 128),
        ({"max_position_embeddings": 512}, {"model_max_length": int(1e30)}, 512),
        ({}, {"model_max_length": int(1e30)}, None),
    ],
)
def test_how_many_tokens_a_model_reads(
    tmp_path: Path, config: dict[str, object], tokenizer: dict[str, object], reads: int | None
) -> None:
    folder = model(tmp_path / "m", **config)
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))

    assert folders.max_positions(folder) == reads


def test_a_model_is_called_by_its_hub_name_or_its_folder() -> None:
    assert folders.public_name(Path("/hub/models--BAAI--bge-small-zh-v1.5/snapshots/abc")) == "BAAI/bge-small-zh-v1.5"
    assert folders.public_name(Path("/home/li/models/ours")) == "ours"


def test_the_code_is_a_commit_and_whether_it_was_changed_since(tmp_path: Path) -> None:
    def git(*command: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *command], check=True, capture_output=True)

    assert folders.code(tmp_path) == Code(commit=None, dirty=None), "no repository"
    git("init")
    assert folders.code(tmp_path).commit is None, "no commit yet"
    (tmp_path / "a.py").write_text("1")
    git("add", "a.py")
    git("commit", "-m", "a")

    clean = folders.code(tmp_path)
    (tmp_path / "output").write_text("untracked")
    still_clean = folders.code(tmp_path)
    (tmp_path / "a.py").write_text("2")

    assert clean.dirty is False
    assert still_clean == clean
    assert folders.code(tmp_path) == Code(commit=clean.commit, dirty=True)


def test_an_output_folder_is_tried_without_leaving_anything(tmp_path: Path) -> None:
    folders.check_writable(tmp_path / "deep" / "below")

    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_cannot_be_written_names_what_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text(hashlib.sha256(b"").hexdigest())

    for place in (tmp_path / "file" / "below", Path("/proc/output")):
        with pytest.raises(OutputInvalid, match="cannot be written"):
            folders.check_writable(place)
