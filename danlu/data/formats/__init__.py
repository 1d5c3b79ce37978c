"""Formats: what text is in this file."""
