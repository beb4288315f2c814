"""What VLMEvalKit left of its runs, read into one table of checkpoints and benchmarks."""


class EvalTableError(Exception):
    """Bad input: what, where and how to mend it, in one message."""
