"""Options of ours: their definition, and what is refused before a run starts."""
