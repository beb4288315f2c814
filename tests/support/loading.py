"""Loading as training does, without a model: many inputs can be tried in one process."""

from pathlib import Path
from typing import Any

from pairs import options

from llamafactory.data import get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer
from llamafactory.train.uni_dpo.swaps import our_trainer, scored_data


def prepare(model: Path, data: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    """Load and tokenise as a run does and return `{"train_dataset": ..., "eval_dataset": ...}`."""
    import llamafactory.train.tuner  # noqa: F401
    from llamafactory.train.dpo import workflow

    model_args, data_args, training_args, *_ = get_train_args(options(model, data, folder / "out", **changes))
    with scored_data():
        module = load_tokenizer(model_args)
        template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
        return workflow.get_dataset(template, model_args, data_args, training_args, stage="rm", **module)


class Loader:
    """From a folder of data to batches, as often as one likes."""

    def __init__(self, model: Path, folder: Path, **changes: Any):
        """Read the options once."""
        import llamafactory.train.tuner  # noqa: F401

        run = options(model, folder, folder / "out", preprocessing_num_workers=None, **changes)
        self.model_args, self.data_args, self.training_args, *_ = get_train_args(run)
        self.module = load_tokenizer(self.model_args)
        self.template = get_template_and_fix_tokenizer(self.module["tokenizer"], self.data_args)

    def data(self) -> Any:
        """Load and tokenise."""
        from llamafactory.train.dpo import workflow

        with our_trainer(self.data_args), scored_data():
            arguments = self.template, self.model_args, self.data_args, self.training_args
            return workflow.get_dataset(*arguments, stage="rm", **self.module)["train_dataset"]

    def batch(self, dataset: Any) -> dict[str, Any]:
        """Collate everything as one batch."""
        from llamafactory.train.uni_dpo.data.collate import PairCollator

        return PairCollator(template=self.template, pad_to_multiple_of=8, label_pad_token_id=-100, **self.module)(
            [dataset[i] for i in range(len(dataset))]
        )
