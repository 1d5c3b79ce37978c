"""A model as an ONNX file: one graph that reads a prompt and continues it.

    input_ids       [B, T]     int64        logits             [B, T, V]             float32
    position_ids    [B, T]     int64        present.N.key      [B, Hkv, P + T, hd]
    attention_mask  [B, P + T] int64        present.N.value    [B, Hkv, P + T, hd]
    past_key_values.N.key, .value  [B, Hkv, P, hd]

The names are those that optimum and onnxruntime-genai give to the same things. A prompt comes with P = 0; what comes
back as `present` goes in as `past_key_values` with the next token. A mask of 0 hides a token, so rows of unequal length
are padded on the left.

    graph.py      nodes, and tensors in the file or beside it
    weights.py    matrices in each type of numbers: float32, float16, int8, int4
    decoder.py    the network, written down node by node from ModelConfig
    write.py      `write_onnx`: a directory with the graph, the tokenizer and the settings, checked by those who read it

The graph is written, not traced: it has the operators we choose, all of them standard ones (no `com.microsoft` domain),
and it is written tensor by tensor from the files of the model. Needs the package `onnx` (`pip install danlu[onnx]`).
"""
