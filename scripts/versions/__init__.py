"""The versions of upstream that the overlays were tried with; the command is scripts/versions.py.

- `cells.py`: which versions of upstream and of transformers go together, by upstream's own word;
- `layers.py`: small environments over the one that is there, each with one such pair;
- `trials.py`: the contract and short real runs in one of them, and what came of it;
- `tables.py`: what came of all, for the README.
"""
