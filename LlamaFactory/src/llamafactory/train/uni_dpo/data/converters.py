"""Scores and weights on their way from the data set to the batch.

Small classes that take the place of upstream's for the time of a run (`swaps.py` puts them there): the description
of a data set learns their columns, its converter reads them, and the processor keeps them beside the rows that
upstream keeps. The collator (`collate.py`) hands them over as float32 tensors.
"""

from dataclasses import dataclass, field
from typing import Any

from ....data.converter import AlpacaDatasetConverter, OpenAIDatasetConverter, SharegptDatasetConverter
from ....data.parser import DatasetAttr
from ..errors import in_context
from ..objective.pairs import SIDES, WEIGHT
from .columns import SCORED_DTYPES
from .prompts import PromptOnceProcessor
from .scores import NO_ROW, ROW_COLUMN, read_score


@dataclass
class ScoredDatasetAttr(DatasetAttr):
    """A data set's entry in `dataset_info.json` that also knows where its scores and weights are.

    Attributes:
        score_chosen: source column with the score of the chosen response.
        score_rejected: source column with the score of the rejected response.
        weight: source column with the weight of the pair.
        position: the place of the data set in the `dataset` (or `eval_dataset`) option, from 0.
        label: its name there.
        needed: which of these columns the run needs, each with the option that needs it.
    """

    score_chosen: str = "score_chosen"
    score_rejected: str = "score_rejected"
    weight: str = "weight"
    position: int = 0
    label: str = ""
    needed: dict[str, str] = field(default_factory=dict)

    def join(self, attr: dict[str, Any]) -> None:
        """Read the entry; upstream's reader skips column names that it does not know."""
        super().join(attr)
        columns = attr.get("columns") or {}
        for name in (*SIDES, WEIGHT):
            setattr(self, name, columns.get(name) or name)

    def __repr__(self) -> str:
        """Name the data set as the user did."""
        return self.label or self.dataset_name


class _ReadsScores:
    """Converter that adds the numbers that the run needs and the pair's place to what upstream's makes of it."""

    def __call__(self, example: dict[str, Any]) -> dict[str, Any]:
        attr, row = self.dataset_attr, example.get(ROW_COLUMN, NO_ROW)
        with in_context(place(f'"{attr!r}"', row)):
            converted = super().__call__(example)
        converted |= {f"_{name}": read_score(example, attr, name, row) for name in attr.needed}
        converted |= {"_pair_dataset": attr.position, "_pair_row": row}
        return converted


class ScoredAlpacaConverter(_ReadsScores, AlpacaDatasetConverter):
    """Upstream's alpaca converter, plus scores."""


class ScoredSharegptConverter(_ReadsScores, SharegptDatasetConverter):
    """Upstream's sharegpt converter, plus scores."""


class ScoredOpenAIConverter(_ReadsScores, OpenAIDatasetConverter):
    """Upstream's openai converter, plus scores."""


SCORED_CONVERTERS = {
    "alpaca": ScoredAlpacaConverter,
    "sharegpt": ScoredSharegptConverter,
    "openai": ScoredOpenAIConverter,
}


class ScoredPairwiseProcessor(PromptOnceProcessor):
    """Upstream's tokenisation of pairs, plus the carried columns."""

    def preprocess_dataset(self, examples: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Tokenise a batch of examples; rows that upstream drops lose their scores with them.

        Upstream drops invalid rows without saying which, so each row goes alone.
        """
        batch: dict[str, list[Any]] = {}
        for i in range(len(examples["_prompt"])):
            self.place = self._place(examples["_pair_dataset"][i], examples["_pair_row"][i])
            with in_context(self.place):
                encoded = super().preprocess_dataset({name: [column[i]] for name, column in examples.items()})
            if not encoded:
                continue
            carried = [name for name in SCORED_DTYPES if f"_{name}" in examples]
            encoded |= {name: [examples[f"_{name}"][i]] for name in carried}
            for name, values in encoded.items():
                batch.setdefault(name, []).extend(values)
        return batch

    def _place(self, position: int, row: int) -> str:
        # Whether this is training or evaluation data is not known here, and mostly there is only one.
        lists = (self.data_args.dataset or [], self.data_args.eval_dataset or [])
        names = dict.fromkeys(f'"{names[position]}"' for names in lists if position < len(names))
        return place(" or ".join(names), row)


def place(names: str, row: int) -> str:
    """Begin a sentence about a row of a data set, which has a number unless it came in a stream."""
    return f"Data set {names}, " + ("a row" if row == NO_ROW else f"row {row} (the first is 0)")
