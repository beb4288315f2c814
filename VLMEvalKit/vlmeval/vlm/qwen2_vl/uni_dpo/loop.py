"""What VLMEvalKit's own loop, run.py, has to be told or spared while it evaluates our class.

The loop reads cells such as "None" as empty, takes pictures of an older file, scores NaN, and ignores the judge of a
config. It hands a model the data set's `dump_image`, and with it the data set, which is corrected here. Whatever else
it evaluates in the same run does not change.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ....uni_dpo.errors import UniDPOError
from ....uni_dpo.files import read_json


def in_their_loop() -> bool:
    """Tell whether this process is VLMEvalKit's run.py, `python -m vlmeval` or `python -m vlmeval.run`."""
    started = Path(sys.argv[0])
    return started.name == "run.py" or (started.name == "__main__.py" and started.parent.name == "vlmeval")


def require_judge_on_command_line() -> None:
    """End a run whose config names a judge that the loop would not hear of, and warn of one that nobody named.

    Otherwise it asks an API model: it waits for one that is not there, or costs money.

    Raises:
        SystemExit: The config names one, and the command line does not.
    """
    if not in_their_loop():
        return
    parser = ArgumentParser(allow_abbrev=False, add_help=False, exit_on_error=False)
    for option in ("--judge", "--mode", "--config"):
        parser.add_argument(option)
    asked, _ = parser.parse_known_args()
    if asked.judge or asked.mode == "infer":
        return
    try:
        judge = read_json(Path(asked.config or "")).get("judge")
    except UniDPOError:
        judge = None
    if isinstance(judge, str):
        raise SystemExit(f'error: "judge": "{judge}" of a config does not reach run.py; add --judge {judge}')
    print("VLMEvalKit will ask an API model about answers; --judge exact_matching does without", file=sys.stderr)


def adopt(dataset: Any) -> Callable[[Any], Any]:
    """Correct a data set of the loop: cells, pictures and scoring are as in `python -m vlmeval.uni_dpo`.

    Returns:
        What gives the corrected row for one that the loop took before.

    Raises:
        UniDPOError: It has rows that cannot be scored.
    """
    import pandas as pd

    from ....uni_dpo.benchmark import keep_pictures
    from ....uni_dpo.checks import require_numbers, require_rows
    from ....uni_dpo.reading import as_written, restore

    table = getattr(dataset, "data", None)
    if not isinstance(table, pd.DataFrame) or "index" not in table or dataset.MODALITY == "VIDEO":
        return lambda line: line
    require_rows(dataset.dataset_name, restore(dataset), dataset)
    keep_pictures(dataset)
    build_prompt, evaluate = dataset.build_prompt, dataset.evaluate

    def row(line: Any) -> Any:
        return dataset.data.loc[line.name] if isinstance(line, pd.Series) and line.name in dataset.data.index else line

    def evaluate_as_written(*arguments: Any, **options: Any) -> Any:
        with as_written(type(dataset).__name__):
            scores = evaluate(*arguments, **options)
        require_numbers(dataset.dataset_name, scores)
        return scores

    dataset.build_prompt = lambda line: build_prompt(row(line))
    dataset.evaluate = evaluate_as_written
    return row
