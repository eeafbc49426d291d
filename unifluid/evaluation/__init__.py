"""Scores as the field computes them: pure functions over what was drawn or written, and the networks that look on."""
