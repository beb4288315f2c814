"""A rule as a scorer: a function that gets an answer and what it answers, and returns a number.

It runs in processes of their own: one that hangs, dies or eats memory costs the answer that it was at.
"""

import ast
import hashlib
import importlib.util
import inspect
import math
import numbers
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..errors import DataError, excerpt
from ..pairs import FLOAT32_MAX
from ..pool import DIED, HUNG, WorkerPool
from . import ready_rules
from .pictures import Pictures
from .requests import PLACEHOLDER, Request, Scored, Unscored


MAY_HAVE = ("question", "answer", "reference", "references", "images", "system", "history", "row")
NEEDS_REFERENCE = {"reference", "references"}
MOST_WORKERS = 8
TOGETHER, SECONDS = 256, 1.0  # scores that are kept at a time, and how old the first of them may get


@dataclass(frozen=True)
class Spec:
    """Where a rule is: the name of a ready one, or a function in a file."""

    name: str
    file: str = ""

    @cache  # noqa: B019  as long as the process that scores
    def load(self) -> tuple[Callable[..., Any] | None, str]:
        """Return the function, or what is wrong with it."""
        try:
            if not self.file:
                return ready_rules.prepared(self.name), ""
            spec = importlib.util.spec_from_file_location("rule", self.file)
            module = sys.modules["rule"] = importlib.util.module_from_spec(spec)
            sys.path.insert(0, os.path.dirname(self.file))  # what lies beside it may be imported, as by a script
            spec.loader.exec_module(module)
            function = getattr(module, self.name, None)
        except (Exception, SystemExit) as error:  # it is somebody else's program
            return None, f"cannot be loaded: {_told(error)}"
        return (function, "") if callable(function) else (None, f"there is no function {self.name} in it")


@dataclass(frozen=True)
class Broken:
    """What stands for a score where the rule itself could not be loaded."""

    reason: str


class Rule:
    """A function as a scorer. Its parameters say what it gets: any of `MAY_HAVE`, by these names."""

    reads_images = True
    patient = True  # failures in a row are no reason to stop: each is about its own answer

    def __init__(self, options: SimpleNamespace, pictures: Pictures):
        """Look at the rule, with the options of `data.py score`; none of it runs yet."""
        self.spec, takes, code = _find(options.rule)
        if odd := sorted(takes - {*MAY_HAVE}):
            raise DataError(
                f"--rule {options.rule} has the parameter {odd[0]}; what a rule can get is {', '.join(MAY_HAVE)}."
            )
        self.name, self.takes, self.pictures = options.rule, takes, pictures
        self.uses_reference, self.uses_row = bool(takes & NEEDS_REFERENCE), "row" in takes
        self.limit, self.workers = options.time_limit, options.workers or min(MOST_WORKERS, os.cpu_count() or 1)
        pixels = [pictures.min_pixels, pictures.max_pixels] if "images" in takes else []
        self.identity = {"kind": "rule", "rule": self.spec.name, "code": code, "pixels": pixels}

    def score(self, requests: Iterable[Request]) -> Iterator[Scored]:
        """Score answers, several at a time, each as soon as it is scored."""
        pool = WorkerPool(
            partial(_apply, self.spec, self.takes, self.pictures), self.workers, self.limit, self.spec.load
        )
        scored: Scored = []
        since = time.monotonic()
        for request, result in pool.map(requests):
            scored.append((request, self._score(result)))
            # Keeping each by itself would take longer than most rules.
            if isinstance(scored[-1][1], Unscored) or len(scored) == TOGETHER or time.monotonic() - since > SECONDS:
                yield scored
                scored, since = [], time.monotonic()
        if scored:
            yield scored

    def _score(self, result: Any) -> float | Unscored:
        if isinstance(result, Broken):
            raise DataError(f"--rule {self.name}: {result.reason}")
        if result == HUNG:
            return Unscored(f"the rule took more than {self.limit:g} s (--time-limit), and was stopped")
        return Unscored("the rule ended its process") if result == DIED else result


def _apply(spec: Spec, takes: frozenset[str], pictures: Pictures, request: Request) -> float | Unscored | Broken:
    """Run the rule for one answer, in a process of the pool."""
    function, wrong = spec.load()
    if function is None:
        return Broken(wrong)
    if not request.reference and takes & NEEDS_REFERENCE:
        return Unscored("the row has no right answer (--reference names the column)")
    try:
        return _number(function(**_given(takes, pictures, request)))
    except (Exception, SystemExit) as error:  # it is somebody else's program
        return Unscored(f"the rule raised {_told(error)}")


def _given(takes: frozenset[str], pictures: Pictures, request: Request) -> dict[str, Any]:
    """Return what the rule gets: texts without `<image>`, images as training sees them."""
    texts = [(role, text.replace(PLACEHOLDER, "").strip()) for role, text in request.messages]
    known = {
        "question": texts[-1][1],
        "answer": request.answer,
        "reference": request.reference[0] if request.reference else None,
        "references": list(request.reference),
        "system": request.system,
        "history": texts[:-1],
        "row": request.row,
    }
    given = {name: known[name] for name in takes if name in known}
    if "images" in takes:
        given["images"] = [pictures.load(image) for image in request.images]
    return given


def _number(value: Any) -> float | Unscored:
    """Return the score that a rule returned, or what it is instead of one."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # of numpy or torch
        value = value.item()
    if not isinstance(value, numbers.Real):
        return Unscored(f"the rule returned {excerpt(value)} instead of a number")
    try:
        score = float(value)
    except OverflowError:
        score = math.inf
    if not abs(score) <= FLOAT32_MAX:  # also true for NaN
        return Unscored(f"the rule returned {excerpt(value)}, which is not finite in float32")
    return score


def _told(error: BaseException) -> str:
    """Return an error in one line, with the line of the rule that it came from."""
    trace, place = error.__traceback__, ""
    while trace:
        if trace.tb_frame.f_globals.get("__name__") == "rule":
            place = f" (line {trace.tb_lineno})"
        trace = trace.tb_next
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:200]}{place}" if said else f"{type(error).__name__}{place}"


def _find(rule: str) -> tuple[Spec, frozenset[str], str]:
    """Return where a rule is, what it takes, and a hash of its code, without running any of it."""
    if rule in ready_rules.RULES:
        takes = frozenset(inspect.signature(ready_rules.RULES[rule]).parameters)
        return Spec(rule), takes, ready_rules.version(rule)
    path, colon, name = rule.rpartition(":")
    if not colon or not path.endswith(".py"):
        raise DataError(f"--rule {rule}: a rule is FILE.py:FUNCTION, or one of {', '.join(ready_rules.RULES)}.")
    file = Path(path)
    try:
        code = file.read_bytes()
        tree = ast.parse(code)
    except OSError as error:
        raise DataError(f"--rule {rule}: cannot read {path}: {error.strerror}") from error
    except (SyntaxError, ValueError) as error:
        raise DataError(f"--rule {rule}: {path} is no Python: {error}") from error
    defined = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    if name not in defined:
        raise DataError(f"--rule {rule}: {path} defines no function {name}; it has {', '.join(defined) or 'none'}.")
    takes = frozenset(argument.arg for argument in _arguments(defined[name].args))
    return Spec(name, str(file.resolve())), takes, hashlib.sha256(code).hexdigest()


def _arguments(listed: ast.arguments) -> list[ast.arg]:
    """Return the parameters that have to be given; others keep what the function says, unless a rule can get them."""
    places, named = listed.posonlyargs + listed.args, listed.kwonlyargs
    optional = places[len(places) - len(listed.defaults) :] if listed.defaults else []
    optional += [argument for argument, value in zip(named, listed.kw_defaults, strict=True) if value is not None]
    return [one for one in places + named if one not in optional or one.arg in MAY_HAVE]
