"""Formats: what text is in this file.

| file                                | what it reads                                                              |
|-------------------------------------|----------------------------------------------------------------------------|
| `extract`                           | the table: end of a file name -> reader; one door for all of them          |
| `item`                              | what a reader gives (`Item`, `Broken`) and what a row of the table is      |
| `streams`, `archives`               | compression, object stores; zip and tar as folders                         |
| `encodings`, `mojibake`             | bytes to text, and text that was once decoded wrongly                      |
| `plain`, `licence`                  | text, Markdown and source code; which licence a file names                 |
| `records`, `tables`                 | jsonl, json, csv; parquet and arrow                                        |
| `html`, `warc`                      | web pages; crawled pages with their headers                                |
| `pdf`, `office`, `notebook`         | PDF, DOCX, EPUB, Jupyter                                                   |
| `wiki`, `wikitext`                  | dumps of Wikipedia                                                         |
| `mail`, `chat`                      | mailboxes; exports of Telegram, WeChat, WhatsApp, Slack                    |
"""
