"""Studies: the same model trained in several ways, over several seeds, and what the difference between them is."""
