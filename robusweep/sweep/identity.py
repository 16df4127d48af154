"""What makes a run's folder the sweep of a recipe, what differs in a changed recipe, and what both have in common."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from robusweep import model as model_stage
from robusweep.errors import MissingError, UsageError
from robusweep.examples import Dataset
from robusweep.recipe import Recipe, SweepPlan
from robusweep.record import write_json

READ_BY_ALL_TRAINING = ("data", "model", "seed", "adapter", "ticket", "precision")


def identity_of(plan: SweepPlan, recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """What decides a sweep's numbers: the recipe as written, and what its names came to here (``used``)."""
    attacks = [attack.kind for attack in [*recipe.attacks.known, *recipe.attacks.held_out]]
    used = {
        "data": dataset.name,
        "data_digest": dataset.digest()[:16],
        "model": model_stage.identity(recipe.model)[:64],
        "attacks": ", ".join(attacks),
    }
    found: dict[str, Any] = json.loads(json.dumps(plan.identity() | {"used": used}))
    return found


def check_same(run_dir: Path, identity: dict[str, Any]) -> None:
    """Refuse to mix two sweeps in one folder: what decides the numbers must be what it was."""
    path = run_dir / "sweep.json"
    if not path.is_file():
        write_json(path, identity)
        return
    before = read_json(path)
    if before is None:
        raise MissingError(
            f"{path} is damaged, so it can't be told whether this is the recipe that the sweep was begun with",
            hint=f"if it is, remove {path} and give the same command again: the sweep goes on",
        )
    differences = _differences(before, identity)
    if differences:
        raise UsageError(
            f"{run_dir} holds a sweep of another recipe:\n    " + "\n    ".join(differences),
            hint=f"start a run of its own with --fork {run_dir.name}_2 (what both have in common comes from the "
            "cache), or undo the change",
        )


def forked(origin: Path, run_dir: Path, identity: dict[str, Any]) -> str:
    """What a run of the changed recipe shares with the one that it was changed from, in words.

    Raises ``UsageError`` when there is no such run, or when nothing differs.
    """
    before = read_json(origin / "sweep.json")
    if before is None or origin == run_dir:
        raise UsageError(
            f"--fork: there is no run {origin.name!r} below {origin.parent} to start {run_dir.name!r} from",
            hint="--name is the run that the recipe was changed from; leave --fork out to begin from nothing",
        )
    differences = _differences(before, identity)
    if not differences:
        raise UsageError(
            f"--fork: nothing differs from the recipe of {origin}",
            hint="the same command without --fork goes on with it",
        )
    n_trials = len(list(origin.glob("trials/*/record.json")))
    views = _trained_alike(before, identity)
    shared = f"adapters of {' and '.join(views)}, where the search asks for the same values" if views else "nothing"
    return f"forked from {origin.name} ({n_trials} trials): {'; '.join(differences)}. Sure to be in the cache: {shared}"


def _trained_alike(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The views that are trained on the same texts by the same method; adversarial ones may also read the attacks."""

    def same(*keys: str) -> bool:
        return all(before.get(key) == now[key] for key in keys)

    used = before.get("used", {})
    if not same(*READ_BY_ALL_TRAINING) or any(used.get(key) != now["used"][key] for key in ("data_digest", "model")):
        return []
    clean = ["clean"] if same("train") else []
    if not same("train", "attacks"):
        return clean
    pairs = enumerate(zip(before.get("adversarial", []), now["adversarial"], strict=False))
    return clean + [f"adversarial.{i}" for i, (old, new) in pairs if old == new]


def read_json(path: Path) -> Any:
    """What a file holds; None when it is not there, or is no JSON (cut off by a full disk or a power cut)."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _differences(old: Any, new: Any, key: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = dict.fromkeys([*old, *new])
        inner = [_differences(old.get(n), new.get(n), f"{key}.{n}" if key else str(n)) for n in names]
        return [line for lines in inner for line in lines]
    return [] if old == new else [f"{key}: {json.dumps(old)} -> {json.dumps(new)}"]
