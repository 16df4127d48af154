"""Write a run's reports again from what is on disk."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from robusweep.compare import against_reference
from robusweep.errors import MissingError
from robusweep.front import Objective, with_stand_ins
from robusweep.recipe import Suite
from robusweep.record import read_trials
from robusweep.report import write_reports
from robusweep.sweep.status import read_points


def rebuild_reports(run_dir: Path) -> list[Path]:
    """Reports and figures from a run's records. Raises ``MissingError`` when the run lacks its description."""
    described = run_dir / "sweep.json"
    try:
        identity = json.loads(described.read_bytes())
    except (FileNotFoundError, ValueError):
        raise MissingError(
            f"{described} is missing or damaged, so the run's objectives are not known", hint="run the recipe again"
        ) from None
    records = read_trials(run_dir)
    stand_ins = [s for record in records for s in record.stand_ins]
    notices = dict.fromkeys(s.notice() for s in stand_ins)
    points = read_points(run_dir)
    recipe_yaml = (run_dir / "recipe.resolved.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(recipe_yaml)["search"].get("reference")  # the sweep's identity leaves it out
    return write_reports(
        run_dir,
        name=run_dir.name,
        points=points,
        records=records,
        objectives=with_stand_ins([Objective.model_validate(o) for o in identity["objectives"]], stand_ins),
        recipe_yaml=recipe_yaml,
        notices=list(notices),
        protocol=Suite.model_validate(identity["attacks"]).constraints.model_dump(mode="json"),
        against=against_reference(run_dir, points, values) if values else None,
    )
