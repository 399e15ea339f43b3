"""Indicators on GPIO pins: patterns of light and sound, outputs that carry them, the service that drives both."""
