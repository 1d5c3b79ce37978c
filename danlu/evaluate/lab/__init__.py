"""Many versions of one model on one table: what each saves, what it costs, how fast it is here.

    model, corpus, candidates  --evaluate.lab-->  report.json, report.md, report.html, picture.svg

| file        | what it answers                                                                      |
|-------------|--------------------------------------------------------------------------------------|
| `stage`     | the stage: every candidate judged on the same held-out text                          |
| `advice`    | which one is on the front, and which one for a phone, a laptop, a server             |
| `picture`   | sizes and speeds against what they cost, as SVG                                      |
| `page`      | the report as Markdown and as a page                                                 |
"""

from danlu.evaluate.lab.stage import LabConfig, lab

__all__ = ["LabConfig", "lab"]
