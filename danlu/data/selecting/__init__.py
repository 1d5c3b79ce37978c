"""How `data.select` decides and delivers: one door, `select_documents`.

| file           | what it answers                                                                  |
|----------------|----------------------------------------------------------------------------------|
| `walk`         | in which passes over the measured corpus                                         |
| `judge`        | keep or why not, by the thresholds of the config                                 |
| `fate`         | what is known of each document, and what becomes of it                           |
| `meanings`     | who says the same in other words; what does the corpus speak of (`topics`)       |
| `trim`         | which lines and passages are taken out of documents                              |
| `destinations` | into which file does each row go, and what is counted there                      |
"""

from danlu.data.selecting.destinations import Books
from danlu.data.selecting.fate import Fate
from danlu.data.selecting.walk import select_documents

__all__ = ["Books", "Fate", "select_documents"]
