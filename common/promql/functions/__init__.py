"""Functions of PromQL by family."""
