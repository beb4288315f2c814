"""What `install_overlay.py` is made of: finding a LlamaFactory, knowing our files, laying them on, taking them off.

Standard library only, and nothing here ever imports `llamafactory`.
"""


class OverlayError(Exception):
    """Something the user has to decide or repair; the text says what, where and how."""
