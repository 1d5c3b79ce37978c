"""GGUF, the file format of llama.cpp, in and out.

| file          | what it answers                                                                      |
|---------------|--------------------------------------------------------------------------------------|
| `reader`      | the container: metadata and a table of tensors, memory-mapped                        |
| `writer`      | the same, written from front to back                                                 |
| `blocks`      | the types of numbers: how a block of small integers and its scales lies in bytes     |
| `pack`, `fit` | weights into such bytes; which scales and integers lose least                        |
| `kept`        | weights that are quantised already, number for number                                |
| `names`       | what llama.cpp calls an architecture and its tensors                                 |
| `settings`    | its keys as a ModelConfig, both ways                                                 |
| `load`        | a file as a model                                                                    |
| `mixture`     | which tensor gets which type                                                         |
| `cut`, `save` | a model as tensors, and as a file that its readers have opened                       |

The tokenizer in a file is `danlu/tokenizer/gguf.py` and `to_gguf.py`.
"""
