"""Answers sampled from a model to questions of any shape, kept batch by batch.

`questions` reads what is asked, `checkpoint` and `endpoint` are the two kinds of model, `run` cuts batches, keeps
their answers and writes the rows, `merging` puts answers together that say the same, `report` counts.
"""
