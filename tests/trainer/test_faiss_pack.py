"""A pack answers by itself, is the same twice, and is not accepted once a bit of it has changed."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from tiny import EMBEDDING, Run, contents, trained

from trainer import faiss_pack
from trainer.export import ExportRefused, FaissPack, export


@pytest.fixture(scope="module")
def original(embedder: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(*embedder, "faiss", tmp_path_factory.mktemp("packs") / "pack")


@pytest.fixture
def pack(original: Path, tmp_path: Path) -> Path:
    """A pack to damage."""
    return Path(shutil.copytree(original, tmp_path / "pack"))


def test_a_pack_finds_the_document_that_belongs_to_the_query(embedder: Run, original: Path) -> None:
    job, _ = embedder
    pack = FaissPack.load(original)

    found = [[hit.text for hit in pack.search(row["anchor"], k=10)] for row in job.train_rows]

    shares = [row["positive"] in texts for row, texts in zip(job.train_rows, found, strict=True)]
    assert np.mean(shares) > 0.8  # a random model finds 10 of 144 documents: 0.07


def test_hits_are_cosines_best_first(embedder: Run, original: Path) -> None:
    _, outcome = embedder
    pack = FaissPack.load(original)

    hits = pack.search("the w3", k=5)

    query, *documents = outcome.model.encode(["the w3", *(hit.text for hit in hits)])
    assert [hit.score for hit in hits] == pytest.approx([float(query @ document) for document in documents], abs=1e-5)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_a_pack_holds_each_positive_of_the_run_once(embedder: Run, original: Path) -> None:
    job, _ = embedder
    expected = {row["positive"] for row in (*job.train_rows, *job.eval_rows)}

    pack = FaissPack.load(original)

    assert set(pack.texts.values()) == expected
    assert pack.manifest["documents"] == len(expected) == pack.index.ntotal
    assert len(pack.search("w1", k=10_000)) == len(expected)


def test_a_pack_needs_neither_the_run_nor_the_base_model(embedder_lora: Run, tmp_path: Path) -> None:
    pack = export(*embedder_lora, "faiss", tmp_path / "pack")
    asks = (
        "import sys, pathlib\nfrom trainer.faiss_pack import FaissPack\n"
        "print(FaissPack.load(pathlib.Path(sys.argv[1])).search('the w3', 1)[0].text)"
    )

    reply = subprocess.run(
        [sys.executable, "-c", asks, str(pack)], capture_output=True, text=True, check=True, cwd=tmp_path
    )

    assert reply.stdout.strip()
    assert not (pack / "model" / "adapter_config.json").exists()


def test_the_same_run_gives_the_same_bytes(embedder: Run, original: Path, tmp_path: Path) -> None:
    again = export(*embedder, "faiss", tmp_path / "again")

    assert contents(again) == contents(original)


def test_a_pack_says_how_well_its_index_finds(original: Path) -> None:
    manifest = json.loads((original / "manifest.json").read_text())

    assert manifest["index"] == "IndexFlatIP"
    assert manifest["recall@10"] == 1.0
    assert (manifest["metric"], manifest["dimension"]) == ("inner-product", 64)


def test_many_documents_go_into_a_graph_with_measured_recall(embedder: Run, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(faiss_pack, "HNSW_FROM", 100)

    first, second = (export(*embedder, "faiss", tmp_path / name) for name in ("first", "second"))

    pack = FaissPack.load(first)
    assert pack.manifest["index"] == "IndexHNSWFlat"
    assert pack.manifest["recall@10"] > 0.95
    assert pack.search("the w3", 3)[0].score <= 1.0001
    assert contents(first) == contents(second)


def test_a_graph_is_the_same_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_pack, "HNSW_FROM", 100)
    vectors = np.random.default_rng(0).normal(size=(2_000, 16)).astype(np.float32)
    threads = faiss.omp_get_max_threads()

    def graph(on: int) -> Any:
        faiss.omp_set_num_threads(on)
        return faiss.serialize_index(faiss_pack._index(vectors, np.arange(2_000)))

    one, two = graph(1), graph(2)
    faiss.omp_set_num_threads(threads)

    assert np.array_equal(one, two)


def test_a_document_may_hold_any_line_separator(embedder: Run, tmp_path: Path) -> None:
    text = "w1\u2028w2\u0085w3\x0bw4\nw5\rw6"
    folder = tmp_path / "pack"
    folder.mkdir()

    faiss_pack.write(folder, embedder[1].model, documents=[text, "w7"], queries=[])

    assert FaissPack.load(folder).search(text, 1)[0].text == text


def test_a_pack_that_could_not_be_loaded_again_is_not_handed_over(
    embedder: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tokenizer with a file of a kind of its own, as PhoBERT's `bpe.codes`."""
    tokenizer = type(embedder[1].model.tokenizer)
    plain = tokenizer.save_pretrained

    def save(self: Any, folder: str, *args: Any, **kwargs: Any) -> Any:
        (Path(folder) / "bpe.codes").write_text("e r 1")
        return plain(self, folder, *args, **kwargs)

    monkeypatch.setattr(tokenizer, "save_pretrained", save)

    with pytest.raises(ExportRefused, match=r"`model/bpe.codes` has no place in a pack"):
        export(*embedder, "faiss", tmp_path / "pack")

    assert list(tmp_path.iterdir()) == []


def test_vectors_that_are_not_normalised_are_refused(encoder: Path, tmp_path: Path) -> None:
    run = trained(tmp_path, encoder, EMBEDDING, normalize_embeddings=False)

    with pytest.raises(ExportRefused, match=r"not of length 1.*train with `normalize_embeddings`"):
        export(*run, "faiss")

    assert not (run[0].folder.root / "faiss").exists()


@pytest.mark.parametrize("name", ["index.faiss", "docs.jsonl", "model/model.safetensors", "model/tokenizer.json"])
def test_a_flipped_bit_is_caught_on_load(name: str, pack: Path) -> None:
    content = bytearray((pack / name).read_bytes())
    content[len(content) // 2] ^= 1
    (pack / name).write_bytes(content)

    with pytest.raises(ExportRefused, match=f"`{name}` was changed"):
        FaissPack.load(pack)


def damage_add(pack: Path) -> None:
    (pack / "model" / "extra.json").write_text("{}")


def damage_hide(pack: Path) -> None:
    (pack / "model" / ".extra.json").write_text("{}")


def damage_remove(pack: Path) -> None:
    (pack / "docs.jsonl").unlink()


def damage_pickle(pack: Path) -> None:
    (pack / "model" / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def damage_link(pack: Path) -> None:
    (pack / "docs.jsonl").rename(pack.parent / "elsewhere.jsonl")
    (pack / "docs.jsonl").symlink_to(pack.parent / "elsewhere.jsonl")


def damage_manifest(pack: Path) -> None:
    (pack / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_add, "`model/extra.json` was added"),
        (damage_hide, "`model/.extra.json` has no place in a pack"),
        (damage_remove, "`docs.jsonl` is missing"),
        (damage_pickle, "`model/pytorch_model.bin` has no place in a pack"),
        (damage_link, "symbolic link"),
        (damage_manifest, "has no `manifest.json`"),
    ],
)
def test_a_pack_with_other_files_is_not_loaded(damage: Callable[[Path], None], message: str, pack: Path) -> None:
    damage(pack)

    with pytest.raises(ExportRefused, match=message):
        FaissPack.load(pack)


def test_an_archive_is_not_opened(original: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "pack"), "zip", original)

    with pytest.raises(ExportRefused, match="archives are not opened"):
        FaissPack.load(Path(archive))


def test_a_model_that_does_not_belong_to_the_index_fails_the_probe(pack: Path, encoder: Path) -> None:
    """Somebody swaps the weights and mends the digests: the vector of the probe gives it away."""
    from safetensors.torch import load_file, save_file

    weights = pack / "model" / "model.safetensors"
    save_file({name: tensor * 1.5 for name, tensor in load_file(weights).items()}, weights, metadata={"format": "pt"})
    manifest = json.loads((pack / "manifest.json").read_text())
    manifest["files"][weights.relative_to(pack).as_posix()] = hashlib.sha256(weights.read_bytes()).hexdigest()
    (pack / "manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(ExportRefused, match="gives the probe another vector"):
        FaissPack.load(pack)
