"""What a GPU is to be asked when one is at hand for minutes.

- `command.py`: runs the parts one after the other within a time limit, keeps what is done, prints a table;
- `parts.py`: what the parts are, and what of their results goes into the table;
- `exact.py`: the engine beside LlamaFactory's forward on the device, in every precision, and a mistake that must show.
"""
