"""The parts of `scripts/bench_train_step.py`: shapes, models, variants, counts of operations, measuring, showing."""
