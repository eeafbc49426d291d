"""Speed, beside plain references, in ratios: see README.md. Run from a checkout; no part of the installed package."""
