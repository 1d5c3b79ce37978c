"""Tests of danlu.compress.quantize."""
