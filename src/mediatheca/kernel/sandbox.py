"""The template language: Jinja2 cut down to an allow-list, with a budget for steps, time and output.

Jinja's own sandbox guards attributes; it does not guard time and memory. So the syntax tree is checked against a list
of allowed nodes (`template_guard`), every loop, filter and call is charged to a `Budget`, and attributes are looked up
in data only.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from jinja2 import ChainableUndefined, Undefined, pass_context
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mediatheca.kernel.template_functions import (
    FUNCTIONS,
    MAX_ITEMS,
    MAX_NUMBER,
    MAX_OUTPUT,
    as_text,
    check_digits,
    check_size,
    slugify,
    to_bool,
)

T = TypeVar("T")
MAX_TEMPLATE = 64 * 1024
MAX_STEPS = 100_000
MAX_SECONDS = 0.5
"""Of a processor."""
MAX_WAIT_S = 5.0
"""What that may take where the machine has other work."""
BUDGET = "__budget"
ALLOWANCE = "__allowance"

_STRING_METHODS = frozenset({"lower", "upper", "strip", "lstrip", "rstrip", "startswith", "endswith", "split", "title"})
_STRIPPING = frozenset({"strip", "lstrip", "rstrip"})
MAX_STRIPPED = 100
_MAPPING_METHODS = frozenset({"items", "keys", "values", "get"})
_LOOP_ATTRIBUTES = frozenset({"index", "index0", "first", "last", "length", "revindex", "revindex0"})
_JINJA_FILTERS = (
    *("abs", "capitalize", "default", "d", "dictsort", "first", "float", "items", "last", "length", "count"),
    *("list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "select", "selectattr", "sort"),
    *("title", "truncate", "unique", "upper", "urlencode", "wordcount"),
)
_TESTS = (
    *("defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "true", "false", "mapping"),
    *("sequence", "iterable", "odd", "even", "divisibleby", "eq", "==", "ne", "!=", "lt", "<", "le", "<=", "gt", ">"),
    *("ge", ">=", "in", "sameas", "lower", "upper", "equalto", "greaterthan", "lessthan"),
)


class Budget:
    """What one rendering may still spend. Its time is that of a processor: waiting for one costs little."""

    __slots__ = ("_ends", "_latest", "_soonest", "missing", "steps")

    def __init__(self, seconds: float = MAX_SECONDS) -> None:
        limit = min(seconds, MAX_SECONDS)
        self.steps = MAX_STEPS
        self._ends = time.thread_time() + limit
        self._soonest = time.monotonic() + limit
        self._latest = self._soonest + MAX_WAIT_S
        self.missing: list[str] = []

    def charge(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise SecurityError(f"the template takes more than {MAX_STEPS:,} steps")
        # The thread's own time is dear to ask for, and never ahead of the clock.
        now = time.monotonic()
        if now > self._soonest and (now > self._latest or time.thread_time() > self._ends):
            raise SecurityError(f"the template takes longer than {MAX_SECONDS} s, or its execution has no time left")


class Allowance:
    """The seconds of a processor that many renderings may take together; in a scope under `ALLOWANCE`."""

    __slots__ = ("left",)

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    def spend(self, began: float) -> None:
        """`began`: of `time.thread_time`, in the same thread."""
        self.left -= time.thread_time() - began


class Missing(ChainableUndefined):
    """An absent value: chains through attributes, prints as nothing, and is recorded by the renderer."""

    __slots__ = ()

    @property
    def label(self) -> str:
        return str(self._undefined_name or "value")


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """Attribute access reads data, never Python internals; operators that multiply size are measured."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, Mapping):
            if attribute in obj:
                return obj[attribute]
            return getattr(obj, attribute) if attribute in _MAPPING_METHODS else self._missing(obj, attribute)
        if isinstance(obj, Undefined):
            return obj
        allowed = _STRING_METHODS if isinstance(obj, str) else _LOOP_ATTRIBUTES if isinstance(obj, LoopContext) else ()
        return getattr(obj, attribute) if attribute in allowed else self._missing(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, Undefined):
            return obj
        if not isinstance(obj, (Mapping, str, list, tuple)):
            return self._missing(obj, str(argument))
        try:
            return obj[argument]
        except (LookupError, TypeError, ValueError):
            return self._missing(obj, str(argument))

    def _missing(self, obj: Any, name: str) -> Missing:
        return Missing(obj=obj, name=name)

    def is_safe_callable(self, obj: Any) -> bool:
        if any(obj is function for function in FUNCTIONS.values()):
            return True
        owner = getattr(obj, "__self__", None)
        names = _STRING_METHODS if isinstance(owner, str) else _MAPPING_METHODS if isinstance(owner, Mapping) else ()
        return getattr(obj, "__name__", "") in names

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        if isinstance(obj, Missing):
            return _call_missing(obj)
        context[BUDGET].charge(1 + _length(getattr(obj, "__self__", None)))
        if getattr(obj, "__name__", "") in _STRIPPING:
            check_stripped(args[0] if args else None)
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, (str, bytes)):
            raise SecurityError("text formatting with % is not available; use ~ to join texts")
        if operator in ("*", "+"):
            _check_growth(operator, left, right)
        elif operator == "**" and (abs(right) > 64 or abs(left) > 10**15):
            raise SecurityError("** is limited to exponents of 64 and bases of 10^15")
        made = super().call_binop(context, operator, left, right)
        context[BUDGET].charge(1 + _length(made))
        return made


def _call_missing(obj: Missing) -> Missing:
    """An absent value stays absent when called; a method that present data does not have is an error."""
    owner = obj._undefined_obj
    if isinstance(owner, (str, int, float, list, tuple)):
        raise SecurityError(f"'{obj.label}' is not available on {type(owner).__name__} values")
    return obj


def _check_growth(operator: str, left: Any, right: Any) -> None:
    """Sequences stay under the output cap, integers under 1,000 bits."""
    sized = [item for item in (left, right) if isinstance(item, (str, bytes, list, tuple))]
    if operator == "*" and sized:
        times = right if sized[0] is left else left
        if isinstance(times, int) and len(sized[0]) * times > (MAX_OUTPUT if isinstance(sized[0], str) else MAX_ITEMS):
            raise SecurityError(f"the template makes more than {MAX_OUTPUT:,} characters or {MAX_ITEMS:,} items")
    elif sum(len(item) for item in sized) > MAX_OUTPUT:
        raise SecurityError(f"the template makes more than {MAX_OUTPUT:,} characters")
    if all(isinstance(item, int) for item in (left, right)) and left.bit_length() + right.bit_length() > 1000:
        raise SecurityError("the template makes an integer of more than 1,000 bits")


def _length(value: Any) -> int:
    return len(value) // 16 if isinstance(value, (str, list, tuple, Mapping)) else 0


def _metered(function: Callable[..., Any]) -> Callable[..., Any]:
    """A Jinja filter that is charged by the size of what it gets."""
    marker = getattr(function, "jinja_pass_arg", None)
    takes = getattr(marker, "name", "")

    @pass_context
    def run(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        context[BUDGET].charge(1 + _length(value))
        lead: dict[str, list[Any]] = {
            "context": [context],
            "eval_context": [context.eval_ctx],
            "environment": [context.environment],
        }
        first: list[Any] = lead.get(takes, [])
        made = function(*first, value, *args, **kwargs)
        context[BUDGET].charge(_length(made))
        return made

    return run


@pass_context
def _steps(context: Context, values: Iterable[Any]) -> Iterator[Any]:
    budget: Budget = context[BUDGET]
    if isinstance(values, Undefined):
        return
    for value in values:
        budget.charge(1)
        yield value


@pass_context
def _concat(context: Context, parts: list[Any]) -> str:
    for part in parts:
        note_missing(context, part)
    check_size(parts)
    return _charged(context, "".join(as_text(part) for part in parts))


@pass_context
def _charged(context: Context, made: T) -> T:
    """Pay for what was made: many large values are as much a burden as a large one."""
    context[BUDGET].charge(1 + _length(made))
    return made


def note_missing(context: Context, value: Any) -> None:
    if isinstance(value, Missing):
        context[BUDGET].missing.append(value.label)


def plain(value: Any) -> Any:
    """Generators and ranges as lists; methods and other objects of the language are no values."""
    if isinstance(value, (Iterator, range)):
        return list(value)
    if callable(value):
        raise SecurityError("a method is not a value; call it with ()")
    return value


@pass_context
def _finalize(context: Context, value: Any) -> Any:
    """What is printed: measured before it becomes text; nothing for null and for absent values."""
    if isinstance(value, Undefined):
        note_missing(context, value)
        return ""
    if isinstance(value, str):
        return value
    value = plain(value)
    check_size(value)
    return "" if value is None else value


@pass_context
def _join(context: Context, values: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    parts = list(_steps(context, values))
    if attribute is not None:
        parts = [context.environment.getitem(part, attribute) for part in parts]
    check_size([*parts, str(separator) * min(len(parts), 2)])
    if len(separator) * len(parts) > MAX_OUTPUT:
        raise SecurityError(f"the template makes more than {MAX_OUTPUT:,} characters")
    return _charged(context, str(separator).join(as_text(part) for part in parts))


def _round(value: Any, precision: int = 0, method: str = "common") -> Any:
    check_digits(precision)
    return FILTERS["round"](value, precision, method)


def _int(value: Any, default: int = 0, base: int = 10) -> Any:
    if isinstance(value, str) and len(value) > MAX_NUMBER:
        raise SecurityError(f"an integer is read from {MAX_NUMBER} characters at most")
    return FILTERS["int"](value, default, base)


def _trim(value: Any, chars: str | None = None) -> Any:
    check_stripped(chars)
    return FILTERS["trim"](value, chars)


def check_stripped(chars: Any) -> None:
    """Stripping looks every character up in this text: both long take minutes."""
    if isinstance(chars, str) and len(chars) > MAX_STRIPPED:
        raise SecurityError(f"at most {MAX_STRIPPED} different characters can be stripped")


@pass_context
def _sum(context: Context, values: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    """Of numbers only: adding lists copies all of them at every step."""
    if not isinstance(start, (int, float)):
        raise SecurityError("sum adds numbers; its start must be one")
    return FILTERS["sum"](context.environment, _steps(context, values), attribute, start)


def _replace(text: Any, old: str, new: str, count: int = -1) -> str:
    text = as_text(text)
    if len(text) + text.count(old) * max(0, len(new) - len(old)) > MAX_OUTPUT:
        raise SecurityError(f"the template makes more than {MAX_OUTPUT:,} characters")
    return str(text.replace(old, new, count))


def _tojson(value: Any) -> str:
    check_size(value)
    return json.dumps(None if isinstance(value, Undefined) else value, ensure_ascii=False, default=str)


def _string(value: Any) -> str:
    check_size(value)
    return as_text(value)


def make_environment() -> TemplateEnvironment:
    environment = TemplateEnvironment(undefined=Missing, finalize=_finalize, autoescape=False, cache_size=0)
    own: dict[str, Callable[..., Any]] = {
        "bool": to_bool,
        "slugify": slugify,
        "round": _round,
        "int": _int,
        "trim": _trim,
        "replace": _replace,
        "tojson": _tojson,
        "string": _string,
    }
    environment.filters = {name: _metered(FILTERS[name]) for name in _JINJA_FILTERS}
    environment.filters |= {name: _metered(function) for name, function in own.items()}
    environment.filters |= {"join": _join, "_steps": _steps, "_concat": _concat, "_charged": _charged, "sum": _sum}
    environment.tests = {name: environment.tests[name] for name in _TESTS}
    environment.globals = dict(FUNCTIONS)
    return environment
