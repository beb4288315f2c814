"""Whole runs of LlamaFactory, of ours and of trl, on the same model and pairs.

- `command.py`: makes them, starts every run as a process of its own, in turn, and prints the table;
- `one_run.py`: a run, measured from within, by whatever Python has the trainer.
"""
