"""What `install_overlay.py` is made of: finding upstream, knowing our files, laying them on, taking them off.

Upstream is LlamaFactory or VLMEvalKit (`kinds.py`). Standard library only, and nothing here ever imports either.
"""
