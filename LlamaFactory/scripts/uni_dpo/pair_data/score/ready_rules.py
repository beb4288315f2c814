"""Rules that are ready to use: right or wrong, 1 or 0, by a right answer that the row has.

Each is a function as a user would write one: its parameters say what it gets. They read answers as people write them,
and where one can be read in two ways it is wrong.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..plain import stripped


AROUND = " \t\n.,:;!?\"'*_`()[]"
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|(?<![\w.])[-+]?\.\d+")
NEAR = 1e-6  # of a number's size: what counts as the same
LETTERS = "ABCDEFGHIJ"
# At the beginning, or the whole of it: B, (B), B., **B** - and what the answer says it is.
FIRST_LETTER = re.compile(rf"^[\s*_`(\[\"']*([{LETTERS}])(?:[\s*_`\"']*(?:[).:,\]]|$)|[*_`]+\s)")
# "The answer is B" says more than "option A"; the I of "I think" is no letter.
SAID = rf"\b[^A-Za-z]*(?:is|:)?[\s*_`(\[\"']*([{LETTERS}])\b(?!(?<=I) [a-z])"
ANSWER_LETTER, OPTION_LETTER = (re.compile(rf"\b(?:{words}){SAID}") for words in ("answer", "option|choice"))
OPTION = re.compile(rf"(?:^|(?<=\s))\(?([{LETTERS}])[.):]\s*(.*?)(?=\s\(?[{LETTERS}][.):]\s|\n|$)")
YES_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


def exact_match(answer: str, references: Sequence[str]) -> bool:
    """Compare whole texts: upper and lower case, spaces, and marks around them make no difference."""
    return _plain(answer) in map(_plain, references)


def numeric_match(answer: str, references: Sequence[str]) -> bool:
    """Compare the last number of an answer, 1,234.5 or 3e8, with a right one."""
    found = _numbers(answer)
    right = [numbers[-1] for text in references if (numbers := _numbers(text))]
    if not right:
        raise ValueError(f"there is no number in the right answer {references[0]!r}")
    if not found:
        return False
    return any(abs(found[-1] - number) <= NEAR * max(abs(found[-1]), abs(number)) for number in right)


def _numbers(text: str) -> list[float]:
    plain = text.replace("\N{MINUS SIGN}", "-")
    return [float(number.replace(",", "")) for number in NUMBER.findall(plain)]


def multiple_choice(question: str, answer: str, references: Sequence[str]) -> bool:
    """Compare options: by letter, or by the text that the question has for one ("A. red B. blue")."""
    options = {letter: _plain(text) for letter, text in OPTION.findall(question)}
    right = {_option(reference, options) for reference in references} - {""}
    if not right:
        raise ValueError(f"the right answer {references[0]!r} is neither a letter nor an option of the question")
    return _option(answer, options) in right


def yes_or_no(answer: str, references: Sequence[str]) -> bool:
    """Compare the first yes or no."""
    right = {found[1].casefold() for text in references if (found := YES_NO.search(text))}
    if not right:
        raise ValueError(f"there is neither yes nor no in the right answer {references[0]!r}")
    found = YES_NO.search(answer)
    return bool(found) and found[1].casefold() in right


def _plain(text: str) -> str:
    return " ".join(stripped(text.casefold(), AROUND).split())


def _option(text: str, options: dict[str, str]) -> str:
    """Return the letter of the option that a text names, "" if it names none or several."""
    for letters in (ANSWER_LETTER, FIRST_LETTER, OPTION_LETTER):
        if found := set(letters.findall(text)):
            return found.pop() if len(found) == 1 else ""
    said = f" {_words(text.casefold())} "
    named = {letter: option for letter, option in options.items() if option and f" {_words(option)} " in said}
    # "left" is in "top left", too: an option within another one that is named was not meant.
    meant = [
        one for one, text in named.items() if not any(text != other and text in other for other in named.values())
    ]
    return meant[0] if len(meant) == 1 else ""


def _words(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text))


def vlmeval_vqa(answer: str, references: Sequence[str]) -> float:
    """VLMEvalKit's VQA score: of several right answers how many agree, of one whether it does."""
    return _by_vlmeval(answer, references, "vqa_score" if len(references) > 1 else "", "TextVQA")


def vlmeval_relaxed(answer: str, references: Sequence[str]) -> float:
    """VLMEvalKit's judging of ChartQA: numbers within 5 %, texts as they are."""
    return _by_vlmeval(answer, references, "relaxed_accuracy", "ChartQA")


def vlmeval_anls(answer: str, references: Sequence[str]) -> float:
    """VLMEvalKit's judging of DocVQA: how alike two texts are, 0 below one half."""
    return _by_vlmeval(answer, references, "anls", "DocVQA")


def _by_vlmeval(answer: str, references: Sequence[str], method: str, dataset: str) -> float:
    from vlmeval.dataset.utils.vqa_eval import hit_calculate, process_line

    # It runs "answer" as Python. The text that Python gives for a list of texts is that list and nothing else.
    line = {"answer": repr([str(text) for text in references]), "prediction": str(answer)}
    return float(hit_calculate([process_line(line, method)], dataset)[0])


RULES: dict[str, Callable[..., Any]] = {
    "exact-match": exact_match,
    "numeric-match": numeric_match,
    "multiple-choice": multiple_choice,
    "yes-or-no": yes_or_no,
    "vlmeval-vqa": vlmeval_vqa,
    "vlmeval-relaxed": vlmeval_relaxed,
    "vlmeval-anls": vlmeval_anls,
}


def prepared(name: str) -> Callable[..., Any]:
    """Return a ready rule, with what it needs imported: VLMEvalKit takes a while."""
    if name.startswith("vlmeval"):
        from vlmeval.dataset.utils.vqa_eval import process_line  # noqa: F401
    return RULES[name]


def version(name: str) -> str:
    """Return what the scores of a ready rule depend on: its code, and VLMEvalKit's version.

    Raises:
        DataError: VLMEvalKit is not there, and the rule needs it.
    """
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    if not name.startswith("vlmeval"):
        return code
    for package in ("ms-vlmeval", "vlmeval"):
        try:
            return f"{code} {package} {version_of(package)}"
        except PackageNotFoundError:
            continue
    raise DataError(
        f"--rule {name} judges by VLMEvalKit, which is not installed for this Python. `bash scripts/setup.sh` makes "
        "an environment with it; exact-match and numeric-match need nothing."
    )
