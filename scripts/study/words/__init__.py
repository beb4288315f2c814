"""The study's other world: a real language model, short instructions, and a rule that marks any answer.

`checkpoint.py` downloads the model; `questions.py` and `rule.py` are the world; `conditions.py`, `plan.py`, `seeds.py`
and `cells.py` are what files of the same names are in the demo world; `tables.py` is what the report shows.
"""
