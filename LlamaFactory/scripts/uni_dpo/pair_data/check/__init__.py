"""Checking a data set the way training will read it.

`run.py` goes through the rows once: `rows.py` looks at a row alone, `loader.py` at what makes the loader refuse a
file, `media_index.py` (over `picture.py` and `pool.py`) at images, videos and sounds, `duplicates.py` at rows against
each other. `tokens.py` goes through them again when a model is given. What they find is in `findings.py`, a database;
`report.py` sums it up and `fix.py` writes a copy without it.
"""
