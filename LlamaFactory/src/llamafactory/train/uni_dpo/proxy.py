"""An object that is another one but for what it does differently."""

from typing import Any


class Proxy:
    """Base of objects that upstream's code uses in place of its own."""

    def __init__(self, original: Any):
        """Stand in for `original`."""
        self._original = original

    def __getattr__(self, name: str) -> Any:
        """Be the original in everything else."""
        if name.startswith("__") or name == "_original":  # asked while this is being copied or pickled
            raise AttributeError(name)
        return getattr(self._original, name)
