"""Texts without what stands around them."""


def stripped(text: str, marks: str) -> str:
    """Strip marks from both ends; the point of .5 belongs to the number."""
    rest = text.strip(marks)
    before = text[: text.find(rest)] if rest else ""
    return f".{rest}" if rest[:1].isdigit() and before.endswith(".") else rest
