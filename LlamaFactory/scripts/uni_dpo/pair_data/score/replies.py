"""The number in what a judge says, or none: a number that might mean something else is no score."""

import re


NUMBER = r"[-+]?\d+(?:[.,]\d+)?"
# After the number may come what it is out of, and nothing that would make it another number: "7-8", "7 to 8", "75%".
OUT_OF = r"(?:\s*(?:/|out\s+of)\s*(?P<of>\d+(?:\.\d+)?))?"
END = r"(?![\w%]|[.,]\d|\s*(?:[-–—~/]|to\b|or\b)\s*\d)"
MARKS = r"[\s*_`\"']*"
LABELLED = re.compile(rf"\bscore{MARKS}(?:\([^)\n]*\))?{MARKS}[:=]{MARKS}(?P<number>{NUMBER}){OUT_OF}{END}", re.I)
BARE = re.compile(rf"^{MARKS}(?P<number>{NUMBER}){OUT_OF}{END}{MARKS}\.?\s*$", re.I)
ANY_LABEL = re.compile(rf"\bscore{MARKS}(?:\([^)\n]*\))?{MARKS}[:=]", re.I)


def read_score(reply: str | None, low: float, high: float) -> float | None:
    """Find the score in a reply.

    The last "Score: 7" counts, also as "**Score:** 7/10" or `{"score": 7}`; else a reply that is nothing but a number.
    What is thought aloud before a closing `</think>` does not count.

    Args:
        reply: what the judge said.
        low: the least score.
        high: the greatest.

    Returns:
        The score; None if there is none, if it is out of range, or if it could be read in two ways.
    """
    text = (reply or "").rpartition("</think>")[2]
    if "<think>" in text:  # cut off before it came to its reply
        return None
    labels, scores = list(ANY_LABEL.finditer(text)), list(LABELLED.finditer(text))
    if labels:
        if not scores or scores[-1].start() != labels[-1].start():
            return None  # the last label is followed by something else than a plain number
        found = scores[-1]
    else:
        found = BARE.match(text)
    if not found or (found["of"] and float(found["of"]) != high):
        return None
    score = float(found["number"].replace(",", "."))
    return score if low <= score <= high else None
