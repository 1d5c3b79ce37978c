"""Mixtures: how much of what, in which order, and how to find out.

| file         | what it answers                                                                    |
|--------------|------------------------------------------------------------------------------------|
| `catalogue`  | which documents there are, in numbers                                              |
| `plan`       | what of which group, in which phase, at which place                                |
| `allocate`   | how many bytes of each group: weights, temperature, epoch caps, exact integers     |
| `streams`    | which documents those are, and where in the whole each one comes                   |
| `scatter`    | how rows get into that order when they do not fit into memory                      |
| `regression` | which weights small proxy runs speak for                                           |
"""
