"""A retrieval pack: model, documents and FAISS index in one folder that answers queries by itself.

    manifest.json   sha256 of each file below; dimension, metric, faiss version, model digest, probe, recall
    index.faiss     inner product over L2-normalised float32 vectors, which is cosine; ids as in docs.jsonl
    docs.jsonl      one {"id", "text"} a line; the id is the first 63 bits of the text's sha256
    model/          the whole encoder (adapters merged), tokenizer and pooling

Below `HNSW_FROM` documents the index is exact. From there on it is an HNSW graph (Malkov & Yashunin 2016,
arXiv:1603.09320). Either way `recall@10` against exact search is measured, and the same vectors give the same bytes
(FAISS 1.15 builds the same graph on any number of threads).

The digests find damage, and the probe a model that does not belong to its index. Neither is a signature: whoever can
rewrite a file can rewrite the manifest too.
"""

# ruff: noqa: N803, N806 -- names end in their shape: D documents, Q queries, E dimensions, K neighbours

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from enforcer.problems import Invalid
from trainer.evaluate import top_documents
from trainer.inputs import folders

Vectors = NDArray[np.float32]

HNSW_FROM = 100_000  # documents; below, exact search takes milliseconds
HNSW_LINKS, HNSW_BUILD, HNSW_SEARCH = 32, 200, 128
RECALL_QUERIES = 200
UNIT_TOLERANCE = 1e-4  # float32 normalisation stays within 1e-6
PROBE_TOLERANCE = 1e-3  # between machines; another model is off by whole units
FILES = frozenset(
    {".json", ".jsonl", ".faiss", ".safetensors", ".txt", ".model", ".jinja"}
)  # none of them can hold code


class ExportRefused(Invalid):
    """An export that cannot be had, or a pack that cannot be trusted; the message says why and what to do next."""

    code, title = "export-refused", "the model cannot be handed over like this"


@dataclass(frozen=True)
class Hit:
    """A document found; `score` is its cosine to the query, in [-1, 1]."""

    id: int
    score: float
    text: str


@dataclass(frozen=True)
class FaissPack:
    """A pack that passed its self-test."""

    manifest: Mapping[str, Any]
    model: Any
    index: Any
    texts: Mapping[int, str]

    @classmethod
    def load(cls, path: str | Path) -> "FaissPack":
        """Check every byte, load, and ask the model for the probe's vector again.

        Raises:
            ExportRefused: no folder; a file is missing, added, changed or can hold code; or this is another model.
        """
        path = Path(path)
        manifest = _checked_manifest(path)
        model = _load_model(path / "model")
        probe = np.asarray(manifest["probe"]["vector"], np.float32)
        drift = float(np.abs(_encode(model, [manifest["probe"]["text"]])[0] - probe).max())
        if not drift <= PROBE_TOLERANCE:  # not `>`: NaN is refused too
            raise ExportRefused(
                f"the model in `{path}` gives the probe another vector (off by {drift:.2g}); export it again"
            )
        with (path / "docs.jsonl").open(encoding="utf-8") as lines:  # not str.splitlines: a text may hold U+2028
            texts = {line["id"]: line["text"] for line in map(json.loads, lines)}
        return cls(manifest, model, faiss.read_index(str(path / "index.faiss")), texts)

    def search(self, text: str, k: int = 10) -> list[Hit]:
        """The k nearest documents, best first; fewer when the pack holds fewer."""
        scores_1K, ids_1K = self.index.search(_encode(self.model, [text]), min(k, self.index.ntotal))
        found = zip(ids_1K[0].tolist(), scores_1K[0].tolist(), strict=True)
        return [Hit(number, score, self.texts[number]) for number, score in found if number != -1]


def write(folder: Path, model: Any, documents: Sequence[str], queries: Sequence[str]) -> None:
    """Fill an existing, empty folder with a pack. `queries` only measure the recall; documents are taken once each.

    Raises:
        ExportRefused: no documents, vectors that are not of length 1, whose inner product would be no cosine, or a pack
            that could not be loaded again.
    """
    texts = list(dict.fromkeys(documents))
    if not texts:
        raise ExportRefused(
            "a `faiss` pack needs documents; give the run training or evaluation rows with a `positive`"
        )
    ids = np.array([_id(text) for text in texts], np.int64)
    assert len(set(ids.tolist())) == len(ids), "two texts share 63 bits of sha256"
    vectors_DE = _encode(model, texts)
    off = _refuse_unnormalised(vectors_DE)
    index = _index(vectors_DE, ids)

    model.save_pretrained(str(folder / "model"), create_model_card=False)
    faiss.write_index(index, str(folder / "index.faiss"))
    with (folder / "docs.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(
            _json({"id": number, "text": text}) + "\n" for number, text in zip(ids.tolist(), texts, strict=True)
        )
    probe = texts[0]
    digests = _digests(folder)
    manifest = {
        "format": "tagwarden-faiss-pack/1",
        "documents": len(texts),
        "dimension": vectors_DE.shape[1],
        "metric": "inner-product",
        "max_norm_error": off,
        "pooling": model[1].pooling_mode,
        "index": type(faiss.downcast_index(index.index)).__name__,
        "faiss": faiss.__version__,
        "files": digests,
        "model_sha256": hashlib.sha256(
            _json({k: v for k, v in digests.items() if k.startswith("model/")}).encode()
        ).hexdigest(),
        "probe": {"text": probe, "vector": vectors_DE[0].tolist()},
        "recall@10": _recall(index, ids, vectors_DE, _encode(model, list(queries)[:RECALL_QUERIES] or [probe])),
    }
    (folder / "manifest.json").write_text(
        json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8"
    )
    FaissPack.load(folder)


def _id(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1  # FAISS ids are signed


def _index(vectors_DE: Vectors, ids: NDArray[np.int64]) -> Any:
    dimension = vectors_DE.shape[1]
    if len(ids) < HNSW_FROM:
        inner: Any = faiss.IndexFlatIP(dimension)
    else:
        inner = faiss.IndexHNSWFlat(dimension, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        inner.hnsw.efConstruction, inner.hnsw.efSearch = HNSW_BUILD, HNSW_SEARCH
    index = faiss.IndexIDMap2(inner)
    index.add_with_ids(vectors_DE, ids)
    return index


def _recall(index: Any, ids: NDArray[np.int64], vectors_DE: Vectors, queries_QE: Vectors) -> float:
    """The share of the exact ten nearest documents that the index finds, over all queries."""
    exact_QK = ids[top_documents(queries_QE, vectors_DE, 10)]
    found_QK = index.search(queries_QE, exact_QK.shape[1])[1]
    hits = sum(len(set(a) & set(b)) for a, b in zip(exact_QK.tolist(), found_QK.tolist(), strict=True))
    return hits / exact_QK.size


def _refuse_unnormalised(vectors_NE: Vectors) -> float:
    """How far the worst vector is from length 1."""
    off = float(np.abs(np.linalg.norm(vectors_NE, axis=1) - 1).max())
    if not off <= UNIT_TOLERANCE:  # not `>`: NaN is refused too
        raise ExportRefused(
            f"`faiss` searches by inner product, and these vectors are not of length 1 (off by {off:.2g}); "
            "train with `normalize_embeddings`"
        )
    return off


def _checked_manifest(path: Path) -> Mapping[str, Any]:
    if not path.is_dir():
        raise ExportRefused(f"`{path}` is no folder; a pack is a folder, archives are not opened")
    for file in path.rglob("*"):
        if file.is_symlink():
            raise ExportRefused(f"`{path}` holds a symbolic link; copy the pack with its files")
        if file.is_file() and (file.suffix not in FILES or file.name.startswith(".")):
            raise ExportRefused(
                f"`{file.relative_to(path)}` has no place in a pack, which holds {', '.join(sorted(FILES))} only"
            )
    if not (path / "manifest.json").is_file():
        raise ExportRefused(f'`{path}` has no `manifest.json`; point at a pack that `format="faiss"` wrote')
    manifest: Mapping[str, Any] = json.loads((path / "manifest.json").read_bytes())
    found, expected = _digests(path), manifest["files"]
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            fault = "is missing" if name not in found else "was added" if name not in expected else "was changed"
            raise ExportRefused(f"`{name}` {fault} since the pack was written; fetch or export it again")
    return manifest


def _digests(folder: Path) -> dict[str, str]:
    found = folders.file_digests(folder)
    return {name: digest.removeprefix("sha256:") for name, digest in found.items() if name != "manifest.json"}


def _load_model(folder: Path) -> Any:
    from trainer.recipes import embedding  # torch, only now

    return embedding.load(folder)


def _encode(model: Any, texts: Sequence[str]) -> Vectors:
    vectors = model.encode(list(texts), batch_size=32, convert_to_numpy=True, show_progress_bar=False)
    return np.ascontiguousarray(vectors, np.float32)


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
