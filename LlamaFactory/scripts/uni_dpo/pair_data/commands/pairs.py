"""The command `pairs`."""

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from ..errors import DataError
from ..options import MaxPerQuestion, Output, Pairs, Report
from ..rows import SUFFIXES


NAME = "pairs"


def run(
    data: Annotated[Path, typer.Argument(metavar="SCORED", help="answers with scores, as data.py score writes them")],
    output: Output,
    pairs: Pairs = "best-worst",
    min_margin: Annotated[float | None, typer.Option(help="least difference in scores", show_default=False)] = None,
    min_answers: Annotated[int, typer.Option(min=2, help="leave out questions with fewer different answers")] = 2,
    max_per_question: MaxPerQuestion = None,
    mix: Annotated[
        list[Path] | None, typer.Option(help="old pairs to mix in; may be given several times", show_default=False)
    ] = None,
    mix_share: Annotated[
        float | None, typer.Option(help="share of all pairs that old ones are to be", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="of what is drawn: pairs of a question, and old pairs")] = 0,
    eta: Annotated[float, typer.Option(help="steepness of w_qual, uni_dpo_qual_eta in training", min=0)] = 0.7,
    tau_good: Annotated[float, typer.Option(help="threshold of the NLL term, uni_dpo_tau_good in training")] = 2.5,
    report: Report = None,
) -> None:
    r"""Make pairs of scored answers, and show what training will make of them.

    \b
      data.py pairs scored.json -o pairs.json
      data.py pairs scored.json -o pairs.json --pairs all --max-per-question 3 --min-margin 1
      data.py pairs scored.json -o pairs.json --mix last_round.json --mix-share 0.3

    --pairs best-worst: of each question the two answers furthest apart. all: every two. adjacent: those next to each
    other in score. Answers that tie or say the same are never paired, and answers that were cut at their limit are
    left out.

    --mix adds old pairs, with whatever scores they have, until they are --mix-share of the whole: 0.3 with 700 new
    pairs takes 300. Which ones depends on --seed and on what they say. They come evenly among the new ones, a pair
    that is also new comes once, and the column "origin" says which is which.

    What is shown at the end, margins, weights and the share of answers at or above tau_good, is what data.py stats
    shows; that command draws it, too.
    """
    from ..convert.fields import Fields
    from ..convert.mixing import ORIGIN, Mix
    from ..convert.pairing import Pairing
    from ..convert.questions import Reading
    from ..convert.run import Options, convert
    from ..sources import open_source
    from ..stats.page import look
    from ..stats.report import describe
    from ..writing import require_outputs, whole_file

    old = mix or []
    if not math.isfinite(eta) or not math.isfinite(tau_good):
        raise DataError("--eta and --tau-good must be finite numbers")
    if bool(old) != (mix_share is not None):
        raise DataError("--mix and --mix-share go together: which old pairs, and what share of all they are to be.")
    if old and not 0 < mix_share < 1:
        raise DataError(f"--mix-share {mix_share:g}: a share of all pairs, above 0 and below 1.")
    require_outputs([data, *old], (output, SUFFIXES), (report, [".json"]))
    fields = Fields("instruction", "images", "answers", "text", "score")
    pairing = Pairing(pairs, min_margin, max_per_question, seed, "score", min_answers)
    mixing = Mix([str(path) for path in old], mix_share or 0.0, seed)
    options = Options(Reading("answers", fields, keep_ties=True, sampled=True), pairing, mix=mixing)
    converted = convert([str(data)], output, options)
    print(converted.text(str(output)))
    shown = describe(open_source(str(output)), ORIGIN if old else None, eta, tau_good, with_images=False)
    if report:
        counts = {"questions": converted.read, "old_pairs": converted.mixed.taken if converted.mixed else 0}
        with whole_file(report) as file:
            json.dump(counts | shown, file, indent=1, ensure_ascii=False, allow_nan=False)
    print("\n" + look(shown))
    print(f"Next: data.py register NAME {output}, and data.py check NAME")
