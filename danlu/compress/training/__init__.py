"""A finished model trained on: what the stages `compress.qat` and `compress.recover` share.

| file               | what it answers                                                         |
|--------------------|-------------------------------------------------------------------------|
| `further`          | the training itself, under a constraint                                 |
| `straight_through` | weights that are seen rounded; the float model as the teacher           |
"""
