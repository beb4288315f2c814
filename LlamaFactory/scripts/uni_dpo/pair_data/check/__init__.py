"""Checking a data set the way training will read it.

`run.py` goes through the rows once: `row_rules.py` looks at a row alone, `shapes.py` and `loader.py` at what makes the
loader refuse a file, `gallery.py` (over `picture.py` and `crew.py`) at images, and `twins.py` at rows against each
other. `tokens.py` goes through them again when a model is given. Everything found goes into `findings.py`, in one of
the kinds of `kinds.py`; `report.py` sums it up and `fixing.py` writes a copy without it.
"""
