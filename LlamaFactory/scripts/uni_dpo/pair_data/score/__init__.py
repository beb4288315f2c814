"""Scores for answers, from a reward model, a judge, or an endpoint: the work behind the command `score`.

- `requests.py`: one answer with its question, as all scorers take it, and what a scorer is;
- `pictures.py`: images as training sees them; `rubrics.py`: what a judge is asked, and the number in what it says;
- `checkpoints.py`, `kinds.py`, `vllm_scorers.py`: models on this machine; `endpoint.py`: models behind an address;
- `choice.py`: from options to a scorer;
- `run.py`: the run over a data set; `agreement.py`: what the scores say of the given preference.
"""
