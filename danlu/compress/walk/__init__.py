"""A model changed block by block while text goes through it: what quantisation and pruning share.

| file          | what it answers                                                              |
|---------------|------------------------------------------------------------------------------|
| `calibration` | the text that shows what matrices are fed                                    |
| `layers`      | the walk through the blocks, and what is known of a matrix' inputs           |
| `blockwise`   | one block in memory at a time; a killed run goes on behind the last          |
"""
