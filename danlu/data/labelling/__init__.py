"""Labels for documents: cheap ones from rules, good ones from people, and how far each can be trusted.

| file           | what it answers                                                              |
|----------------|------------------------------------------------------------------------------|
| `model`        | which label do many noisy voters speak for (majority, Dawid-Skene)            |
| `agreement`    | do annotators agree more than chance would (Cohen's kappa, Krippendorff's alpha) |
| `queue`        | which documents should a person look at next                                 |
| `label_studio` | tasks and annotations in Label Studio's JSON, out and in                     |
"""
