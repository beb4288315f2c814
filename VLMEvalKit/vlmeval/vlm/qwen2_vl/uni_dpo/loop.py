"""What VLMEvalKit's own loop, run.py, has to be told or spared while it evaluates our class.

The loop asks nobody: it reads cells such as "None" as empty, takes pictures of an older file, scores NaN, and ignores
the judge of a config. It hands a model the data set's `dump_image`, and with it the data set, which is mended here.
Whatever else it evaluates in the same run is not touched.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


OFFLINE = "--judge exact_matching"


def in_their_loop() -> bool:
    """Tell whether this process is VLMEvalKit's run.py, `python -m vlmeval` or `python -m vlmeval.run`."""
    started = Path(sys.argv[0])
    return started.name == "run.py" or (started.name == "__main__.py" and started.parent.name == "vlmeval")


def require_judge_on_command_line() -> None:
    """End a run whose config names a judge that the loop would not hear of, and warn of one that nobody named.

    Left alone, it asks an API model: it waits for one that is not there, or costs money.

    Raises:
        SystemExit: The config names one, and the command line does not.
    """
    if not in_their_loop() or value_of("--judge") or value_of("--mode") == "infer":
        return
    if judge := judge_of_config():
        raise SystemExit(f'error: "judge": "{judge}" of a config does not reach run.py; add --judge {judge}')
    print(f"VLMEvalKit will ask an API model about answers; {OFFLINE} does without", file=sys.stderr)


def value_of(option: str) -> str | None:
    """Return what the command line gives for an option, after a space or `=`; None if it is not there."""
    pairs = zip(sys.argv, [*sys.argv[1:], ""], strict=True)
    found = [
        after if word == option else word.partition("=")[2] for word, after in pairs if word.split("=")[0] == option
    ]
    return found[-1] if found else None


def judge_of_config() -> str | None:
    """Return the judge that the config of the command line names."""
    try:
        config = json.loads(Path(value_of("--config") or "").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    judge = config.get("judge") if isinstance(config, dict) else None
    return judge if isinstance(judge, str) else None


def adopt(dataset: Any) -> Callable[[Any], Any]:
    """Mend a data set of the loop: its cells, its pictures and its scoring are as in `python -m vlmeval.uni_dpo`.

    Args:
        dataset: One with a table of questions; others stay as they are.

    Returns:
        What gives the mended row for one that the loop took before.

    Raises:
        RunError: It has rows that cannot be scored.
    """
    import pandas as pd

    from ....uni_dpo.checks import require_numbers, require_rows
    from ....uni_dpo.pictures import keep_as_written
    from ....uni_dpo.reading import as_written, restore

    table = getattr(dataset, "data", None)
    if not isinstance(table, pd.DataFrame) or "index" not in table or dataset.MODALITY == "VIDEO":
        return lambda line: line
    kind = type(dataset).__name__
    require_rows(dataset.dataset_name, restore(dataset), dataset)
    keep_as_written(dataset)
    build_prompt, evaluate = dataset.build_prompt, dataset.evaluate

    def row(line: Any) -> Any:
        return dataset.data.loc[line.name] if isinstance(line, pd.Series) and line.name in dataset.data.index else line

    def evaluate_as_written(*arguments: Any, **options: Any) -> Any:
        with as_written(kind):
            scores = evaluate(*arguments, **options)
        require_numbers(dataset.dataset_name, scores)
        return scores

    dataset.build_prompt = lambda line: build_prompt(row(line))
    dataset.evaluate = evaluate_as_written
    return row
