"""Everything that can be found, how bad it is, and what to do about it."""

from dataclasses import dataclass


ERROR, WARNING, NOTE = "error", "warning", "note"
LEVELS = (ERROR, WARNING, NOTE)


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        level: `ERROR` stops training, loses the row, or trains on something false; `WARNING` spoils quietly; `NOTE` is
            worth knowing.
        advice: what to do about it.
        drops: whether `--fix` leaves the row out.
    """

    level: str
    advice: str
    drops: bool


def _error(advice: str, drops: bool = True) -> Kind:
    return Kind(ERROR, advice, drops)


def _warning(advice: str, drops: bool = False) -> Kind:
    return Kind(WARNING, advice, drops)


def _note(advice: str) -> Kind:
    return Kind(NOTE, advice, False)


KINDS = {
    # The file
    "file-empty": _error("there is nothing to train on", drops=False),
    "file-bom": _error("the loader refuses a list after a byte order mark; --fix writes none", drops=False),
    "file-encoding": _error("the loader reads UTF-8 only; --fix writes it", drops=False),
    "row-unreadable": _error("correct the line, or download the file again"),
    "row-not-object": _error('a row is an object, {"instruction": ..., ...}'),
    "loader-refuses": _error("the message is the loader's own"),
    "column-missing": _error("name the columns in dataset_info.json (data.py register), or add them", drops=False),
    "column-unused": _warning("name it in dataset_info.json (data.py register does), or remove it"),
    "column-mixed": _error("a column holds one type: make its values alike", drops=False),
    "column-late": _error("types of a .jsonl are those of its first 10 MB; --fix to .json or .parquet", drops=False),
    "images-late": _error(
        "datasets takes the column for empty; put a row with an image first (--fix does)", drops=False
    ),
    "number-too-large": _error("the loader reads whole numbers up to 64 bits"),
    "text-not-unicode": _error("half a character, or a file name that is not UTF-8: rename the file and correct it"),
    # The pair
    "column-type": _error("training expects another type here"),
    "messages": _error("questions and answers take turns, the last message being the question"),
    "question-empty": _error("there is nothing to answer"),
    "question-only-images": _warning("a question of images alone, without a word"),
    "answer-missing": _error("training drops such rows without a word"),
    "answer-empty": _error("an empty answer teaches to say nothing"),
    "answers-identical": _error("a pair of equal answers has no preference"),
    # Scores
    "score-missing": _error("score it (data.py score), or train without scores"),
    "score-not-finite": _error("training stops at NaN and infinity"),
    "score-boolean": _error("a score is a number"),
    "score-text": _error("a score is a number"),
    "score-numeric-text": _note("training reads numbers written as text; --fix writes them as numbers"),
    "score-equal": _note("the scores give such a pair the weight of a coin toss, w_qual = 0.5"),
    "score-reversed": _warning("the rejected answer scores higher: w_qual < 0.5; see data.py stats"),
    # Placeholders
    "image-count": _error("as many <image> in the text as images, or tokenising stops"),
    "media-count": _error("as many <video> and <audio> in the text as files, or tokenising stops"),
    "placeholder-in-answer": _error("answers are text; an image belongs to the question"),
    "placeholder-elsewhere": _warning("it stands for nothing there: it stays text, or confuses the model"),
    "media-token": _error("the model's own media tokens must not be in the text: its images would not match them"),
    "special-token": _warning("text that looks like a control token is tokenised as one"),
    # Images
    "image-entry": _error("a path is expected"),
    "image-missing": _error("training stops here; data.py paths, or --media-dir"),
    "image-not-a-file": _error("a folder or a device is no image"),
    "image-empty": _error("zero bytes: download it again"),
    "image-unreadable": _error("download it again, or remove the row"),
    "image-truncated": _error("the file ends too early: download it again"),
    "image-too-large": _error("Pillow refuses it as a decompression bomb, and so does training: scale it down"),
    "image-too-thin": _error("scaling it down leaves no pixel on one side"),
    "image-crashes": _error("reading it ended the process, as it would training"),
    "image-hangs": _error("reading it did not end"),
    "image-squashed": _warning("sides of more than 200 : 1 are squashed to 180 : 1"),
    "image-tiny": _warning("sides below 28 pixels are stretched to 28"),
    "image-huge": _warning("decoded anew for every batch that it is in: scale it down"),
    "image-rotated": _warning("training ignores the EXIF rotation and sees it lying or mirrored; see --fix-images"),
    "image-transparent": _warning("training sees the colours hidden behind transparent pixels; see --fix-images"),
    "image-deep": _warning("conversion clips values above 255: the picture turns white; see --fix-images"),
    "image-animated": _note("only the first frame is used"),
    "image-cmyk": _note("converted without a colour profile"),
    "image-extension": _note("the name says another format than the file; it is read all the same"),
    # Videos and sounds, and what is no file at all
    "media-embedded": _error("training opens files: data.py convert makes files of these, or paths", drops=False),
    "media-web": _error("training opens files: download them, and give their paths", drops=False),
    "media-missing": _error("training stops here; correct the path, or --media-dir"),
    "media-not-a-file": _error("a folder or a device is no video or sound"),
    "media-empty": _error("zero bytes: download it again"),
    "media-unreadable": _error("training stops here: download it again, or remove the row"),
    "media-crashes": _error("reading it ended the process, as it would training"),
    "media-hangs": _error("reading it did not end"),
    # Rows against each other
    "duplicate": _warning("counts twice; --fix keeps the first", drops=True),
    "contradiction": _error("the same two answers are preferred both ways; one of them is wrong"),
    "leak-pair": _error("the question and what it shows are also in the held-out data: measures memory"),
    "leak-image": _warning("what it shows is also in the held-out data, with another question"),
    "leak-by-split": _warning("val_size deals rows out one by one, and this question is in several"),
    # Tokens
    "tokenized": _note("files that change have no effect: remove tokenized_path, or give another"),
    "tokenized-stale": _error(
        "old rows and scores are trained on: give another tokenized_path, or delete this", False
    ),
    "answer-cut": _warning("raise cutoff_len, or drop what is too long"),
    "prompt-cut": _warning("the end of the question is lost: raise cutoff_len"),
    "image-tokens-cut": _error("raise cutoff_len or lower image_max_pixels; training stops"),
    "answers-cut-alike": _error("what is left of both answers is the same: raise cutoff_len"),
    "tokens-fail": _error("LlamaFactory cannot tokenise this; the message is its own"),
}
