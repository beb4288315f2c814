"""Whatever VLMEvalKit raises over a data set or a prediction file, told as: which one, which row, what is wrong."""

from collections.abc import Iterator
from contextlib import contextmanager

from ..vlm.qwen2_vl.uni_dpo.checkpoint import CheckpointError
from ..vlm.qwen2_vl.uni_dpo.options import OptionError
from ..vlm.qwen2_vl.uni_dpo.prompt import PromptError
from . import RunError


LONGEST_REASON = 300


@contextmanager
def in_context(place: str, advice: str) -> Iterator[None]:
    """Raise whatever upstream raises again, with the place of it; `--verbose` shows the traceback of the cause.

    Args:
        place: the beginning of a sentence, such as "data set POPE, row 3".
        advice: how to mend it.

    Raises:
        RunError: the block raised something that is no message of ours.
    """
    try:
        yield
    except (RunError, CheckpointError, OptionError):
        raise
    except PromptError as error:
        raise RunError(f"{place}: {error}\n  {advice}") from error
    except Exception as error:
        raise RunError(f"{place}: {reason_of(error)}\n  {advice}") from error


def reason_of(error: BaseException) -> str:
    """Return an error in one short line: its kind, and what it says."""
    said = " ".join(str(error).split())
    said = said if len(said) <= LONGEST_REASON else said[:LONGEST_REASON] + " ..."
    return f"{type(error).__name__}: {said}".removesuffix(": ")
