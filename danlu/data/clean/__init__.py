"""Cleaning: the same text, without what no reader would miss.

| file          | what it takes away or puts right                                          | default |
|---------------|---------------------------------------------------------------------------|---------|
| `characters`  | control and invisible characters, line ends, blanks                       | on      |
| `markup`      | HTML tags and entities, BBCode; wiki and Markdown leftovers               | on; off |
| `widths`      | full-width letters and digits; Chinese punctuation stays                  | on      |
| `boilerplate` | cookie notices, share buttons, footers, "上一篇 下一篇", page furniture    | on; off |
| `lines`       | lines that were broken to fit a page                                      | off     |
| `tables`      | the rules and empty rows of tables                                        | off     |
| `chinese`     | traditional to simplified, or back                                        | off     |
| `document`    | all of these in order, counted: `clean_document`                          |         |

Off are the steps that can be wrong about a clean text: they are for sources that are known to need them.
"""
