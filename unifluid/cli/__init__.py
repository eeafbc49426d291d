"""The command line: a dispatcher free of torch, and one file per command family, imported when its command runs."""
