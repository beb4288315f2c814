"""Output folders: whole writes, checkpoints, and the record of a run."""
