"""What `install_overlay.py` is made of. Standard library only, and nothing here imports LlamaFactory or VLMEvalKit.

- `kinds.py`: the two upstreams and what the overlay for each takes hold of;
- `target.py`: which LlamaFactory or VLMEvalKit is meant;
- `ours.py`: our files, what is in their places, and the record that an installation leaves;
- `refusals.py`, `strangers.py`: what must hold before anything is changed;
- `changes.py`: laying the overlay on and taking it off;
- `status.py`: saying what is there.
"""
