"""What only a GPU can tell, in one command: `python -m benchmarks.gpu`."""
