"""What VLMEvalKit left of its runs, read into one table of checkpoints and benchmarks."""


class EvalTableError(Exception):
    """Bad input: what, where and how to mend it, in one message."""


def reason_of(error: Exception) -> str:
    """Return an error in one short line: its kind, and what it says."""
    said = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {said}".removesuffix(": ")
