"""Uni-DPO: preference optimisation that weighs every pair by its quality and by how well the policy already fits it.

Where to look:

- `loss.py`: the objective, one page of torch; `margin_dpo.py`, `other_losses.py`: options of upstream's losses;
- `arguments.py`: the options, their help texts and their checks;
- `scores.py`, `data.py`, `prompts.py`, `collate.py`: from the data set to the batch, with scores read and checked,
  prompts encoded once and images processed once a pair;
- `engine/`: log-probs of pairs without computing anything twice; `forward.py`: its use in training; `self_check.py`,
  `rounding.py`: the comparison with upstream's that a run has to pass;
- `caches/`: reference log-probs and image features kept for later runs;
- `trainer.py`, `metrics.py`, `resume.py`: one training step, its guard against non-finite values, and exact resuming;
- `pair_log.py`, `plots.py`: what a run leaves to look at;
- `workflow.py`: `run_dpo`, where upstream's names are swapped for ours during a run; `versions.py`,
  `underneath.py`: on which LlamaFactory; `errors.py`: how errors look.

Paper: Uni-DPO: A Unified Paradigm for Dynamic Preference Optimization of LLMs, arXiv 2506.10054.
"""

__version__ = "0.1.0"
