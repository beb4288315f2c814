"""Benchmarks in batches: VLMEvalKit's data sets, wording, files and scores, answered many rows at a time.

`python -m vlmeval.uni_dpo --help` says how. Where to look:

- `cli.py`: the command line; `configs.py`: its models and data sets;
- `runner.py`: one data set from its rows to its scores;
- `benchmark.py`: VLMEvalKit's data set, with pictures as in the file; `reading.py`: cells as in the file, and not run;
- `checks.py`: rows that cannot score, and scores that are none;
- `batches.py`: rows to prompts, prompts to batches, batches to answers;
- `journal.py`: answers on the disk as soon as they are given, for a run that was killed;
- `results.py`: prediction files and metric files where VLMEvalKit has them;
- `ranks.py`: several processes, one for each GPU;
- `errors.py`, `files.py`: shared with the model, `vlmeval.vlm.UniDPOVLM`.
"""
