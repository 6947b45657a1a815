"""One router for each interface that a task type may name. They speak HTTP; the engine behind them knows the model."""

import base64
import time
import uuid
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from fastapi import APIRouter

from trainer.serve import chat_route
from trainer.serve.problems import InputRefused
from trainer.serve.serving import Serving
from trainer.serve.wire import (
    Classified,
    ClassifyAnswer,
    ClassifyRequest,
    Document,
    Embedding,
    EmbeddingAnswer,
    EmbeddingRequest,
    Ranked,
    RerankAnswer,
    RerankRequest,
)


def embeddings(serving: Serving) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/embeddings", operation_id="createEmbedding")
    async def create(asked: EmbeddingRequest) -> EmbeddingAnswer:
        """Texts as vectors, pooled and normalised as the run says."""
        serving.check_name(asked.model)
        width = serving.engine.width  # type: ignore[attr-defined]
        if asked.dimensions not in (None, width):
            raise InputRefused(f"this model's vectors have {width} numbers, and are not cut", param="dimensions")
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        counts = await serving.fitting(texts, "input", asked.truncate)
        vectors = await serving.batcher.submit(texts)
        data = [
            Embedding(index=i, embedding=_packed(vector) if asked.encoding_format == "base64" else vector.tolist())
            for i, vector in enumerate(vectors)
        ]
        return EmbeddingAnswer(model=serving.name, data=data, usage=serving.used(sum(counts)))

    return router


def classify(serving: Serving) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/classify", operation_id="classify", response_model_exclude_none=True)
    async def create(asked: ClassifyRequest) -> ClassifyAnswer:
        """The label of each text, with the probability of every label in the order of their ids."""
        serving.check_name(asked.model)
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        counts = await serving.fitting(texts, "input", asked.truncate)
        answers = await serving.batcher.submit(texts)
        return ClassifyAnswer(
            id=f"classify-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=serving.name,
            data=[Classified(index=i, **answer) for i, answer in enumerate(answers)],
            usage=serving.used(sum(counts)),
        )

    return router


def rerank(serving: Serving) -> APIRouter:
    router = APIRouter()

    @router.post("/v2/rerank", include_in_schema=False, response_model_exclude_none=True)  # where Cohere's clients ask
    @router.post("/v1/rerank", operation_id="rerank", response_model_exclude_none=True)
    async def create(asked: RerankRequest) -> RerankAnswer:
        """How well each document answers the query, best first; documents alike stay in the order they came in."""
        serving.check_name(asked.model)
        pairs = [(asked.query, text) for text in asked.texts]
        counts = await serving.fitting(pairs, "documents", asked.truncate)
        scores = await serving.batcher.submit(pairs)
        best = sorted(range(len(pairs)), key=lambda i: -scores[i])[: asked.top_n]
        return RerankAnswer(
            id=f"rerank-{uuid.uuid4().hex}",
            model=serving.name,
            results=[
                Ranked(
                    index=i,
                    relevance_score=scores[i],
                    document=Document(text=pairs[i][1]) if asked.return_documents else None,
                )
                for i in best
            ],
            usage=serving.used(sum(counts)),
        )

    return router


INTERFACES: Mapping[str, Callable[[Serving], APIRouter]] = MappingProxyType(
    {
        "/v1/embeddings": embeddings,
        "/v1/classify": classify,
        "/v1/rerank": rerank,
        "/v1/chat/completions": chat_route.chat,
    }
)


def _packed(vector: np.ndarray) -> str:
    """OpenAI's `base64`: the numbers as little-endian float32."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
