"""The Optuna study of a sweep: the one record of which trials were asked for, finished or failed.

A trial of ours trains once and yields one point for each after-training value. In Optuna's terms the first point is
the trial that was asked for, and the others are added as completed trials of their own with their full parameters, so
that the sampler learns from the whole curve.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robusweep.errors import MissingError, UsageError
from robusweep.front import Objective
from robusweep.recipe import AnySampler, Gp, Nsga2, Nsga3, Qmc, RandomSearch, SweepPlan, Tpe
from robusweep.seeds import derive
from robusweep.space import Dimension, SearchSpace

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.storages.journal._file import BaseJournalFileLock

NUMBER, POINT, IDENTITY = "robusweep.number", "robusweep.point", "robusweep.identity"
ATTEMPT, DEATHS = "robusweep.attempt", "robusweep.deaths"
MAX_DEATHS = 3  # a trial that has killed its worker this often is given up
MAX_ATTEMPTS = 10  # so is one that ran in this many drivers that were killed: most are killed for other reasons


@dataclass(frozen=True)
class Asked:
    """A trial to run: our number, its place in the study, and the searched values that training depends on."""

    number: int
    optuna_number: int
    params: dict[str, Any]


class Study:
    """Ask for trials and tell what became of them. Every change is on disk when the call returns."""

    def __init__(self, path: Path, plan: SweepPlan) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
        from optuna.study import StudyDirection

        if plan.recipe.search is None:
            raise UsageError(f"{plan.file}: the recipe has no 'search', so there is no sweep to run")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space: SearchSpace = plan.space
        self.objectives: list[Objective] = plan.recipe.search.objectives
        self.seed = plan.recipe.seed
        self._sampler = plan.recipe.search.sampler
        path.parent.mkdir(parents=True, exist_ok=True)
        self.was_torn = _repair(path)
        wanted = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
        directions = [wanted[o.goal] for o in self.objectives]
        self._study: optuna.Study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(path), lock_obj=_lock())),
            study_name=plan.sweep_digest()[:12],
            directions=directions,
            load_if_exists=True,
        )
        if self._study.directions != directions:  # Optuna itself would go on silently
            raise UsageError(f"{path}: the study's directions are not those of the recipe's objectives")

    def counts(self) -> dict[str, int]:
        """Trials (not points) by state: complete, failed, running."""
        states = {"COMPLETE": "complete", "PRUNED": "complete", "FAIL": "failed", "RUNNING": "running"}
        counted = dict.fromkeys(states.values(), 0)
        for trial in self._asked():
            counted[states[trial.state.name]] += 1
        return counted

    def n_points(self) -> int:
        """Completed trials of the study, which are our points."""
        from optuna.trial import TrialState

        return len(self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))

    def orphans(self) -> list[Asked]:
        """Trials that were running when an earlier driver ended. One that was never handed out is told as failed."""
        from optuna.trial import TrialState

        found = []
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if NUMBER in trial.user_attrs:
                found.append(self._asked_from(trial))
            else:
                self._study.tell(trial.number, state=TrialState.FAIL)
        return found

    def attempt(self, asked: Asked) -> int:
        """Which attempt at a trial was the last, from 1 on."""
        return int(self._study.get_trials(deepcopy=False)[asked.optuna_number].user_attrs.get(ATTEMPT, 1))

    def deaths(self, asked: Asked) -> int:
        """How often a worker was killed with a trial."""
        return int(self._study.get_trials(deepcopy=False)[asked.optuna_number].user_attrs.get(DEATHS, 0))

    def start_again(self, asked: Asked, attempt: int) -> None:
        """Write down that a trial starts again."""
        self._count(asked, ATTEMPT, attempt)

    def died(self, asked: Asked, deaths: int) -> None:
        """Write down how often a worker was killed with a trial."""
        self._count(asked, DEATHS, deaths)

    def _count(self, asked: Asked, what: str, n: int) -> None:
        """On the trial; one that is told already can't be written on, and is not counted."""
        trial = self._study.get_trials(deepcopy=False)[asked.optuna_number]
        if not trial.state.is_finished():
            self._study._storage.set_trial_user_attr(trial._trial_id, what, n)

    def ask(self) -> Asked:
        """A new trial. Its parameters depend on the seed, its number and the trials told so far."""
        from optuna.trial import TrialState

        number = len(self._asked())
        self._study.sampler = make_sampler(self._sampler, derive(self.seed, "sampler", number) % 2**32)
        grids = self.space.training_grids()
        fixed = dict(grids[number % len(grids)]) | {k: d.corners()[0] for k, d in self.space.after_training.items()}
        if fixed and not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):  # of a kill just here
            self._study.enqueue_trial(fixed)
        trial = self._study.ask()
        params: dict[str, Any] = {}
        for key, dimension in self.space.dimensions.items():
            if dimension.holds(params):
                params[key] = _suggest(trial, key, dimension)
        trial.set_user_attr(NUMBER, number)  # last: what a kill cuts off above has no number, and is asked for anew
        return Asked(number, trial.number, {k: v for k, v in params.items() if k in self.space.training})

    def complete(
        self,
        asked: Asked,
        points: Sequence[tuple[str, dict[str, Any], Sequence[float] | None]],
        *,
        excesses: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """Tell a finished trial: each point's id, full parameters and objective values. Twice is as good as once.

        A point without values was stopped: it is told as pruned. TPE then holds it to be none of the best; genetic
        samplers leave it out. Its partial rates, or the lower ends of their intervals, as values would lie on Optuna's
        front, and were no better for the search: hypervolumes of simulated sweeps in % of the best, told as pruned, as
        partial and as lower ends, were 103 [99, 107], 104 [101, 107] and 104 [100, 107] with TPE, 99 [98, 103],
        97 [92, 102] and 94 [90, 100] with NSGA-II (``bench/halving.py --parts told --seeds 40``; medians, quartiles).
        ``excesses``: of a point, by constraint, how far it is beyond it; at most 0 where the constraint holds.
        """
        from optuna.trial import TrialState, create_trial

        frozen = self._study.get_trials(deepcopy=False)[asked.optuna_number]
        over = (TrialState.COMPLETE, TrialState.PRUNED)
        told = {t.user_attrs.get(POINT) for t in self._study.get_trials(deepcopy=False, states=over)}
        for i, (point_id, params, values) in enumerate(points):
            if point_id in told:
                continue
            state = TrialState.PRUNED if values is None else TrialState.COMPLETE
            attrs = _constraint_attrs((excesses or {}).get(point_id, {}))
            if i == 0:
                self._study._storage.set_trial_user_attr(frozen._trial_id, POINT, point_id)
                for key, value in attrs.items():
                    self._study._storage.set_trial_system_attr(frozen._trial_id, key, value)
                self._study.tell(asked.optuna_number, values, state=state)
                continue
            added = create_trial(
                state=state,
                params=params,
                distributions={key: _distribution(self.space.dimensions[key]) for key in params},
                values=values,
                user_attrs={POINT: point_id},
                # a genetic sampler finds its generation here; without it, it would learn from the first point only
                system_attrs={k: v for k, v in frozen.system_attrs.items() if "generation" in k} | attrs,
            )
            self._study.add_trial(added)

    def fail(self, asked: Asked) -> None:
        """Tell a trial as failed: it has no values and misleads no sampler."""
        from optuna.trial import TrialState

        self._study.tell(asked.optuna_number, state=TrialState.FAIL, skip_if_finished=True)

    def finished(self) -> list[Asked]:
        """Trials that are complete, by number; their first point may have been stopped early."""
        from optuna.trial import TrialState

        return [self._asked_from(t) for t in self._asked() if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]

    def in_order(self) -> list[int]:
        """The numbers of the complete trials, in the order in which they were told."""
        from optuna.trial import TrialState

        over = (TrialState.COMPLETE, TrialState.PRUNED)
        told = [t for t in self._asked() if t.state in over and t.datetime_complete is not None]
        return [int(t.user_attrs[NUMBER]) for t in sorted(told, key=lambda t: (t.datetime_complete, t.number))]

    def _asked(self) -> list[optuna.trial.FrozenTrial]:
        return [t for t in self._study.get_trials(deepcopy=False) if NUMBER in t.user_attrs]

    def _asked_from(self, trial: optuna.trial.FrozenTrial) -> Asked:
        params = {k: v for k, v in trial.params.items() if k in self.space.training}
        return Asked(int(trial.user_attrs[NUMBER]), trial.number, params)


def _constraint_attrs(excesses: Mapping[str, float]) -> dict[str, Any]:
    """The attributes as which Optuna holds constraints; they can't be set on a trial that another process has asked."""
    from optuna.trial import TrialState, create_trial

    holder = create_trial(state=TrialState.FAIL)
    for name, excess in excesses.items():
        holder.set_constraint(name, excess)
    return dict(holder.system_attrs)


def _lock() -> BaseJournalFileLock:
    """No lock: we hold the sweep's own. A kill would leave Optuna's behind, and Ctrl-C inside it is a wrong error."""
    from optuna.storages.journal._file import BaseJournalFileLock

    class NoLock(BaseJournalFileLock):
        def acquire(self) -> bool:
            return True

        def release(self) -> None:
            return None

    return NoLock()


def _repair(path: Path) -> bool:
    """Cut a last line that a kill or a full disk has torn: Optuna would write its next line on to it. Whether it was.

    Raises ``MissingError`` when a line before the last is damaged, which no kill does.
    """
    written = path.read_bytes() if path.is_file() else b""
    lines = written.split(b"\n")
    if lines[-1]:
        with path.open("r+b") as file:
            file.truncate(len(written) - len(lines[-1]))
            os.fsync(file.fileno())
    for n, line in enumerate(lines[:-1]):
        try:
            json.loads(line)
        except ValueError:
            raise MissingError(
                f"{path} is damaged at line {n + 1} of {len(lines) - 1}",
                hint=f"keep what is before it: head -n {n} {path} > good && mv good {path}; then run the recipe again",
            ) from None
    return bool(lines[-1])


def _distribution(dimension: Dimension) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    corners = dimension.corners()
    if dimension.uniform or dimension.log_uniform:
        return FloatDistribution(corners[0], corners[1], log=dimension.log_uniform is not None)
    if dimension.integer:
        return IntDistribution(corners[0], corners[1])
    return CategoricalDistribution(corners)


def _suggest(trial: optuna.Trial, key: str, dimension: Dimension) -> Any:
    corners = dimension.corners()
    if dimension.uniform or dimension.log_uniform:
        return trial.suggest_float(key, corners[0], corners[1], log=dimension.log_uniform is not None)
    if dimension.integer:
        return trial.suggest_int(key, corners[0], corners[1])
    return trial.suggest_categorical(key, corners)


def learns_after(sampler: AnySampler) -> int | None:
    """How many points it is told before its draws depend on them; None where they never do."""
    if isinstance(sampler, Tpe | Gp):
        return sampler.n_startup_trials
    if isinstance(sampler, Nsga2 | Nsga3):
        return sampler.population_size
    return None if isinstance(sampler, RandomSearch) else 1  # QMC: which keys there are, it learns from the first trial


def make_sampler(sampler: AnySampler, seed: int) -> optuna.samplers.BaseSampler:
    """Optuna's sampler for the recipe's block. A new one for each trial: its draws then don't depend on restarts."""
    import warnings

    from optuna import samplers
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # QMC and GP are marked so
        if isinstance(sampler, Tpe):
            return samplers.TPESampler(seed=seed, n_startup_trials=sampler.n_startup_trials)
        if isinstance(sampler, Nsga2):
            return samplers.NSGAIISampler(seed=seed, population_size=sampler.population_size)
        if isinstance(sampler, Nsga3):
            return samplers.NSGAIIISampler(seed=seed, population_size=sampler.population_size)
        if isinstance(sampler, RandomSearch):
            return samplers.RandomSampler(seed=seed)
        if isinstance(sampler, Qmc):
            return samplers.QMCSampler(seed=0, scramble=True)  # the sequence is one: its place is kept in the study
        assert isinstance(sampler, Gp)
        return samplers.GPSampler(seed=seed, n_startup_trials=sampler.n_startup_trials)
