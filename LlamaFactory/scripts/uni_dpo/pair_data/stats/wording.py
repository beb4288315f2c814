"""Numbers as people read them."""


def percent(share: float | None) -> str:
    """Write a share in per cent, and never as 0 or 100 % unless it is exactly that."""
    if share is None:
        return "-"
    if 0 < share < 0.0005:
        return "<0.1 %"
    if 0.9995 <= share < 1:
        return ">99.9 %"
    return f"{100 * share:.1f} %"


def number(value: float | None, digits: int = 3) -> str:
    """Write a number with so many digits that count, or a dash for None."""
    if value is None:
        return "-"
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(0, digits - len(str(int(abs(value)))))}f}"


def weight(value: float) -> str:
    """Write a w_qual, and never as 0 or 1, which it cannot be."""
    return "<.001" if value < 0.001 else ">.999" if value > 0.999 else f"{value:.3f}"[1:]


def clean(text: str) -> str:
    """Return text in one line that any terminal, file and font machinery takes."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
