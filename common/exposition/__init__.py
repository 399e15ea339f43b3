"""Exposition formats of Prometheus: encoders and parsers."""
