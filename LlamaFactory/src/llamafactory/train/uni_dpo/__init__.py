"""Uni-DPO: preference optimisation that weighs every pair by its quality and by how well the policy already fits it.

The rooms, each of which knows only those below it (a test holds that):

- `workflow.py`: `run_dpo`, the only way in; `swaps.py`: what stands in for upstream's names during a run;
- `caches/`: reference log-probs and image features kept for later runs;
- `training/`: the trainer and its parts: the route to log-probs and the check that a run has to pass, whole saves,
  exact resuming, precision;
- `options/`: the options, their help texts and their checks;
- `data/`: from the data set to the batch, with scores read and checked, prompts encoded once and images processed once
  a pair;
- `models/`: loading checkpoints whole, and the history they carry; `record/`: metrics, pair log and pictures;
- `files/`: output folders, whole writes, the record of a run; `upstream/`: the LlamaFactory underneath;
- `engine/`: log-probs of pairs without computing anything twice; `objective/`: the losses, of tensors alone;
- `ranks.py`, `proxy.py`, `errors.py`: what all of them use.

Paper: Uni-DPO: A Unified Paradigm for Dynamic Preference Optimization of LLMs, arXiv 2506.10054.
"""

__version__ = "0.1.0"
