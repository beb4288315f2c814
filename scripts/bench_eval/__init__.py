"""Ways to answer the questions of a data set beside each other, on the same checkpoint.

- `command.py`: the command line and the turns;
- `report.py`: the table;
- `rows.py`: which model and which questions;
- `contestant.py`: a way's process as seen from outside: its CPU time, memory and start;
- `worker.py`: that process, which loads the model, or starts a server, and answers when told;
- `counts.py`: where a way's time goes, and how much there is to compute.
"""
