"""Which documents hold items of a benchmark.

| file         | what it answers                                                                   |
|--------------|-----------------------------------------------------------------------------------|
| `benchmarks` | which exams there are, and which items each of them has                           |
| `units`      | what are the units of a text, as 64-bit hashes, whatever its case and width       |
| `seeds`      | where does a text share four units in a row with any item (numpy, or `seeds.cpp`) |
| `index`      | is that a copy of the item, an edited copy, or chance                             |
"""
