"""Whether the LlamaFactory underneath is one to stand on, judged by what is in it and by what it does.

Many people run forks, or a LlamaFactory with the published Uni-DPO overlay in its files. Our options may exist there
already, and response log-probs may be means where ours takes them for sums and divides them once more: a run would
train something else without a word. So nothing of `stage: dpo` trains there. Any other edit is its owner's business.

At the top the standard library only: the installer loads this file by its path, from a Python that need have neither
torch nor LlamaFactory.
"""

import ast
import functools
import hashlib
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any


OURS = Path(__file__).resolve().parent.parent

# Values of `pref_loss` that are ours: such a run trains with our trainer, whatever else it says.
OUR_LOSSES = ("uni_dpo", "robust_dpo", "odpo", "rpo_sq", "rpo_bwd_kl", "rpo_fwd_kl")

logger = logging.getLogger(__name__)

LOGPS = "get_batch_logps"
# SHA-256 of its source where it is known to give sums: in 0.9.4, 0.9.5, between them, and in August 2026.
KNOWN_LOGPS = frozenset({"cf2da105797ae861461038c661d49d37afbbce9dbfd72d0c1cb38e1080373917"})

# Upstream's methods that ours replaces without asking `super()`.
REPLACED = frozenset({"get_batch_loss_metrics"})

# Two rows of six tokens of a vocabulary of four; -100 is not scored, and the first token of a row never is.
LABELS = ((-100, 1, 3, 0, 2, -100), (-100, -100, -100, 2, 2, 1))


class Untried(Exception):
    """Code of a LlamaFactory that we do not know could not be tried."""


def taken(package: Path) -> list[str]:
    """Find what is ours in a LlamaFactory's own files: options, the name of our loss, methods of our trainer.

    Args:
        package: the folder of the `llamafactory` package.

    Returns:
        What was found, one phrase for each kind; empty if nothing was.
    """
    theirs = [cls for file in sorted(package.glob("hparams/*.py")) for cls in _classes(file)]
    options = _fields(theirs) & option_names()
    losses = {node.value for cls in theirs for node in ast.walk(cls) if isinstance(node, ast.Constant)}
    trainer = [cls for cls in _classes(package / "train/dpo/trainer.py") if cls.name == "CustomDPOTrainer"]
    methods = _members(trainer) & _own_members()
    found = [f"its options {_listed(options)} have names of ours"] if options else []
    found += [f"it has a `pref_loss: {loss}` of its own" for loss in OUR_LOSSES if loss in losses]
    return found + ([f"{_listed(methods)} of its CustomDPOTrainer have names of ours"] if methods else [])


@functools.cache
def option_names() -> set[str]:
    """List our options, also where they cannot be imported."""
    return _fields(cls for cls in _classes(OURS / "options" / "fields.py") if cls.name == "UniDPOArguments")


def logps_are_known(package: Path) -> bool:
    """Tell whether log-probs are summed by a function that is upstream's, word for word."""
    for file in ("train/dpo/trainer.py", "train/trainer_utils.py"):  # the trainer's own goes first
        text, statements = _statements(package / file)
        for node in statements:
            if getattr(node, "name", None) == LOGPS:
                source = ast.get_source_segment(text, node).encode()
                return hashlib.sha256(source).hexdigest() in KNOWN_LOGPS
    return False


def wrong_sums(get_batch_logps: Callable) -> str:
    """Try LlamaFactory's function on two hand-made rows, and describe what is wrong with its sums and counts.

    Returns:
        One phrase; empty if all is well.

    Raises:
        Untried: it cannot be called as upstream's is: only its trainer knows how.
    """
    import torch

    try:
        sums, counts = get_batch_logps(logits=_logits(), labels=torch.tensor(LABELS), ld_alpha=None)
        found = [*sums.tolist(), *counts.tolist()]
    except Exception as error:  # of other people's code
        raise Untried(f"its {LOGPS} cannot be called as upstream's is: {error!r}") from error
    wanted = [sum(row) for row in _expected()], [len(row) for row in _expected()]
    return _difference(f"its {LOGPS}", "sums and counts", found, [*wanted[0], *wanted[1]])


def wrong_forward(concatenated_forward: Callable, means: bool) -> str:
    """Try the forward of LlamaFactory's trainer on the same rows, as a pair, with a model that gives known logits.

    Args:
        concatenated_forward: upstream's, of a trainer that is ready to train.
        means: whether upstream divides this loss's log-probs by length.

    Returns:
        One phrase; empty if all is well.

    Raises:
        Untried: it cannot be called with text alone.
    """
    import torch

    batch = {"input_ids": torch.tensor(LABELS).abs(), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    model = lambda **batch: SimpleNamespace(logits=_logits())  # noqa: E731
    try:
        # As a reference, so that `ld_alpha` leaves the log-probs alone.
        output = concatenated_forward(model, batch | {"labels": torch.tensor(LABELS)}, True)
        found = [float(output[f"{side}_logps"]) for side in ("chosen", "rejected")]
    except Exception as error:  # of other people's code
        raise Untried(f"its concatenated_forward cannot be called as upstream's is: {error!r}") from error
    wanted = [sum(row) / (len(row) if means else 1) for row in _expected()]
    return _difference("its CustomDPOTrainer.concatenated_forward", "means" if means else "sums", found, wanted)


def refuse_stranger() -> None:
    """Refuse to train with `stage: dpo` on a LlamaFactory that already is something else.

    Raises:
        UniDPOError: it is; it says what was found and how to get a clean one.
    """
    from ..errors import UniDPOError

    if found := _found_here():
        raise UniDPOError(refusal(_package(), found))


def refuse_other_forward(concatenated_forward: Callable, means: bool) -> None:
    """Refuse a trainer of LlamaFactory's whose forward gives no sums; the arguments are `wrong_forward`'s."""
    from ..errors import UniDPOError

    try:
        found = wrong_forward(concatenated_forward, means)
    except Untried as untried:
        logger.warning(f"Nothing says that this LlamaFactory's log-probs are sums, as ours takes them: {untried}")
        return
    if found:
        raise UniDPOError(refusal(_package(), [found]))


@functools.cache
def _found_here() -> tuple[str, ...]:
    package, wrong = _package(), ""
    if not logps_are_known(package):
        from ...dpo import trainer

        with suppress(Untried):  # its trainer's forward is tried later
            wrong = wrong_sums(getattr(trainer, LOGPS, None))
    return (*taken(package), *filter(None, [wrong]))


def _package() -> Path:
    import llamafactory  # by its name, as our folder may be a link to elsewhere

    return Path(llamafactory.__file__).resolve().parent


def refusal(package: Path, found: Iterable[str]) -> str:
    """Say what was found in a LlamaFactory, and how to get a clean one."""
    return (
        f"The LlamaFactory in {package} is not one that the Uni-DPO overlay can stand on: {'; '.join(found)}. Most "
        "likely it carries the published Uni-DPO overlay or a Uni-DPO of its own. With both, nothing of `stage: dpo` "
        f"would train what its options say, so nothing does. Get a clean one: {way_to_a_clean_one(package)}. Then "
        "lay the overlay on it (scripts/install_overlay.py install)."
    )


def way_to_a_clean_one(package: Path) -> str:
    """Write the command that undoes every edit of a LlamaFactory."""
    if package.parent.name == "src":
        return (
            f"git -C {package.parents[1]} checkout -- src/llamafactory   (save your edits first; if they are "
            "committed, or git knows nothing of them, clone LlamaFactory anew)"
        )
    return "pip install --force-reinstall --no-deps llamafactory   (the version that you had, with this Python's pip)"


# ---- reading files ----


def _statements(file: Path) -> tuple[str, list[ast.stmt]]:
    """Read a file as text and as statements; what is missing or no Python has none."""
    try:
        text = file.read_text(encoding="utf-8")
        return text, ast.parse(text).body
    except (OSError, ValueError, SyntaxError):
        return "", []


def _classes(file: Path) -> Iterator[ast.ClassDef]:
    return (node for node in _statements(file)[1] if isinstance(node, ast.ClassDef))


def _fields(classes: Iterable[ast.ClassDef]) -> set[str]:
    """List the names that classes annotate, which is how options are declared."""
    return {
        node.target.id
        for cls in classes
        for node in cls.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def _members(classes: list[ast.ClassDef]) -> set[str]:
    """List methods, class attributes and attributes that methods set."""
    found = _fields(classes)
    for node in (node for cls in classes for node in ast.walk(cls)):
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if getattr(node.value, "id", "") == "self":
                found.add(node.attr)
    return found


@functools.cache
def _own_members() -> set[str]:
    """List what our trainer adds to LlamaFactory's; what it overrides, it also asks `super()` for."""
    known = {cls.name: cls for file in OURS.glob("training/*.py") for cls in _classes(file)}
    classes, names = [], ["UniDPOTrainer"]
    while names:
        cls = known.get(names.pop())
        if cls is not None:
            classes.append(cls)
            names += [base.id for base in cls.bases if isinstance(base, ast.Name)]
    asked = {
        node.attr
        for cls in classes
        for node in ast.walk(cls)
        if isinstance(node, ast.Attribute) and getattr(getattr(node.value, "func", None), "id", "") == "super"
    }
    return _members(classes) - asked - REPLACED


# ---- what two rows have to give ----


def _logits() -> Any:
    import torch

    return torch.tensor([[[_logit(row, place, token) for token in range(4)] for place in range(6)] for row in (0, 1)])


def _logit(row: int, place: int, token: int) -> float:
    return math.sin(1 + 24 * row + 4 * place + token)


def _expected() -> list[list[float]]:
    """Compute the log-prob of each scored token of both rows, in nats."""
    found = []
    for row, labels in enumerate(LABELS):
        scored = [place for place in range(1, 6) if labels[place] != -100]
        logits = {place: [_logit(row, place - 1, token) for token in range(4)] for place in scored}
        found.append([logits[at][labels[at]] - math.log(sum(map(math.exp, logits[at]))) for at in scored])
    return found


def _difference(what: str, kind: str, found: list[float], wanted: list[float]) -> str:
    if all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(found, wanted, strict=True)):
        return ""
    shown = [", ".join(f"{value:.4g}" for value in values) for values in (found, wanted)]
    return f"{what} gives {shown[0]} for two rows whose {kind} are {shown[1]}"


def _listed(names: set[str], most: int = 4) -> str:
    shown = sorted(names)[:most]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"`{name}`" for name in shown) + more
