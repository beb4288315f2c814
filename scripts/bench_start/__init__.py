"""Where the time and the memory of a whole training run go, from the command to the end.

- `command.py`: makes the data, starts the example's script twice, and prints the table;
- `pairs.py`: a data set of the published size with pictures, and a tiny model;
- `parts.py`: a run that is watched from outside: its parts, told apart by what it says.
"""
