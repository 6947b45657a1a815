"""The gate's language: `model.conf`, read by Casbin's own loader and compiled once.

(`casbin` comes from the distribution `pycasbin`; the PyPI package `casbin` is frozen, answers no rule for an allow, and
must not be installed beside it. Only this file and `reference.py` import it.)

The definitions of request, policy and roles are fixed; the matcher may say anything in these words:

    and or not (written && || !), ==, quoted names
    g(x, y) g2 g3 g4      x is y or belongs to it: groups, units, tags, targets
    member(r.sub, p.sub)  one of the caller's principals is it or belongs to it
    when(p.cond, r.ctx)   the rule's conditions hold
    lifted(p.id, r...)    a live exception lifts this rule for this request

Whatever else Casbin would take is refused: eval() (pastes policy text into the matcher), keyMatch and regexMatch (match
more than they seem to), `p.x in r.y` (a substring test when y is text). So is every effect but deny-override.
"""

import ast
import importlib.metadata
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any, Protocol

import casbin
from casbin.effect import effect_to_bool, get_effector
from casbin.effect.effector import Effector

from enforcer.policy.rules import Effect, PolicyInvalid

REQUEST = ("sub", "dom", "obj", "act", "env", "ctx")
POLICY = ("id", "sub", "dom", "obj", "act", "env", "cond", "eft")
ROLES = ("g", "g2", "g3", "g4")
EFFECT = "some(where (p_eft == allow)) && !some(where (p_eft == deny))"
MAX_MATCHER = 4_000
# CPython 3.11 raises SystemError when two threads parse at once, and stock Casbin parses its matcher on each request.
ONE_PARSES = threading.Lock()

_EFFECTOR = get_effector(EFFECT)

_SECTIONS = ["request_definition", "policy_definition", "role_definition", "policy_effect", "matchers"]
_ARGUMENTS = (*(f"r_{name}" for name in REQUEST), *(f"p_{name}" for name in POLICY))
_TYPED = {
    "member": ("r_sub", "p_sub"),
    "when": ("p_cond", "r_ctx"),
    "lifted": ("p_id", "r_sub", "r_dom", "r_obj", "r_act", "r_env", "r_ctx"),
}
# r_sub (names) and r_ctx (facts) are no text, and only the functions above know what to do with them.
_TEXT = frozenset(_ARGUMENTS) - {"r_sub", "r_ctx"}
# Casbin rewrites `!`, `&&`, `#` and `p.` (to `p_`) inside quotes too, so a quoted name holds none of them.
_QUOTED = re.compile(r"[A-Za-z0-9*:/-]*")
# Terms that a request cannot meet unless the rule names the request's own value or something above it.
_DEMANDS = {
    "r_act == p_act": "act",
    "r_act == p_act or p_act == '*'": "act",
    "r_obj == p_obj": "obj",
    "g3(r_obj, p_obj)": "obj",
    "r_dom == p_dom": "dom",
    "g2(r_dom, p_dom)": "dom",
    "member(r_sub, p_sub)": "sub",
}


class Matches(Protocol):
    """The matcher: does this line of the policy speak of this request? Arguments in the order of REQUEST, POLICY."""

    def __call__(self, *values: Any) -> bool: ...


@dataclass(frozen=True)
class Model:
    """A compiled model. `demands` are the columns in which a line must name the request's value or one above it."""

    matcher: str
    demands: frozenset[str]
    _code: CodeType

    def bind(self, functions: Mapping[str, Callable[..., bool]]) -> Matches:
        """The matcher over these functions, and no builtins."""
        return FunctionType(self._code, {"__builtins__": {}, **functions})

    def merge(self, effects: Iterable[tuple[str, Effect]]) -> tuple[bool, str | None]:
        """Casbin's effector over the rules that fit, in their order: whether it is allowed, and the rule that decided
        (the first that denies, the last that allows)."""
        seen: set[int] = set()
        decided = None
        for rule, effect in effects:
            decided = rule
            seen.add(Effector.DENY if effect == "deny" else Effector.ALLOW)
            if _EFFECTOR.intermediate_effect(seen) != Effector.INDETERMINATE:
                break
        return effect_to_bool(_EFFECTOR.final_effect(seen)), decided


def parse(text: str) -> Model:
    """Read and compile a model. Raises PolicyInvalid, naming what it may not say."""
    _refuse_the_frozen_casbin()
    _check_headings(text)
    try:
        loaded = casbin.Enforcer.new_model(text=text)
    except Exception as error:  # Casbin's loader raises whatever it stumbles over
        raise PolicyInvalid(f"model.conf: {error}") from error
    _check_definitions(loaded)
    matcher = loaded["m"]["m"].value
    if len(matcher) > MAX_MATCHER:
        raise PolicyInvalid(f"model.conf: the matcher has {len(matcher)} characters; at most {MAX_MATCHER}")
    for _, name in re.findall(r"(['\"])(.*?)\1", matcher):
        if not _QUOTED.fullmatch(name):
            raise PolicyInvalid(f"model.conf: the matcher may not say `{name}`; Casbin would read it as another name")
    try:
        with ONE_PARSES:
            tree = ast.parse(_as_python(matcher), mode="eval").body
        _check(tree)
        return Model(matcher, frozenset(_demanded(tree)), _compile(tree))
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        raise PolicyInvalid(f"model.conf: the matcher `{matcher[:200]}` is no expression: {error}") from error


def _check_headings(text: str) -> None:
    """Every section and line once. Casbin takes the last of two and passes over what it does not know."""
    sections = re.findall(r"^\s*\[(.*)\]\s*$", text, re.MULTILINE)
    names = re.findall(r"^\s*(\w+)\s*=(?!=)", text, re.MULTILINE)
    if sections != _SECTIONS or names != ["r", "p", *ROLES, "e", "m"]:
        raise PolicyInvalid(
            f"model.conf has sections {', '.join(sections) or 'none'} with {', '.join(names) or 'nothing'}; "
            f"it must have {', '.join(_SECTIONS)} with r, p, {', '.join(ROLES)}, e, m, each once and in this order"
        )


def _check_definitions(loaded: Any) -> None:
    for kind, expected in (("r", REQUEST), ("p", POLICY)):
        found = tuple(loaded[kind][kind].tokens)
        if found != tuple(f"{kind}_{name}" for name in expected):
            raise PolicyInvalid(f"model.conf: `{kind}` must be `{', '.join(expected)}`, not `{', '.join(found)}`")
    for role in ROLES:
        if loaded["g"][role].value.replace(" ", "") != "_,_":
            raise PolicyInvalid(f"model.conf: `{role}` must be `_, _`, not `{loaded['g'][role].value}`")
    if loaded["e"]["e"].value != EFFECT:
        raise PolicyInvalid(
            f"model.conf: the effect must be `{EFFECT.replace('p_', 'p.')}`; `{loaded['e']['e'].value}` may allow what "
            "no rule allows, or what a rule denies"
        )


def _as_python(matcher: str) -> str:
    """As `casbin.CoreEnforcer._get_expression` has it."""
    return re.sub(r"!(?!=)", "not ", matcher.replace("&&", "and").replace("||", "or")).strip()


def _check(node: ast.expr) -> None:
    match node:
        case ast.BoolOp(values=parts):
            for part in parts:
                _check(part)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            _check(operand)
        case ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]) if _is_text(left) and _is_text(right):
            pass
        case ast.Call(func=ast.Name(id=name), args=[left, right], keywords=[]) if name in ROLES:
            if not (_is_text(left) and _is_text(right)):
                raise _refused(node)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _TYPED:
            if tuple(arg.id if isinstance(arg, ast.Name) else None for arg in args) != _TYPED[name]:
                raise _refused(node)
        case _:
            raise _refused(node)


def _is_text(node: ast.expr) -> bool:
    match node:
        case ast.Name(id=name):
            return name in _TEXT
        case ast.Constant(value=str(value)):
            return _QUOTED.fullmatch(value) is not None  # where quotes are none that `parse` has seen
    return False


def _refused(node: ast.expr) -> PolicyInvalid:
    return PolicyInvalid(
        f"model.conf: the matcher may not say `{ast.unparse(node)}`; it is made of && || ! ==, g g2 g3 g4 over names, "
        + ", ".join(f"{name}({', '.join(args).replace('_', '.')})" for name, args in _TYPED.items())
    )


def _demanded(tree: ast.expr) -> Iterable[str]:
    terms = tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]
    for term in terms:
        if column := _DEMANDS.get(ast.unparse(term)):
            yield column


def _compile(tree: ast.expr) -> CodeType:
    """The code of `lambda r_sub, ..., p_eft: <matcher>`; nothing is executed to make it."""
    parameters = ast.arguments(
        posonlyargs=[], args=[ast.arg(name) for name in _ARGUMENTS], kwonlyargs=[], kw_defaults=[], defaults=[]
    )
    whole = ast.fix_missing_locations(ast.Expression(ast.Lambda(parameters, tree)))
    return next(part for part in compile(whole, "model.conf", "eval").co_consts if isinstance(part, CodeType))


def _refuse_the_frozen_casbin() -> None:
    try:
        importlib.metadata.version("casbin")
    except importlib.metadata.PackageNotFoundError:
        return
    raise PolicyInvalid("the distribution `casbin` is installed beside `pycasbin`; uninstall both, install `pycasbin`")
