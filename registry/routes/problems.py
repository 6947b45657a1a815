"""`/problems`: what each kind of refusal means and what to do next, as a page, made from `enforcer/problems.py`.

A problem's `type` is a URN, the same in every registry and for ever; its page is named by the answer's `Link` header
(`rel="help"`), since the address of this registry is no part of what a problem is.
"""

import inspect
import re
from html import escape

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from enforcer import problems, wire
from enforcer.problems import NotFound, Problem
from registry.access import Public

router = APIRouter(prefix="/problems", tags=["problems"], dependencies=[Public])
_PAGE = '<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><h1>{title}</h1>{body}</html>\n'


@router.get("", operation_id="listProblems", response_class=HTMLResponse)
async def list_problems() -> HTMLResponse:
    """Every kind of refusal, by status."""
    found = sorted(problems.kinds().values(), key=lambda kind: (kind.status, kind.code))
    rows = [f'<li>{kind.status} <a href="/problems/{kind.code}">{kind.code}</a>: {_html(kind.title)}' for kind in found]
    return _page("Refusals", f"<ul>{''.join(rows)}</ul>")


@router.get("/{code}", operation_id="getProblem", response_class=HTMLResponse)
async def get_problem(code: wire.Name) -> HTMLResponse:
    """What one kind of refusal means, and what to do next."""
    kind = problems.kinds().get(code)
    if kind is None:
        raise NotFound(f"`{code[:60]}` is not a kind of refusal; `/problems` lists them")
    facts = f"<p><code>{kind.status}</code> <code>urn:tagwarden:problem:{kind.code}</code></p>"
    return _page(kind.code, f"{facts}{meaning(kind)}<h2>What to do next</h2><p>{_html(kind.remedy)}</p>")


def meaning(kind: type[Problem]) -> str:
    """What the kind's own docstring says of it, under its title."""
    said = inspect.cleandoc(kind.__dict__.get("__doc__") or "").split("\n\n")
    paragraphs = [kind.title[:1].upper() + kind.title[1:] + ".", *said]
    return "".join(f"<p>{_html(paragraph)}</p>" for paragraph in paragraphs if paragraph and "──" not in paragraph)


def _page(title: str, body: str) -> HTMLResponse:
    return HTMLResponse(_PAGE.format(title=escape(title), body=body), headers={"Cache-Control": "public, max-age=3600"})


def _html(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text, quote=False))
