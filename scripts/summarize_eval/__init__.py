"""What VLMEvalKit left of its runs, read into one table of checkpoints and benchmarks."""
