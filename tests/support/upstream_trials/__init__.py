"""Trials of the overlays with other versions of upstream; the commands are scripts/versions.py and upstream_tests.py.

- `layers.py`: which versions go together by upstream's own word, and small environments with one such pair each;
- `versions.py`: the contract and short real runs in each of them, and the table of what came of it;
- `crossing.py`, `crossing_side.py`: checkpoints written under one version and read under another;
- `own_tests.py`, `stand_ins.py`: LlamaFactory's own tests, with and without the overlay.
"""
