"""The hub's HTTP interfaces."""
