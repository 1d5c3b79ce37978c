"""One compiled pass over texts: all measures, the MinHash signature, hashes. The door is `scan`.

`batch` says what it gives and calls the C++ in `cpp/`; without a compiler it asks `quality.measure` and
`dedup.signature`, which define the numbers.
"""

from danlu.data.scan.batch import TEXT, Scanned, scan

__all__ = ["TEXT", "Scanned", "scan"]
