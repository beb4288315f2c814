"""The versions that training supports, and how others are refused: with a message, at the start, and our runs only.

`SUPPORTED` is the one place that states them. The installer, `scripts/versions.py` and its table read it from here;
the evaluation's are in `vlmeval/vlm/qwen2_vl/uni_dpo/versions.py`. `DISABLE_VERSION_CHECK=1`, LlamaFactory's own
switch, makes a refusal a warning.
"""

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

from packaging.specifiers import SpecifierSet

from ..errors import UniDPOError, print_errors_plainly
from .underneath import OUR_LOSSES, option_names, refuse_stranger


SUPPORTED = {
    "llamafactory": ">=0.9.4,<0.9.7",
    "transformers": ">=4.55,<5.9",
    "trl": ">=0.18,<0.25",
}

AGAIN = " and lay the overlay on it again (scripts/install_overlay.py install)"


def check_versions() -> None:
    """Refuse versions outside of `SUPPORTED`, or warn of them if upstream's switch is set.

    Raises:
        UniDPOError: there is one; it names what was found, what is supported and how to get it.
    """
    from ....extras import logging
    from ....extras.misc import is_env_enabled

    problem = unsupported()
    if not problem:
        return
    if not is_env_enabled("DISABLE_VERSION_CHECK"):
        raise UniDPOError(f"{problem} DISABLE_VERSION_CHECK=1 tries it all the same.")
    logging.get_logger(__name__).warning_rank0_once(f"{problem} Going on, as DISABLE_VERSION_CHECK is set.")


def unsupported() -> str:
    """Describe the installed versions that are not supported, in one sentence or two each; empty if all are."""
    return " ".join(
        f"The Uni-DPO overlay does not support {name} {found}, only {name}{wanted}. "
        f'Install one: pip install "{name}{wanted}"{AGAIN if name == "llamafactory" else ""}.'
        for name, wanted in SUPPORTED.items()
        if not SpecifierSet(wanted).contains(found := installed(name), prereleases=True)
    )


@contextmanager
def noting_versions() -> Iterator[None]:
    """Add to whatever the block raises that a version is not supported, if one is not and was tried all the same."""
    try:
        yield
    except Exception as error:
        if problem := unsupported():
            error.add_note(f"{problem} That may be the reason; it was tried, as DISABLE_VERSION_CHECK is set.")
        raise


def installed(name: str) -> str:
    """Find the version in use; of LlamaFactory the one that its code states, as a checkout need not be installed."""
    if name == "llamafactory":
        from ....extras.env import VERSION

        return VERSION
    return metadata.version(name)


def misfit(error: Exception) -> UniDPOError:
    """Say that something of upstream's is not where we look for it; an unsupported version is the likely reason."""
    known = ", ".join(f"{name} {installed(name)}" for name in SUPPORTED)
    what = f"{type(error).__name__}: {error}"
    if problem := unsupported():
        return UniDPOError(f"{problem} DISABLE_VERSION_CHECK=1 does not help, as something is missing there: {what}.")
    return UniDPOError(
        f"The Uni-DPO overlay does not fit {known}, though it should: {what}. Either this LlamaFactory has been "
        "edited, or the overlay is at fault; please report this line."
    )


def refuse_incompatible(run_dpo: Callable, error: Exception) -> Callable:
    """Leave LlamaFactory as it is where the overlay cannot join it, and refuse what asks for the overlay.

    Args:
        run_dpo: upstream's.
        error: why not.

    Returns:
        `run_dpo`, but that it refuses `pref_loss: uni_dpo`, and everything on a LlamaFactory that is no clean one. The
        parser refuses our options, which upstream's would only call unknown.
    """
    refusal, parser = misfit(error), importlib.import_module("llamafactory.hparams.parser")
    print_errors_plainly()
    if hasattr(parser, "_parse_args"):
        parser._parse_args = _refusing_ours(parser._parse_args, parser.read_args, refusal)

    @functools.wraps(run_dpo)
    def refusing(model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any, callbacks: Any = None):
        refuse_stranger()
        if getattr(finetuning_args, "pref_loss", None) in OUR_LOSSES:
            raise refusal
        return run_dpo(model_args, data_args, training_args, finetuning_args, callbacks)

    return refusing


def _refusing_ours(parse_args: Callable, read_args: Callable, refusal: UniDPOError) -> Callable:
    ours = option_names()

    @functools.wraps(parse_args)
    def parsed(hf_parser: Any, args: Any = None, **kwargs: Any) -> Any:
        args = read_args(args)
        if isinstance(args, dict):
            asked = ours & args.keys() or args.get("pref_loss") in OUR_LOSSES
        else:
            words = {part for word in args for part in word.lstrip("-").split("=")}
            asked = set(OUR_LOSSES) & set(words) or ours & {word.replace("-", "_") for word in words}
        if asked:
            refuse_stranger()
            raise refusal
        return parse_args(hf_parser, args, **kwargs)

    return parsed
