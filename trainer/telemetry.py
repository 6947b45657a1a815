"""Spans of a submission, through the OpenTelemetry API alone: without an SDK in the environment they cost nothing.

`swift-submit run` is the root, `permit` and `launch` are its children, and the worker continues `launch` through the
environment variable `TRACEPARENT` (W3C Trace Context).
"""

import contextlib
import os
import sys
from collections.abc import Iterator, MutableMapping

VARIABLES = {"traceparent": "TRACEPARENT", "tracestate": "TRACESTATE"}


@contextlib.contextmanager
def span(name: str, **attributes: str) -> Iterator[None]:
    """One span. At the root of a process, it continues what `TRACEPARENT` says."""
    from opentelemetry import context, propagate, trace

    parent = None
    if not trace.get_current_span().get_span_context().is_valid:
        carrier = {header: os.environ[name] for header, name in VARIABLES.items() if os.environ.get(name)}
        parent = propagate.extract(carrier, context.get_current())
    with trace.get_tracer("swift-submit").start_as_current_span(name, context=parent, attributes=dict(attributes)):
        yield


def carrier() -> dict[str, str]:
    """Headers that let the registry continue the current span; empty when nobody has started one."""
    if "opentelemetry" not in sys.modules:  # then there is no span, and no reason to pay for the import
        return {}
    from opentelemetry import propagate

    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers


def hand_to_child(environment: MutableMapping[str, str]) -> None:
    """Put the current span into a child's environment."""
    headers = carrier()
    for header, name in VARIABLES.items():
        environment.pop(name, None)
        if header in headers:
            environment[name] = headers[header]
