"""LlamaFactory's own tests, with and without the overlay; the command is scripts/upstream_tests.py.

- `stand_ins.py`: tiny random models for those of the hub that upstream's tests ask for;
- `outcome_recorder.py`: a pytest plugin that notes what came of each test;
- `sides.py`: two copies of a checkout, one with the overlay, and upstream's tests in them;
- `comparing.py`: what differs.
"""
