"""GGUF, the file format of llama.cpp, in and out.

| file          | what it answers                                                                      |
|---------------|--------------------------------------------------------------------------------------|
| `reader`      | the container: metadata and a table of tensors, memory-mapped                        |
| `blocks`      | the types of numbers: how a block of small integers and its scales lies in bytes     |
| `names`       | what llama.cpp calls an architecture and its tensors                                 |
| `settings`    | its keys as a ModelConfig                                                            |
| `load`        | a file as a model                                                                    |

The tokenizer in a file is `danlu/tokenizer/gguf.py`.
"""
