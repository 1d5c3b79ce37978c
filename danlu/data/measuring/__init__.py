"""How `data.measure` works: one door, `measure_sources`.

| file     | what it answers                                                                   |
|----------|-----------------------------------------------------------------------------------|
| `walk`   | how are sources cut, handed out and put together again                            |
| `plan`   | which pieces are there, in a file; is it what an earlier try was about            |
| `piece`  | what does a worker do with one piece: read, clean, measure                        |
| `counts` | what came in, and what was changed on the way                                     |
"""

from danlu.data.measuring.walk import measure_sources

__all__ = ["measure_sources"]
