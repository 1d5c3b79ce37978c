"""Recipes: a graph of stages in one YAML file.

    name: quickstart
    budget: 5m                       # stages may take shares of it: `budget: 70%`
    extends: other.yaml              # optional: a file beside this one, or a bundled recipe
    stages:
      corpus:
        use: data.prepare            # a registered stage
        source: python:stdlib        # every other key is the stage's config ...
      tokens:
        use: tokenizer.pack
        corpus: $corpus              # ... or one of its inputs: $NAME is what another stage makes,
        tokenizer: my-tokenizer      # anything else is looked up in the store (id, name, path)
      blend:
        use: data.mix
        corpora: [$corpus, books]    # a role of several inputs: a list, or a mapping {web: $corpus, books: books}
    serve: [int8]                    # what `danlu run` serves at the end

A recipe that works on something of the user's declares it: `inputs: {model: , corpus: calibration-text}`. A stage then
says `model: $model`, and `--set model=NAME` gives it (an id, a name or a path) or replaces what stands there. One that
is a list is laid into the lists it stands in (`students: []` and `candidates: [$int8, $students]`).

A stage with `may_fail: true` that fails is left out of the lists it is in (`corpora: [$it, books]`), and the run goes
on.

Reading a recipe checks all of it before anything runs: unknown keys, wrong types, missing inputs, inputs of the
wrong kind, cycles. Each mistake is one sentence with file and line; for that, the YAML is read through its node
tree, which knows the line of every key, and the lines follow the values through `extends` and `--set`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from danlu.core.budget import Budget
from danlu.core.errors import StageFailed, UserError, suggest
from danlu.core.stage import Stage, StageConfig, get_stage
from danlu.core.store import NAME

TOP_KEYS = ("name", "description", "extends", "inputs", "budget", "stages", "serve")
STAGE_KEYS = ("use", "may_fail")  # of every stage, beside its config and inputs
Where = dict[tuple[str, ...], str]  # path of a value in the recipe -> "quickstart.yaml:12"


@dataclass(frozen=True)
class Node:
    """One stage of a recipe. `inputs` maps a role to "$name" (another node) or to something in the store.

    A role that takes several has one entry for each, under "role.name".
    """

    name: str
    stage: Stage
    config: StageConfig
    inputs: dict[str, str]
    takes_share: bool = False  # of the recipe's budget
    may_fail: bool = False

    @property
    def depends_on(self) -> list[str]:
        return [spec[1:] for spec in self.inputs.values() if spec.startswith("$")]


@dataclass(frozen=True)
class Recipe:
    """A checked recipe: nodes in an order in which they can run."""

    name: str
    description: str
    budget: Budget | None
    nodes: dict[str, Node]
    serve: list[str]

    def needed_for(self, targets: Iterable[str]) -> list[str]:
        """The nodes that the targets need, themselves included, in running order."""
        needed: set[str] = set()
        stack = list(targets)
        while stack:
            name = stack.pop()
            if name not in self.nodes:
                raise UserError(f'the recipe "{self.name}" has no stage "{name}"', suggest(name, self.nodes))
            if name not in needed:
                needed.add(name)
                stack += self.nodes[name].depends_on
        return [name for name in self.nodes if name in needed]

    def without(self, lost: str, reason: str) -> Recipe:
        """What is left when the stage `lost` failed: lists are shorter, and who needs it and may fail goes too.

        Raises StageFailed when a stage needs it that may not fail.
        """
        gone, left = {lost}, {}
        for name, node in self.nodes.items():
            inputs = {role: spec for role, spec in node.inputs.items() if spec not in {f"${one}" for one in gone}}
            if name in gone:
                continue
            if _roles(inputs) == _roles(node.inputs):
                left[name] = replace(node, inputs=inputs)
            elif node.may_fail:
                gone.add(name)
            else:
                raise StageFailed(f'stage "{name}" cannot do without "{lost}"', reason)
        return replace(self, nodes=left)


def _roles(inputs: Iterable[str]) -> set[str]:
    """The roles that have an input; those of one role are "role.name"."""
    return {role.partition(".")[0] for role in inputs}


def bundled_recipes() -> dict[str, Path]:
    """The recipes that ship with danlu, by name."""
    folder = resources.files("danlu") / "recipes"
    return {Path(str(p)).stem: Path(str(p)) for p in sorted(folder.iterdir(), key=str) if p.name.endswith(".yaml")}


def find_recipe(spec: str | Path) -> Path:
    """A recipe file by path, or a bundled one by name. Raises UserError with the nearest name."""
    path = Path(spec)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise UserError(f"there is no recipe file {path}", "danlu recipes lists the bundled ones")
    bundled = bundled_recipes()
    if str(spec) not in bundled:
        raise UserError(f'there is no recipe "{spec}"', suggest(str(spec), bundled) + " A file must end in .yaml")
    return bundled[str(spec)]


def inputs_of(spec: str | Path) -> list[str]:
    """The names of what a recipe must be given."""
    inputs = _read_with_bases(find_recipe(spec), seen=())[0].get("inputs") or {}
    return [name for name, given in inputs.items() if given in (None, "")]


def load_recipe(
    spec: str | Path,
    overrides: Mapping[str, Any] | None = None,
    budget: str | None = None,
    size: str | None = None,
) -> Recipe:
    """Read, merge and check a recipe.

    `overrides` maps "stage.key" (or "stage.key.key", or a top-level key) to a value or YAML text. `budget` is the
    dial of the whole recipe, `size` the model preset of every stage that has a `model` config. Raises UserError.
    """
    raw, where = _read_with_bases(find_recipe(spec), seen=())
    for key, value in (overrides or {}).items():
        _override(raw, where, key, value)
    if budget is not None:
        raw["budget"], where[("budget",)] = budget, "--budget"
    if size is not None:
        _set_size(raw, where, size)
    recipe = build_recipe(raw, where)
    if budget is not None and not any(node.takes_share for node in recipe.nodes.values()):
        raise UserError(
            f'--budget: no stage of "{recipe.name}" takes a share of it', "set one stage's: --set STAGE.budget=BUDGET"
        )
    return recipe


def build_recipe(raw: dict[str, Any], where: Where) -> Recipe:
    """Check a raw recipe and order its stages."""
    for key in raw:
        if key not in TOP_KEYS:
            raise UserError(f'{_at(where, str(key))}unknown key "{key}"', suggest(str(key), TOP_KEYS))
    stages = raw.get("stages")
    if not isinstance(stages, dict) or not stages:
        raise UserError(f"{_at(where)}a recipe needs stages", 'write "stages:" and below it one mapping for each stage')
    stages = _with_inputs(raw, stages, where)
    name = _read_name(raw.get("name", "recipe"), _at(where, "name"))
    whole = _read_budget(raw, where)
    nodes = {}
    for key, body in stages.items():
        label = _read_name(key, _at(where, "stages", str(key)))
        nodes[label] = _read_node(label, body, where, whole)
    for node in nodes.values():
        _check_inputs(node, nodes, where)
    serve = raw.get("serve") or []
    served = [str(one).removeprefix("$") for one in (serve if isinstance(serve, list) else [serve])]
    for one in served:
        if one not in nodes:
            raise UserError(f'{_at(where, "serve")}serve: there is no stage "{one}"', suggest(one, nodes))
        if nodes[one].stage.makes != "model":
            raise UserError(f'{_at(where, "serve")}serve: "{one}" is a {nodes[one].stage.makes}, and a model is needed')
        if nodes[one].may_fail:
            raise UserError(f'{_at(where, "serve")}serve: "{one}" may fail, and what is served must be there')
    ordered = {name: nodes[name] for name in _order(nodes, where)}
    return Recipe(name, str(raw.get("description", "")), whole, ordered, served)


def _with_inputs(raw: Mapping[str, Any], stages: Mapping[str, Any], where: Where) -> dict[str, Any]:
    """The stages with `$NAME` replaced by what the user gave for the input NAME. UserError for one that is missing."""
    inputs = raw.get("inputs") or {}
    if not isinstance(inputs, dict):
        raise UserError(f"{_at(where, 'inputs')}inputs is a mapping", 'write "inputs:" and below it "model:"')
    clash = sorted(set(inputs) & set(stages))
    if clash:
        raise UserError(f'{_at(where, "inputs", clash[0])}"{clash[0]}" is an input and a stage', "rename one of them")

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: fill(inner) for key, inner in value.items()}
        if isinstance(value, list):
            filled = [(inner, fill(inner)) for inner in value]
            return [one for inner, own in filled for one in (own if inner != own and isinstance(own, list) else [own])]
        if not (isinstance(value, str) and value.startswith("$") and value[1:] in inputs):
            return value
        given = inputs[value[1:]]
        if given in (None, ""):
            at = _at(where, "inputs", value[1:])
            raise UserError(
                f'{at}the recipe needs to know its "{value[1:]}"', f"--set {value[1:]}=NAME, an id or a path"
            )
        return [str(one) for one in given] if isinstance(given, list) else str(given)

    return {name: fill(body) for name, body in stages.items()}


# ---- reading -------------------------------------------------------------------------------------------------


def _read_with_bases(path: Path, seen: tuple[Path, ...]) -> tuple[dict[str, Any], Where]:
    """A file merged over what it extends, with the origin of every value."""
    path = path.resolve()
    if path in seen:
        raise UserError(f"{path.name}: extends goes in a circle", " -> ".join(p.name for p in (*seen, path)))
    raw, where = _read_yaml(path)
    base = raw.pop("extends", None)
    if base is None:
        return raw, where
    beside = path.parent / str(base)
    try:
        base_path = beside if beside.is_file() else find_recipe(str(base))
    except UserError as error:
        raise UserError(f"{_at(where, 'extends')}extends: {error.message}", error.hint) from None
    base_raw, base_where = _read_with_bases(base_path, (*seen, path))
    return _merge(base_raw, raw), {**base_where, **where}


def _read_yaml(path: Path) -> tuple[dict[str, Any], Where]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error})") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        raw = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise UserError(
            f"{path.name}:{line}: this is not YAML ({error.problem})", "check indentation and colons"
        ) from None
    except yaml.YAMLError as error:
        raise UserError(f"{path.name}: this is not YAML ({error})") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path.name}: a recipe is a mapping", 'begin with "name:" and "stages:"')
    where: Where = {(): path.name}
    _note_lines(node, (), path.name, where)
    return raw, where


def _note_lines(node: yaml.Node | None, path: tuple[str, ...], file: str, where: Where) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        inner = (*path, str(key.value))
        if inner in where:
            raise UserError(
                f'{file}:{key.start_mark.line + 1}: "{key.value}" is there twice', f"first at {where[inner]}"
            )
        where[inner] = f"{file}:{key.start_mark.line + 1}"
        _note_lines(value, inner, file, where)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, mappings merged key by key; a value of null removes the key."""
    merged = copy.deepcopy(base)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _override(raw: dict[str, Any], where: Where, key: str, value: Any) -> None:
    """Apply one `--set stage.key=value`."""
    parts = tuple(key.split("."))
    if isinstance(value, str) and not value.startswith("$"):
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f'--set {key}: "{value}" is not a YAML value', "put quotes around it") from None
    inputs = raw.get("inputs")
    if parts[0] in ("name", "description", "budget", "serve") and len(parts) == 1:
        raw[parts[0]] = value
    elif isinstance(inputs, dict) and parts[0] in inputs and len(parts) == 1:
        inputs[parts[0]] = value
        parts = ("inputs", *parts)
    else:
        stages = raw.get("stages")
        stages = stages if isinstance(stages, dict) else {}
        if parts[0] not in stages:
            raise UserError(f'--set {key}: the recipe has no stage "{parts[0]}"', suggest(parts[0], stages))
        if len(parts) == 1:
            raise UserError(f"--set {key}: which key of the stage?", f"--set {key}.KEY=VALUE")
        parts = ("stages", *parts)
        target = raw
        for part in parts[:-1]:
            inner = target.get(part)
            if inner is not None and not isinstance(inner, dict):
                raise UserError(f'--set {key}: {part} is "{inner}", not a mapping', f"--set {parts[1]}.{part}=VALUE")
            target[part] = dict(inner or {})
            target = target[part]
        target[parts[-1]] = value
    where[parts] = f"--set {key}"


def _set_size(raw: dict[str, Any], where: Where, size: str) -> None:
    """Give every stage that describes a model (and does not take one as input) the preset `size`."""
    changed = False
    stages = raw.get("stages")
    for name, body in (stages if isinstance(stages, dict) else {}).items():
        stage = get_stage(str(body.get("use"))) if isinstance(body, dict) and body.get("use") else None
        if stage and "model" in stage.config.model_fields:
            body["model"], where[("stages", name, "model")] = size, "--size"
            changed = True
    if not changed:
        raise UserError("--size: no stage of this recipe builds a model")


# ---- checking ------------------------------------------------------------------------------------------------


def _read_name(name: Any, at: str) -> str:
    """A name that artifacts can be filed under; found here, not after the stage was built."""
    if NAME.fullmatch(str(name)):
        return str(name)
    raise UserError(f'{at}"{name}" cannot be a name', "use letters, digits, dot, dash and underscore")


def _read_budget(raw: dict[str, Any], where: Where) -> Budget | None:
    if raw.get("budget") is None:
        return None
    try:
        budget = Budget.parse(raw["budget"])
    except ValueError as error:
        raise UserError(f"{_at(where, 'budget')}{error}") from None
    if budget.kind == "share":
        raise UserError(f"{_at(where, 'budget')}the budget of a recipe cannot be a share", 'write "5m" or "100 steps"')
    return budget


def _read_node(name: str, body: Any, where: Where, whole: Budget | None) -> Node:
    at = _at(where, "stages", name)
    if not isinstance(body, dict) or "use" not in body:
        raise UserError(f'{at}stage "{name}" needs "use:"', "name a registered stage, for example use: data.prepare")
    try:
        stage = get_stage(str(body["use"]))
    except UserError as error:
        raise UserError(f"{_at(where, 'stages', name, 'use')}{error.message}", error.hint) from None
    inputs: dict[str, str] = {}
    values: dict[str, Any] = {}
    may_fail = body.get("may_fail", False)
    if not isinstance(may_fail, bool):
        raise UserError(f'{_at(where, "stages", name, "may_fail")}may_fail of stage "{name}" is true or false')
    for key, value in body.items():
        if key in STAGE_KEYS:
            continue
        if key in stage.optional and value is None:
            continue
        if key in stage.several:
            inputs |= _several_inputs(name, key, value, where)
        elif key in stage.takes:
            inputs[key] = _input(name, key, value, where)
        else:
            values[key] = value
    config = _read_config(name, stage, values, where)
    resolved = _resolve_shares(name, config, whole, where)
    return Node(name, stage, resolved, inputs, resolved is not config, may_fail)


def _input(stage: str, role: str, value: Any, where: Where) -> str:
    if isinstance(value, str) and value not in ("", "$"):
        return value
    raise UserError(
        f'{_at(where, "stages", stage, *role.split("."))}{role} of stage "{stage}" must be '
        "$STAGE, an id, a name or a path"
    )


def _several_inputs(stage: str, role: str, value: Any, where: Where) -> dict[str, str]:
    """ "role.name" -> input. In a list an input is named after itself: "$web" is "web"."""
    if isinstance(value, dict):
        named = {str(name): spec for name, spec in value.items()}
    else:
        specs = value if isinstance(value, list) else [value]
        named = {Path(str(spec).removeprefix("$")).name: spec for spec in specs}
        if len(named) < len(specs):
            raise UserError(
                f'{_at(where, "stages", stage, role)}{role} of stage "{stage}" has two inputs of one name',
                "write a mapping: {NAME: $STAGE, OTHER: $STAGE}",
            )
    for name in named:
        _read_name(name, _at(where, "stages", stage, role))
    return {f"{role}.{name}": _input(stage, f"{role}.{name}", named[name], where) for name in sorted(named)}


def _read_config(name: str, stage: Stage, values: dict[str, Any], where: Where) -> StageConfig:
    try:
        return stage.config.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = tuple(str(part) for part in first["loc"])
        at = _at(where, "stages", name, *path)
        key = ".".join(path)
        if first["type"] == "extra_forbidden":
            valid = [*stage.config.model_fields, *stage.takes, *STAGE_KEYS] if len(path) == 1 else []
            raise UserError(
                f'{at}stage "{name}" has no key "{key}"', suggest(path[-1], valid) if valid else ""
            ) from None
        if first["type"] == "missing":
            raise UserError(f'{at}stage "{name}" needs "{key}"', f"{stage.name}: {stage.summary}") from None
        message = first["msg"].removeprefix("Value error, ")
        given = "" if isinstance(first["input"], dict) else f" (given: {first['input']!r})"
        raise UserError(f'{at}stage "{name}", {key or "config"}: {message}{given}') from None


def _resolve_shares(name: str, config: StageConfig, whole: Budget | None, where: Where) -> StageConfig:
    """Replace budgets like 70% by that share of the recipe's budget; without one, of the stage's own."""
    shares = {
        k: v for k in type(config).model_fields if isinstance(v := getattr(config, k), Budget) and v.kind == "share"
    }
    if not shares:
        return config
    key = "budget" if "budget" in shares else next(iter(shares))
    own = getattr(config, "budget", None)
    if whole is None and isinstance(own, Budget) and key != "budget":
        whole = own
    if whole is None:
        raise UserError(
            f'{_at(where, "stages", name, key)}{key} of stage "{name}" is {shares[key]}, but the recipe has no budget',
            f'write "budget: 5m" at the top of the recipe, or an amount here; for a stage alone: --set {key}=5m',
        )
    return config.model_copy(update={k: v.of(whole) for k, v in shares.items()})


def _check_inputs(node: Node, nodes: dict[str, Node], where: Where) -> None:
    for role, spec in node.inputs.items():
        if not spec.startswith("$"):
            continue
        at = _at(where, "stages", node.name, *role.split("."))
        source = nodes.get(spec[1:])
        if source is None:
            raise UserError(
                f'{at}stage "{node.name}" takes {spec}, and there is no such stage', suggest(spec[1:], nodes)
            )
        kinds = node.stage.takes[role.partition(".")[0]]
        if source.stage.makes not in kinds:
            raise UserError(
                f'{at}{role} of stage "{node.name}" takes a {" or ".join(kinds)}, and {spec} is a {source.stage.makes}'
            )
    given = _roles(node.inputs)
    for role in node.stage.takes:
        if role not in given and role not in node.stage.optional:
            raise UserError(
                f'{_at(where, "stages", node.name)}stage "{node.name}" needs the input "{role}"',
                f"a {' or '.join(node.stage.takes[role])}: write {role}: $STAGE",
            )


def _order(nodes: dict[str, Node], where: Where) -> list[str]:
    """Depth-first order, dependencies first; the order of the file otherwise."""
    done: list[str] = []
    path: list[str] = []

    def visit(name: str) -> None:
        if name in done:
            return
        if name in path:
            circle = " -> ".join([*path[path.index(name) :], name])
            raise UserError(f"{_at(where, 'stages', name)}the stages need each other in a circle", circle)
        path.append(name)
        for needed in nodes[name].depends_on:
            visit(needed)
        path.pop()
        done.append(name)

    for name in nodes:
        visit(name)
    return done


def _at(where: Where, *path: str) -> str:
    """ "quickstart.yaml:12: " for a path, or for the nearest one above it that is known."""
    for end in range(len(path), -1, -1):
        if path[:end] in where:
            return f"{where[path[:end]]}: "
    return ""
