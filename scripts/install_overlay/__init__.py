"""What `install_overlay.py` is made of. Standard library only, and nothing here imports LlamaFactory or VLMEvalKit.

- `kinds.py`: the two upstreams and what the overlay for each takes hold of;
- `target.py`: which LlamaFactory or VLMEvalKit is meant, and whether the overlay fits it;
- `tree.py`: our files, what is in their places, and the record that an installation leaves;
- `changes.py`: laying the overlay on and taking it off;
- `strangers.py`: whether it is a LlamaFactory to stand on;
- `status.py`: saying what is there.
"""
