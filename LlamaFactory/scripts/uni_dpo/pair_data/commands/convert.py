"""The command `convert`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..options import Config, ImageDir, Limit, MaxPerQuestion, Output, Pairs, Split, Strict


NAME = "convert"


def run(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help=".json, .jsonl, .parquet, .csv, .tsv files, folders (of Parquet shards, of save_to_disk), or hub ids",
        ),
    ],
    output: Output,
    shape: Annotated[str, typer.Option("--from", help="the shape, if it is not to be recognised")] = "",
    pairs: Pairs = "best-worst",
    min_margin: Annotated[
        float | None,
        typer.Option(help="least difference in scores (in ranks, where there are no scores)", show_default=False),
    ] = None,
    max_per_question: MaxPerQuestion = None,
    seed: Annotated[int, typer.Option(help="of that sample")] = 0,
    by: Annotated[
        Literal["rank", "score"], typer.Option(help="what decides where answers have both a rank and a score")
    ] = "rank",
    only_scored: Annotated[bool, typer.Option("--only-scored", help="leave out pairs without scores")] = False,
    no_scores: Annotated[bool, typer.Option("--no-scores", help="leave out the scores")] = False,
    keep_ties: Annotated[bool, typer.Option("--keep-ties", help="keep rows that say is_tie")] = False,
    question: Annotated[str, typer.Option(help="column of the question")] = "",
    image: Annotated[str, typer.Option(help="column of the image or images (media.uri: also of a list)")] = "",
    answers: Annotated[str, typer.Option(help="column of the answers")] = "",
    text: Annotated[str, typer.Option(help="within an answer: its text")] = "",
    score: Annotated[
        str, typer.Option(help="within an answer, or a list beside them: the score; of several numbers, their mean")
    ] = "",
    rank: Annotated[str, typer.Option(help="the same for the rank, 1 for the best")] = "",
    winner: Annotated[str, typer.Option(help="column that says which of two answers won, by name or ending")] = "",
    image_prefix: Annotated[
        str | None,
        typer.Option(help="put before relative image paths (default: MM-RLHF/ for MM-RLHF)", show_default=False),
    ] = None,
    image_dir: ImageDir = None,
    media_dir: Annotated[
        Path | None,
        typer.Option(help="where the source's image paths start (default: its folder)", show_default=False),
    ] = None,
    split: Split = "",
    config: Config = "",
    limit: Limit = None,
    strict: Strict = False,
) -> None:
    """Turn other people's preference data into pairs for training.

    Reads answers with scores or ranks, votes between two answers, and preference sets of trl, LlamaFactory, ms-swift,
    MM-RLHF, RLAIF-V, RLHF-V and VLFeedback. The shape is recognised by the first rows, and printed.

    \b
      data.py convert MM-RLHF/data.jsonl -o data/mm_rlhf.json
      data.py convert answers.parquet -o pairs.json --pairs all --min-margin 0.5
      data.py convert odd.jsonl -o pairs.json --answers outputs --text reply --score judge.total

    --pairs best-worst: of each question the two answers furthest apart. all: every two. adjacent: those next to each
    other in rank (or score). Answers that tie or say the same are never paired. Where ranks and scores contradict
    each other the rank decides, and the pairs are counted; --by score lets scores decide, --min-margin 0 leaves such
    pairs out. In sets that say which answer is preferred, this decides.

    Columns are named with dots to go inside (scores.overall); commas join several (--answers first,second --score
    s1,s2). Images from inside the data become files, named by their content. Rows that cannot be understood are
    counted and named; if they are more than half, nothing is written. So are rows whose two answers are about
    different images, tools or system prompts, and columns that nothing was taken from. Pairs have scores all or none.
    """  # noqa: D301
    from ..convert.fields import Fields
    from ..convert.pairing import Pairing
    from ..convert.questions import Reading
    from ..convert.run import Options, convert
    from ..convert.shapes import SHAPES
    from ..errors import DataError
    from ..writing import require_new_name, require_writable

    require_writable(output)
    if shape and shape not in SHAPES:
        raise DataError(f"--from {shape}: the shapes are {', '.join(SHAPES)}.")
    if only_scored and no_scores:
        raise DataError("--only-scored and --no-scores contradict each other: give one of them.")
    require_new_name(output, [Path(source) for source in sources])
    fields = Fields(question, image, answers, text, score, rank, winner)
    pairing = Pairing(pairs, min_margin, max_per_question, seed, by)
    scores = "only" if only_scored else "none" if no_scores else "all"
    reading = Reading(shape, fields, image_prefix, media_dir, split, config, keep_ties, strict, limit)
    print(convert(sources, output, Options(reading, pairing, scores, image_dir)).text(str(output)))
