"""The HTTP application around a loaded model: its one interface, /v1/models, /health, /metrics, and the gate."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST

from trainer.serve import errors
from trainer.serve.gate import Gate
from trainer.serve.routes import INTERFACES
from trainer.serve.serving import Serving
from trainer.serve.wire import ModelCard, ModelList


def create_app(
    serving: Serving, *, keys: Sequence[str] = (), loopback: bool = True, ready: Callable[[], None] = lambda: None
) -> FastAPI:
    """`ready` is called once, when requests will be answered. Without `keys` nobody is asked for one."""

    @asynccontextmanager
    async def running(_app: FastAPI) -> AsyncIterator[None]:
        batches = asyncio.create_task(serving.batcher.run())
        ready()
        yield
        serving.batcher.close()
        await batches

    app = FastAPI(
        title=f"{serving.run.spec.task_type}, served by tagwarden", docs_url=None, redoc_url=None, lifespan=running
    )
    routers = [INTERFACES[serving.run.interface](serving), _the_rest(serving)]
    for router in routers:
        app.include_router(router)
    errors.install(app)
    app.add_middleware(
        Gate,
        keys=keys,
        loopback=loopback,
        max_body_bytes=serving.limits.max_body_bytes,
        paths=frozenset(route.path for router in routers for route in router.routes if isinstance(route, APIRoute)),
        metrics=serving.metrics,
        render=errors.render,
    )
    return app


def _the_rest(serving: Serving) -> APIRouter:
    router = APIRouter()

    @router.get("/v1/models", operation_id="listModels")
    async def list_models() -> ModelList:
        return ModelList(data=[serving.card])

    @router.get("/v1/models/{name:path}", operation_id="getModel")
    async def get_model(name: str) -> ModelCard:
        serving.check_name(name)
        return serving.card

    @router.get("/health", operation_id="health")
    async def health() -> dict[str, Any]:
        """200 while requests are answered. Says nothing that is not everybody's."""
        return {"status": "ok", "waiting": serving.batcher.waiting}

    @router.get("/metrics", operation_id="metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(serving.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return router
