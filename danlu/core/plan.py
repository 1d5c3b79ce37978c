"""The plan: what a recipe would do, decided before anything runs.

Ids depend only on configs and parents, so the whole graph can be named without building any of it; a stage is
out of date exactly when its id is not in the store. The reason shown is found by comparing with the newest
artifact of the same name.

| action | when |
|---|---|
| cached | the id is in the store |
| resume | it is not, but an earlier try left scratch to go on from |
| build  | otherwise |
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from danlu.core.artifact import Artifact, Manifest, artifact_id
from danlu.core.errors import UserError
from danlu.core.recipe import Node, Recipe
from danlu.core.stage import Estimate
from danlu.core.store import Store

Action = Literal["cached", "resume", "build"]


@dataclass(frozen=True)
class Step:
    """One stage of a plan. `parents` maps roles to ids; `external` holds inputs that come from outside the recipe."""

    node: Node
    id: str
    config: dict[str, Any]
    parents: dict[str, str]
    external: dict[str, Artifact]
    action: Action
    reason: str
    estimate: Estimate


def plan(recipe: Recipe, store: Store, only: Iterable[str] | None = None) -> list[Step]:
    """Every stage the recipe (or the stages `only` and what they need) takes, in running order.

    Raises UserError when an input from outside the recipe is not there, of the wrong kind or refused by its stage.
    """
    names = recipe.needed_for(only) if only else list(recipe.nodes)
    steps: dict[str, Step] = {}
    newest = {name: ids[""] for name, ids in store.names().items()}
    for name in names:
        steps[name] = _step(recipe, recipe.nodes[name], steps, store, newest)
    return list(steps.values())


def _step(recipe: Recipe, node: Node, done: dict[str, Step], store: Store, newest: dict[str, str]) -> Step:
    external, parents = {}, {}
    for role, spec in node.inputs.items():
        if spec.startswith("$"):
            parents[role] = done[spec[1:]].id
        else:
            external[role] = store.resolve(spec, node.stage.takes[role.partition(".")[0]])
            parents[role] = external[role].id
    config = canonical_config(node)
    new_id = artifact_id(node.stage.makes, node.stage.name, node.stage.version, config, parents)
    manifests: dict[str, Manifest | None] = {
        role: _manifest(store, i, external.get(role)) for role, i in parents.items()
    }
    action, reason = _decide(recipe, node, new_id, config, parents, store, newest)
    if node.stage.check is not None and action != "cached":
        node.stage.check(node.config, external)
    estimate = node.stage.estimate(node.config, manifests) if node.stage.estimate and action != "cached" else Estimate()
    return Step(node, new_id, config, parents, external, action, reason, estimate)


def canonical_config(node: Node) -> dict[str, Any]:
    """The config as it enters the id: every value spelled out, plus the fingerprint of what is read from outside."""
    config = node.config.model_dump(mode="json")
    if node.stage.fingerprint is not None:
        config["fingerprint"] = node.stage.fingerprint(node.config)
    return config


def _manifest(store: Store, artifact_id: str, external: Artifact | None) -> Manifest | None:
    if external is not None:
        return external.manifest
    return store.manifest(artifact_id)


def _decide(
    recipe: Recipe,
    node: Node,
    new_id: str,
    config: dict[str, Any],
    parents: dict[str, str],
    store: Store,
    newest: dict[str, str],
) -> tuple[Action, str]:
    if store.manifest(new_id) is not None:
        return "cached", ""
    work = store.work(new_id)
    if work.is_dir() and any(work.iterdir()):
        return "resume", "an earlier run of it was interrupted"
    previous_id = newest.get(f"{recipe.name}.{node.name}")
    previous = store.manifest(previous_id) if previous_id else None
    if previous is None:
        return "build", "not built yet"
    return "build", _difference(previous, node, config, parents)


def _difference(old: Manifest, node: Node, config: dict[str, Any], parents: dict[str, str]) -> str:
    """What changed since the newest artifact of this name, in a few words."""
    if old.stage != node.stage.name:
        return f"now made by {node.stage.name}"
    if old.stage_version != node.stage.version:
        return f"{node.stage.name} has changed (version {old.stage_version} -> {node.stage.version})"
    for key in sorted(set(config) | set(old.config)):
        if config.get(key) != old.config.get(key):
            if key == "fingerprint":
                return "the source has changed"
            return f"{key}: {_short(old.config.get(key))} -> {_short(config.get(key))}"
    for role, parent in parents.items():
        if old.parents.get(role) != parent:
            return f"{role} has changed"
    return "not built yet"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:21] + "..."


def disk_needed(steps: Iterable[Step]) -> float:
    """Bytes that the steps expect to write."""
    return sum(step.estimate.disk_bytes or 0 for step in steps if step.action != "cached")


def check_disk(steps: list[Step], free_bytes: float) -> None:
    """Refuse a plan that cannot fit. Raises UserError."""
    from danlu.core.progress import human_bytes

    needed = disk_needed(steps)
    if needed > free_bytes:
        raise UserError(
            f"this plan writes about {human_bytes(needed)}, and the disk has {human_bytes(free_bytes)} free",
            "free some space or choose another --store",
        )
