"""Judges: an API that reads answers has to work, or VLMEvalKit matches answers itself, under the name of the judge."""

import json
from functools import cache
from typing import Any

from .. import smp
from .errors import UniDPOError, reason_of


OFFLINE_JUDGE = "exact_matching"
RUNS_HERE = "llama31-8b"  # VLMEvalKit loads its weights, which takes minutes and says itself what is wrong


def require_working(judge: dict[str, Any]) -> None:
    """Refuse a judge that does not answer, once a run.

    Args:
        judge: its name as "model", and its options.

    Raises:
        UniDPOError: it does not answer. Nothing was scored.
    """
    if judge["model"] in (OFFLINE_JUDGE, RUNS_HERE):
        return
    reason = _why_not(json.dumps(judge, sort_keys=True))
    if reason:
        raise UniDPOError(
            f"the judge {judge['model']} does not answer ({reason}), and VLMEvalKit would match answers without it\n"
            "  correct its key or address; the answers are kept. Without --judge none is needed"
        )


@cache
def _why_not(judge: str) -> str:
    from ..dataset.utils import build_judge

    options = json.loads(judge)
    if "gpt" in options["model"] and not smp.gpt_key_set():
        return "OPENAI_API_KEY is not set"
    try:
        built = build_judge(**options)
        if hasattr(built, "working"):
            built.retry = built.wait = 1  # it is tried five times in any case
            return "" if built.working() else "it gives no answer to a greeting"
    except Exception as error:  # whatever its maker raises
        return reason_of(error)
    return ""
