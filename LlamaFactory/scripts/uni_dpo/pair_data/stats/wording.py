"""Numbers and names as people read them."""


def percent(share: float | None) -> str:
    """Write a share in per cent, and never as 0 or 100 % unless it is exactly that."""
    if share is None:
        return "-"
    if 0 < share < 0.0005:
        return "<0.1 %"
    return ">99.9 %" if 0.9995 <= share < 1 else f"{100 * share:.1f} %"


def number(value: float | None, width: int = 6) -> str:
    """Write a number with three digits that count, fewer where it gets wider than `width`, or a dash for None."""
    if value is None:
        return "-"
    text = f"{value:.{max(0, 3 - len(str(int(abs(value)))))}f}"
    if len(text) <= width and (value == 0 or abs(value) >= 0.001):
        return text
    texts = [f"{value:.{digits}e}".replace("e+0", "e").replace("e-0", "e-") for digits in (2, 1, 0)]
    return next((text for text in texts if len(text) <= width), texts[-1])


def weight(value: float) -> str:
    """Write a w_qual, and never as 0 or 1, which it cannot be."""
    return "<.001" if value < 0.001 else ">.999" if value > 0.999 else f"{value:.3f}"[1:]


def clean(text: str) -> str:
    """Return text in one line that any terminal, file and font machinery takes."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
