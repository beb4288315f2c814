"""Rounds of sampling, scoring, pairing, training and validating, each a command of its own, in one that goes on.

`plan` reads what is wanted and looks whether it is the same as before, `recipe` says how each command is called,
`stages` runs commands and remembers which are done, `validation` compares models, `report` writes table and picture,
`orphans` ends what a killed run left at work, `machines` calls others to take part in training, and `loop` puts all
together.
"""

import launcher  # noqa: F401  which finds pair_data
