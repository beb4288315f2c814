"""The study: does Uni-DPO win, by how much, and which part of it does it.

`scripts/study.py --help` says how to run it. Where to look:

- `methods.py`: the losses that are compared, and the grid from which each takes its learning rate and beta;
- `conditions.py`: what is done to the preference data: noise in scores and labels, easy pairs, other scales;
- `judge.py`: scores of a reward model that learned from other scenes;
- `plan.py`: a cell is one training run with its measurement; the experiments are lists of cells;
- `seeds.py`: what a seed begins with: a start checkpoint, pairs sampled from it, test questions, reference log-probs;
- `cells.py`: one cell, trained by LlamaFactory in this process and examined by VLMEvalKit;
- `pool.py`: the cells that are not done yet, on all cores or GPUs;
- `results.py`: a study's folder, what may share it, and the best point of the grid;
- `statistics.py`, `tables.py`, `pictures.py`, `report.py` and two templates: RESULTS.md from raw results alone.
"""
