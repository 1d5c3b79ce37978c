"""What happened to a corpus, for people: doors are `write_report` and `explain`.

| file    | what it answers                                                                     |
|---------|-------------------------------------------------------------------------------------|
| `write` | what came in, what was dropped and why, what is left: report.json                   |
| `page`  | the same as a page, report.html                                                     |
| `card`  | the same as a data card, README.md                                                  |
| `why`   | why was this document dropped, or kept                                              |
"""

from danlu.data.report.why import Found, explain
from danlu.data.report.write import write_report

__all__ = ["Found", "explain", "write_report"]
