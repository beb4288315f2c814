"""Benchmarks in batches: VLMEvalKit's data sets, wording, files and scores, answered many rows at a time.

`python -m vlmeval.uni_dpo --help` says how. Where to look:

- `cli.py`: the command line;
- `configs.py`: models and data sets, by config or by name;
- `runner.py`: one data set from its rows to its scores;
- `batches.py`: rows to prompts, prompts to batches, batches to answers;
- `journal.py`: answers on the disk as soon as they are given, so that a killed run goes on;
- `results.py`: prediction files and metric files where VLMEvalKit has them;
- `ranks.py`: several processes, one for each GPU;
- `failures.py`: whatever VLMEvalKit raises over its input, told as one message;
- `untrusted.py`: what a benchmark from a stranger must not do.

The model is `vlmeval.vlm.UniDPOQwen2VL`.
"""


class RunError(ValueError):
    """Something the user has to decide or mend; the message says what, where and how."""
