"""The right name for one that is nearly right: "did you mean …?"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """To be appended to a message that refuses `name`; empty where nothing is near."""
    known = list(known)
    longer = [other for other in known if name and other.startswith(name)]  # of which it is the beginning
    found = difflib.get_close_matches(name, longer or known, n=1, cutoff=0.0 if longer else 0.6)
    return f"; did you mean {found[0]}?" if found else ""
