"""Which documents hold items of a benchmark: units, seeds in compiled code, and the index that judges their hits.

| file     | what it answers                                                                   |
|----------|-----------------------------------------------------------------------------------|
| `units`  | what are the units of a text, as 64-bit hashes, whatever its case and width        |
| `seeds`  | where does a text share four units in a row with any item (numpy, or `seeds.cpp`)  |
| `index`  | is that a copy of the item, an edited copy, or chance                              |
"""
