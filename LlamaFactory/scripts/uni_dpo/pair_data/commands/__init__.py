"""Commands whose options stand apart from what does the work, so that `--help` need not import it."""
