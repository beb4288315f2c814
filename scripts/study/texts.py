"""Numbers as the report writes them."""

from collections.abc import Mapping, Sequence

from .methods import Options
from .statistics import Estimate, holm, over_seeds


def point(options: Options) -> str:
    """Learning rate and beta."""
    return f"{options['learning_rate']:g}, {options['pref_beta']:g}"


def interval(values: Mapping[int, float], digits: int = 1) -> str:
    """A mean with the half-width of its interval, which a single seed has not."""
    it = over_seeds([*values.values()])
    return f"{it.mean:.{digits}f}" + (f" ± {it.half:.{digits}f}" if it.n > 1 else "")


def starred(differences: Sequence[Estimate]) -> list[str]:
    """Differences that are made together, with a star where Holm's p value for all of them is below 0.05."""
    return [signed(it, p) for it, p in zip(differences, holm([it.p for it in differences]), strict=True)]


def signed(it: Estimate, p: float = 1.0) -> str:
    """A difference with its interval, and a star if p is below 0.05."""
    if it.n == 1:
        return f"{it.mean:+.1f}"
    return f"{it.mean:+.1f} [{it.mean - it.half:+.1f}, {it.mean + it.half:+.1f}]" + (" *" if p < 0.05 else "")


def short(it: Estimate, p: float = 1.0) -> str:
    """A difference with the half-width of its interval, and a star if p is below 0.05."""
    return f"{it.mean:+.1f}" + (f" ± {it.half:.1f}" if it.n > 1 else "") + ("*" if p < 0.05 else "")
