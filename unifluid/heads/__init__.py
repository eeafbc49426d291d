"""Heads: from hidden states to distributions over the next token, of text or of an image."""
