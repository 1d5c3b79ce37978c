"""The schemes of a model in the words of `quantization_config`.

The words are those of compressed-tensors: `config_groups`, each with a scheme and `targets`, which are the names of
modules, regular expressions ("re:...") or kinds ("Linear", "Embedding"); the narrower one wins. `format` is that of the
groups, or "mixed-precision" where they differ and each names its own. Names are those of the checkpoint; danlu's one
`qkv` answers to all three of its parts, which must agree.

`Embedding` as a target goes further than other readers do: in a small model the embedding is the largest matrix of
all. transformers 5.23 with compressed-tensors 0.20 does not open a quantised embedding that is tied to the head.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from danlu.core.errors import UserError, shown
from danlu.model.config import ModelConfig
from danlu.model.hub import hf_parts
from danlu.model.quantized.scheme import NF4, Scheme, scheme_from_json
from danlu.model.transformer import Transformer

log = logging.getLogger("danlu")
METHOD, OWN_METHOD = "compressed-tensors", "danlu"  # the second where there is a format that the first does not know
MIXED = "mixed-precision"


def quantization_config(model: Transformer) -> dict[str, Any] | None:
    """What config.json has to say about `model`; None when nothing in it is quantised."""
    from danlu.model.quantized import matrices, schemes_of

    found, schemes = matrices(model), schemes_of(model)
    if not schemes:
        return None
    groups: dict[Scheme, list[str]] = {scheme: [] for scheme in schemes.values()}
    for kind, names in (("Linear", set(found) - {"embedding"}), ("Embedding", {"embedding"} & set(found))):
        of_kind = {name: schemes[name] for name in found if name in names and name in schemes}
        if not of_kind:
            continue
        usual = Counter(of_kind.values()).most_common(1)[0][0]
        groups[usual].append(kind)
        for name, scheme in of_kind.items():
            if scheme != usual:
                groups[scheme] += _names(model.config, name)
    # a kind that has no scheme is nobody's target, and of one that has, the modules without are left out by name
    targets = {target for group in groups.values() for target in group}
    left = [n for n in found if n not in schemes and ("Embedding" if n == "embedding" else "Linear") in targets]
    ignored = [part for name in left for part in _names(model.config, name)]
    if model.config.tie_embeddings and "embedding" not in schemes:
        ignored.append("lm_head")  # a Linear in other programs, and made of the embedding
    formats = {scheme.format for scheme in groups}
    return {
        "quant_method": OWN_METHOD if NF4.format in formats else METHOD,
        "format": formats.pop() if len(formats) == 1 else MIXED,
        "quantization_status": "compressed",
        "config_groups": {
            f"group_{number}": {
                "targets": group,
                "weights": scheme.to_json(),
                "input_activations": None,
                "output_activations": None,
                "format": scheme.format,
            }
            for number, (scheme, group) in enumerate(groups.items())
        },
        "ignore": ignored,
        "kv_cache_scheme": None,
    }


def read_schemes(config: ModelConfig, modules: list[str], raw: Mapping[str, Any]) -> dict[str, Scheme]:
    """The scheme of each of `modules` (danlu's names) that has one. Raises UserError for what danlu does not read."""
    method, form = raw.get("quant_method"), raw.get("format")
    if method not in (METHOD, OWN_METHOD):
        raise UserError(
            f'the model is quantised with "{method}", which danlu does not read',
            f'it reads "{METHOD}", "gptq" and "awq", and GGUF files',
        )
    _refuse(raw)
    targets: dict[str, Scheme] = {}
    for name, group in _mapping(raw, "config_groups").items():
        group = _mapping({name: group}, name)
        _leave_activations(name, _mapping(group, "input_activations"))
        own = group.get("format") if form == MIXED else form
        scheme = scheme_from_json(_mapping(group, "weights"), own, f"quantization_config.{name}")
        targets |= dict.fromkeys(_patterns(group, "targets"), scheme)
    ignored = _patterns(raw, "ignore")
    found = {name: _find(_names(config, name), name, targets, ignored) for name in modules}
    wrong = [name for name, schemes in found.items() if len(set(schemes)) > 1]
    if wrong:
        raise UserError(f"the parts of {wrong[0]} are quantised in different ways", "quantise them alike")
    schemes = {name: schemes[0] for name, schemes in found.items() if schemes[0] is not None}
    if not schemes:
        raise UserError(f"quantization_config has targets {sorted(targets)}", "none of them is in the model")
    return schemes


def _mapping(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """raw[key], {} where it is absent. Raises UserError when it is no mapping."""
    found = raw.get(key) or {}
    if not isinstance(found, Mapping):
        raise UserError(f"quantization_config: {key} is {shown(found)}, not a mapping", "copy the model again")
    return found


def _patterns(raw: Mapping[str, Any], key: str) -> list[str]:
    """raw[key], a list of names and regular expressions. Raises UserError when it is none."""
    found = raw.get(key) or []
    if not (isinstance(found, list) and all(isinstance(one, str) for one in found)):
        raise UserError(f"quantization_config: {key} is {shown(found)}, not a list of names", "copy the model again")
    for one in found:
        if one.startswith("re:"):
            try:
                re.compile(one[3:])
            except re.error as error:
                raise UserError(f'quantization_config: {key} has "{one}" ({error})', "copy the model again") from None
    return found


def _refuse(raw: Mapping[str, Any]) -> None:
    """What changes the numbers and is written beside the groups."""
    for key, harmless in (("transform_config", ("", None)), ("sparsity_config", ("dense", None))):
        words = _mapping(raw, key)
        if words.get("config_groups") or words.get("format") not in harmless:
            raise UserError(f"the model has a {key}", "danlu reads weights that are rounded and nothing else")


def _leave_activations(name: str, words: Mapping[str, Any] | None) -> None:
    """Activations that are rounded as they come need nothing from the file: the weights are the same without."""
    if not words:
        return
    if words.get("dynamic") is not True:
        raise UserError(f"quantization_config.{name} has scales for activations too", "danlu reads those of weights")
    log.warning("activations are computed in floats, not in %s bits as the file asks for", words.get("num_bits"))


def _names(config: ModelConfig, module: str) -> list[str]:
    """The checkpoint's names of a module of danlu's."""
    return [part.removesuffix(".weight") for part in hf_parts(config, f"{module}.weight")[0]]


def _find(parts: list[str], module: str, targets: Mapping[str, Scheme], ignored: list[str]) -> list[Scheme | None]:
    kind = "Embedding" if module == "embedding" else "Linear"

    def matches(target: str, part: str) -> bool:
        return bool(re.match(target[3:], part)) if target.startswith("re:") else target in (part, kind)

    def one(part: str) -> Scheme | None:
        if any(matches(name, part) for name in ignored):
            return None
        for narrow in (part, *(t for t in targets if t.startswith("re:") and matches(t, part)), kind):
            if narrow in targets:
                return targets[narrow]
        return None

    return [one(part) for part in parts]
