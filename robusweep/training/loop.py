"""The training loop: batches, gradient, clip, step. Small and device-neutral."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from robusweep.errors import StageError
from robusweep.seeds import derive, generator
from robusweep.training.base import Extra, Lent, Setting, TrainingMethod
from robusweep.training.batches import grouped_batches
from robusweep.training.checkpoint import Checkpoint
from robusweep.training.measured import accuracy, batch_of, entropy_range, evaluating
from robusweep.training.places import encoder_of
from robusweep.training.precision import fp32_attention, frozen_in_bf16
from robusweep.training.step import Costs, Step
from robusweep.training.updates import Rule


@dataclass(frozen=True)
class Fitted:
    """What a training run was, and what it cost.

    ``final_loss`` is the mean over the last epoch. ``seconds`` are wall-clock, of every attempt where a run was cut.
    ``n_tokens``: tokens that forward passes computed, padding included. ``peak_memory_bytes``: the most that tensors
    took on an accelerator; on a CPU the process's peak. ``validation_accuracy`` by epoch, where it was asked for.
    ``kept_epoch``: the epoch whose weights were kept, counted from 1. ``readings``: what the method itself reports.
    ``entropy_range``: (lowest, highest) entropy in nats of what it finally predicts for texts of its last epoch.
    """

    final_loss: float
    n_steps: int
    seconds: float
    token_efficiency: float
    n_forward: int
    n_backward: int
    n_tokens: int
    peak_memory_bytes: int
    validation_accuracy: list[float]
    kept_epoch: int
    readings: dict[str, float]
    entropy_range: tuple[float, float]


@dataclass
class _Run:
    """Where a run stands: all that a checkpoint holds beside tensors."""

    epoch: int = 0
    n_in_epoch: int = 0
    n_steps: int = 0
    loss_sum: float = 0.0
    n_real: int = 0
    n_padded: int = 0
    seconds: float = 0.0
    final_loss: float = 0.0
    costs: Costs = field(default_factory=Costs)
    accuracies: list[float] = field(default_factory=list)
    extras: list[Extra] = field(default_factory=list)


def fit(
    network: nn.Module,
    method: TrainingMethod,
    tokens: Sequence[Sequence[int]],
    labels: Sequence[int],
    *,
    pad_id: int,
    seed: int,
    bf16: bool,
    texts: Sequence[str] | None = None,
    lent: Lent | None = None,
    validation: tuple[Sequence[Sequence[int]], Sequence[int]] | None = None,
    checkpoint: Checkpoint | None = None,
    until: int | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
    on_step: Callable[[float], None] | None = None,
) -> Fitted:
    """Train the network's trainable parameters in place. ``tokens`` are ids per text, unpadded.

    Batches, dropout and perturbations each depend on ``seed`` and their own name alone, so that two methods which
    start alike see the same batches and masks. The mode that the network was in is restored. With ``checkpoint``, a
    run that was cut goes on where it was saved, and ends as if it had not been. ``until``: halt after so many epochs,
    with the weights as they are then (the best ones, with patience); ``checkpoint`` is left with what goes on from
    there. ``validation``: (tokens, labels) for patience. ``on_step`` gets the share of the whole run that is done.
    Raises ``StageError`` when the loss or its gradient stops being finite, or patience has nothing to look at.
    """
    if method.patience is not None and validation is None:
        raise StageError("train: patience needs validation texts")
    setting = Setting(network, tokens, labels, derive(seed, "method"), texts, lent)
    bf16 = bf16 and not method.needs_float32
    device = next(network.parameters()).device
    with _seeded(derive(seed, "companions"), device):
        trainer = _Trainer(setting, method, pad_id=pad_id, seed=seed, bf16=bf16, validation=validation)
    with _training(network), _seeded(derive(seed, "dropout"), device), trainer.precision():
        trainer.run(checkpoint, until=until, on_epoch=on_epoch, on_step=on_step)
    return trainer.fitted()


class _Trainer:
    """One run: the weights that learn, what moves them, and where it stands."""

    def __init__(
        self,
        setting: Setting,
        method: TrainingMethod,
        *,
        pad_id: int,
        seed: int,
        bf16: bool,
        validation: tuple[Sequence[Sequence[int]], Sequence[int]] | None,
    ) -> None:
        self.setting, self.method, self.pad_id, self.seed, self.bf16 = setting, method, pad_id, seed, bf16
        self.validation, self.network = validation, setting.network
        self.device = next(self.network.parameters()).device
        self.weights = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        companions = {"method": method.companion(setting)}
        for regulariser in method.regularisers:
            companions[regulariser.kind] = _companion_of(regulariser, setting)
        self.companions = {name: module.to(self.device) for name, module in companions.items() if module is not None}
        self.optimiser = torch.optim.AdamW(
            [{"params": list(group)} for group in self._groups() if group],
            lr=method.learning_rate,
            weight_decay=method.weight_decay,
            fused=True,  # one pass over the weights: a sixth of the time on a CPU
        )
        n_texts = len(setting.tokens) * (1 + method.more_texts)  # at most
        n_steps = method.n_epochs * math.ceil(n_texts / method.batch_size)
        self.rule: Rule | None = None
        if method.update:
            self.rule = method.update.begin(self.weights, n_steps=n_steps, seed=derive(seed, "update"))
        self.draws = torch.Generator().manual_seed(derive(seed, "perturbations"))
        self.at = _Run()
        self.best: dict[str, Tensor] = {}
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def _groups(self) -> list[list[nn.Parameter]]:
        """What is clipped together: the network's weights, and each companion's."""
        return [list(self.weights.values()), *(list(module.parameters()) for module in self.companions.values())]

    @contextmanager
    def precision(self) -> Iterator[None]:
        with fp32_attention(self.network, when=self.bf16), frozen_in_bf16(self.network, when=self.bf16):
            yield

    # ------------------------------------------------------------------------------------------ the run
    def run(
        self,
        checkpoint: Checkpoint | None,
        *,
        until: int | None,
        on_epoch: Callable[[int, float], None] | None,
        on_step: Callable[[float], None] | None,
    ) -> None:
        if checkpoint and (saved := checkpoint.read()):
            self._restore(*saved)
        began = time.perf_counter() - self.at.seconds
        last = self.method.n_epochs if until is None else min(until, self.method.n_epochs)
        while self.at.epoch < last and not self._stale():
            if self.at.n_in_epoch == 0:
                self._begin_epoch()
            texts, rng = self._rows(), generator(self.seed, "batches", self.at.epoch)
            batches = grouped_batches([len(t.ids) for t in texts], batch_size=self.method.batch_size, rng=rng)
            for batch in batches[self.at.n_in_epoch :]:
                self.at.n_in_epoch += 1
                progress = (self.at.epoch + self.at.n_in_epoch / len(batches)) / self.method.n_epochs
                self._rate(progress - 0.5 / len(batches) / self.method.n_epochs)
                self._step([texts[i] for i in batch], progress=progress)
                self.at.seconds = time.perf_counter() - began
                if on_step:
                    on_step(progress)
                if checkpoint and checkpoint.is_due():
                    checkpoint.write(*self._state())
            self._end_epoch(len(texts))
            if on_epoch:
                on_epoch(self.at.epoch - 1, self.at.final_loss)
        if checkpoint and until is not None:
            checkpoint.write(*self._state())  # before the best weights are put in the place of those that go on
        if self.best:
            with torch.no_grad():
                for name, value in self.best.items():
                    self.weights[name].copy_(value)

    def _begin_epoch(self) -> None:
        self.at.loss_sum = 0.0
        with evaluating(self.network), _seeded(derive(self.seed, "extras", self.at.epoch), self.device):
            extras = self.method.extras(self.setting, self.at.epoch)
        if extras is not None:
            self.at.extras = extras

    def _rows(self) -> list[Extra]:
        """The texts of this epoch: the given ones, unless the method leaves them out, then the method's own."""
        if self.method.leaves_out_given:
            if not self.at.extras:
                raise StageError(
                    f"train {self.method.kind}: only_changed leaves nothing to train on: no changed text was found",
                    hint="raise n_queries or share, or take another attack",
                )
            return self.at.extras
        given = zip(self.setting.tokens, self.setting.labels, strict=True)
        return [*(Extra(list(ids), label) for ids, label in given), *self.at.extras]

    def _step(self, rows: Sequence[Extra], *, progress: float) -> None:
        """One update from one batch, computed in ``accumulate`` parts."""
        size = math.ceil(len(rows) / self.method.accumulate)
        loss = 0.0
        for begin in range(0, len(rows), size):
            part = rows[begin : begin + size]
            ids, mask = batch_of([row.ids for row in part], pad_id=self.pad_id, device=self.device)
            share = len(part) / len(rows)
            step = Step(
                self.network,
                ids,
                mask,
                torch.tensor([row.label for row in part], device=self.device),
                draws=self.draws,
                bf16=self.bf16,
                progress=progress,
                weights=_weights([row.weight for row in part], self.device),
                part=share,
                companion=self.companions.get("method"),
                regularisers=[(r, self.companions.get(r.kind)) for r in self.method.regularisers],
                costs=self.at.costs,
            )
            if self.rule:
                self.rule.prepare(step)
            loss += share * self.method.backward(step)
            self.at.n_real += int(mask.sum())
            self.at.n_padded += mask.numel()
        self._move(loss)
        self.at.loss_sum += loss * len(rows)

    def _rate(self, progress: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = self.method.learning_rate * rate_at(progress, self.method.warmup)

    def _move(self, loss: float) -> None:
        limit = self.method.max_grad_norm
        norms = [nn.utils.clip_grad_norm_(group, limit or math.inf) for group in self._groups()]
        if not all(map(math.isfinite, [loss, *map(float, norms)])):
            raise StageError(
                f"train {self.method.kind}: loss {loss}, gradient norm {float(norms[0])} in epoch {self.at.epoch + 1}",
                hint="lower the learning rate or the radius",
            )
        if self.rule:
            self.rule.move(self.optimiser)
        else:
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.at.n_steps += 1

    def _end_epoch(self, n_texts: int) -> None:
        self.at.final_loss = self.at.loss_sum / n_texts
        self.at.epoch += 1
        self.at.n_in_epoch = 0
        if self.method.patience is None or self.validation is None:
            return
        self.at.accuracies.append(accuracy(self.network, *self.validation, pad_id=self.pad_id, bf16=self.bf16))
        if self.at.accuracies[-1] > max(self.at.accuracies[:-1], default=-1.0):
            self.best = {name: p.detach().clone() for name, p in self.weights.items()}

    def _stale(self) -> bool:
        """Whether as many epochs as ``patience`` have passed since the best one."""
        seen = self.at.accuracies
        return bool(seen) and len(seen) - self._best_epoch() >= (self.method.patience or math.inf)

    def _best_epoch(self) -> int:
        seen = self.at.accuracies
        return seen.index(max(seen)) + 1 if seen else self.at.epoch

    # --------------------------------------------------------------------------------- saved and restored
    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors, the rest as JSON) that ``_restore`` goes on from."""
        tensors = {f"weights/{name}": p.detach() for name, p in self.weights.items()}
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        for owner, module in self.companions.items():
            tensors |= {f"companion/{owner}/{name}": value for name, value in module.state_dict().items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{i}/{name}": value for name, value in state.items()}
        if self.rule:
            tensors |= {f"rule/{name}": value for name, value in self.rule.state().items()}
        tensors |= {"draws": self.draws.get_state(), "dropout": torch.get_rng_state()}
        if self.device.type == "cuda":
            tensors["dropout.cuda"] = torch.cuda.get_rng_state(self.device)
        at = vars(self.at) | {"costs": vars(self.at.costs), "extras": [vars(extra) for extra in self.at.extras]}
        return tensors, at

    def _restore(self, tensors: dict[str, Tensor], at: dict[str, Any]) -> None:
        def below(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}

        with torch.no_grad():
            for name, value in below("weights/").items():
                self.weights[name].copy_(value)
        self.best = {name: value.to(self.device) for name, value in below("best/").items()}
        for owner, module in self.companions.items():
            module.load_state_dict(below(f"companion/{owner}/"))
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in below("optimiser/").items():
            i, _, key = name.partition("/")
            states.setdefault(int(i), {})[key] = value
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": states})
        if self.rule:
            self.rule.restore({name: value.to(self.device) for name, value in below("rule/").items()})
        self.draws.set_state(tensors["draws"])
        torch.set_rng_state(tensors["dropout"])
        if "dropout.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["dropout.cuda"], self.device)
        extras = [Extra(**extra) for extra in at["extras"]]
        self.at = _Run(**at | {"costs": Costs(**at["costs"]), "extras": extras})

    # ----------------------------------------------------------------------------------------- the result
    def fitted(self) -> Fitted:
        at = self.at
        companion: Any = self.companions.get("method")
        readings = companion.readings() if hasattr(companion, "readings") else {}
        return Fitted(
            final_loss=at.final_loss,
            n_steps=at.n_steps,
            seconds=at.seconds,
            token_efficiency=at.n_real / max(1, at.n_padded),
            **vars(at.costs),
            peak_memory_bytes=_peak_memory(self.device),
            validation_accuracy=at.accuracies,
            kept_epoch=self._best_epoch(),
            readings=readings,
            entropy_range=entropy_range(self.network, [row.ids for row in self._rows()], pad_id=self.pad_id),
        )


def _companion_of(regulariser: Any, setting: Setting) -> nn.Module | None:
    config = encoder_of(setting.network).config
    seed = derive(setting.seed, regulariser.kind)
    made: nn.Module | None = regulariser.companion(
        hidden_size=config.hidden_size, n_classes=config.num_labels, seed=seed
    )
    return made


def rate_at(progress: float, warmup: float) -> float:
    """The factor on the peak learning rate: linear from 0 over the warm-up, then linear to 0.

    ``progress`` is the share of the run that is done in the middle of the step.
    """
    return min(progress / warmup if warmup else 1.0, (1 - progress) / (1 - warmup))


def _weights(weights: Sequence[float], device: torch.device) -> Tensor | None:
    return None if all(weight == 1.0 for weight in weights) else torch.tensor(weights, device=device)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024


@contextmanager
def _training(network: nn.Module) -> Iterator[None]:
    was = network.training
    network.train()
    try:
        yield
    finally:
        network.train(was)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from a state of its own; the global generators are put back afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
