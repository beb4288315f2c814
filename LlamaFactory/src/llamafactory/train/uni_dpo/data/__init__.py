"""From rows of a data set to batches of pairs."""
