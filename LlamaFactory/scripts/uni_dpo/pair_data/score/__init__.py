"""Scores for answers, from a reward model, a judge, or an endpoint: the work behind the command `score`.

- `requests.py`: one answer with its question, as all scorers take it, and its name by content;
- `pictures.py`: images as training sees them;
- `rubrics.py`: what a judge is asked; `replies.py`: the number in what it says;
- `checkpoints.py`, `local.py`, `kinds.py`, `vllm_scorers.py`: models on this machine;
- `endpoint.py`, `pacing.py`: models behind an OpenAI-compatible interface;
- `choice.py`: from options to a scorer;
- `cache.py`: what has been scored stays scored;
- `survey.py`, `scoring.py`: the run over a data set; `agreement.py`: what the scores say of the given preference.
"""
