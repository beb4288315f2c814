"""Models that see no pictures: their tokenizer, where others have a processor."""

from pathlib import Path
from typing import Any


class Words:
    """A tokenizer that is called as a processor.

    Args:
        tokenizer: The checkpoint's.
    """

    chat_template = None  # the tokenizer has it

    def __init__(self, tokenizer: Any):
        """Wrap a tokenizer."""
        self.tokenizer = tokenizer

    def __call__(self, text: list[str], add_special_tokens: bool, padding: bool, return_tensors: str, **_: Any) -> Any:
        """Return ids and mask of texts; options of pictures, of which there are none, go by."""
        return self.tokenizer(
            text,
            add_special_tokens=add_special_tokens,
            padding=padding,
            return_tensors=return_tensors,
            return_token_type_ids=False,
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Save the tokenizer."""
        self.tokenizer.save_pretrained(folder)
