"""`/metrics` for Prometheus."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Response

from registry import metrics
from registry.access import May, the_house
from registry.books import TheBooks

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    operation_id="getMetrics",
    dependencies=[Depends(May("metrics-read", about=the_house))],
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def get_metrics(books: TheBooks, accept: Annotated[str, Header(max_length=1_000)] = "") -> Response:
    """What the process counted and what the books say, in the text format of Prometheus or as OpenMetrics."""
    exposition, media_type = metrics.exposed(books, accept)
    return Response(exposition, media_type=media_type)
