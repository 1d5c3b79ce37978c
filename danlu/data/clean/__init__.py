"""Cleaning: the same text, without what no reader would miss."""
