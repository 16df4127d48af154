"""One victim under attack: clean accuracy, temperature, outcomes that survive a kill, and reasons for doubt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from robusweep.attacks import flags
from robusweep.attacks.base import Attack
from robusweep.attacks.protocol import Protocol
from robusweep.attacks.run import run_attack
from robusweep.cache import Cache
from robusweep.examples import Example, TokenVictim, Victim
from robusweep.record import AttackOutcome, Flag
from robusweep.scores import Rate, clean_accuracy, fit_temperature, is_right

ATTACK_CODE = 2  # raise it when the same attack would give other outcomes: old cache entries are then not used
EXTREME_TEMPERATURE = 3.0  # above it, or below its inverse, calibration may matter: that is then measured
N_RECHECKED = 24  # examples for that measurement

OnOutcome = Callable[[Attack, AttackOutcome], None]  # also for outcomes of an earlier run


@dataclass(frozen=True)
class Terms:
    """Under which terms a victim is attacked. ``bf16`` and ``device`` are those of sentence vectors, too."""

    protocol: Protocol
    seed: int
    bf16: bool
    device: str

    @property
    def hardware(self) -> dict[str, Any]:
        """The kind of arithmetic that numbers come from; part of every cache key."""
        return {"device": self.device.split(":")[0], "bf16": self.bf16}


class Evaluation:
    """A victim, measured on clean texts and ready to be attacked.

    ``fast`` and ``exact`` are one model in two precisions, or one object; ``digest`` names its weights. The temperature
    is fitted on ``calibration`` (None: no temperature), and attacks meet logits divided by it.
    """

    def __init__(
        self,
        fast: TokenVictim,
        exact: TokenVictim,
        *,
        digest: str,
        clean: Sequence[Example],
        calibration: Sequence[Example] | None,
        terms: Terms,
        cache: Cache,
    ) -> None:
        self._fast, self._exact, self._digest, self._terms, self._cache = fast, exact, digest, terms, cache
        self._clean_texts = [example.text for example in clean]
        logits, labels = exact(self._clean_texts), [example.label for example in clean]
        self.clean_accuracy: Rate = clean_accuracy(logits, labels)
        self.clean_right: list[bool] = [bool(one) for one in is_right(logits, labels)]
        self.temperature: float | None = None
        if calibration:
            logits = exact([example.text for example in calibration])
            self.temperature = fit_temperature(logits, [example.label for example in calibration])

    def attack(
        self,
        attack: Attack,
        examples: Sequence[Example],
        *,
        protocol: Protocol | None = None,
        calibrated: bool = True,
        on_outcome: OnOutcome | None = None,
    ) -> list[AttackOutcome]:
        """The attack's outcome on each example. They are kept one by one: a killed attack goes on where it was.

        ``protocol``: another than the evaluation's. Without ``calibrated`` the temperature is left out.
        """
        protocol = protocol or self._terms.protocol
        temperature = self.temperature if calibrated else None
        key = {
            "code": ATTACK_CODE,
            "victim": self._digest,
            "temperature": temperature,
            "attack": attack.identity(protocol),
            "protocol": protocol.model_dump(mode="json"),
            "seed": self._terms.seed,
        }
        fast, exact = self._fast.tempered(temperature), self._exact.tempered(temperature)
        with self._cache.outcomes(key | self._terms.hardware) as log:
            for example in examples:
                if on_outcome is not None and example.id in log.done:
                    on_outcome(attack, log.done[example.id])

            def keep(outcome: AttackOutcome) -> None:
                log.append(outcome)
                if on_outcome is not None:
                    on_outcome(attack, outcome)

            return run_attack(
                attack,
                victim=exact if self._fast is self._exact else fast,
                exact=exact,
                examples=examples,
                protocol=protocol,
                seed=self._terms.seed,
                done=dict(log.done),
                on_outcome=keep,
                bf16=self._terms.bf16,
                device=self._terms.device,
            )

    @property
    def n_asked(self) -> int:
        """Texts that were asked about so far, in both precisions."""
        return self._exact.n_asked + (0 if self._fast is self._exact else self._fast.n_asked)

    @property
    def n_computed(self) -> int:
        """Those of them that went through the network; the others were remembered."""
        return self._exact.n_computed + (0 if self._fast is self._exact else self._fast.n_computed)

    def predictions(self, texts: Sequence[str]) -> list[int]:
        """What the model says of each text, in float32."""
        found: list[int] = self._exact(list(texts)).argmax(axis=1).tolist()
        return found

    def flags(
        self, suite: Mapping[str, tuple[Attack, Sequence[AttackOutcome]]], examples: Sequence[Example]
    ) -> list[Flag]:
        """Every reason to doubt the numbers: of the victim's scores, of the outcomes, of a smaller budget, and of the
        temperature where it is extreme. ``examples``: those of the outcomes, in order."""
        calibrated: Victim = self._exact.tempered(self.temperature)
        found = flags.of_victim(self._exact.tempered(None), calibrated, self._clean_texts, self.clean_accuracy)
        found += flags.of_outcomes(suite)
        first = next(iter(suite.values()), None)
        if first is None or not examples:
            return found
        attack, outcomes = first
        again = partial(self._again, attack)
        found += flags.of_smaller_budget(again, self._terms.protocol, examples, outcomes)
        t = self.temperature
        if t is not None and not 1 / EXTREME_TEMPERATURE <= t <= EXTREME_TEMPERATURE:
            few = list(examples[:N_RECHECKED])
            without = self.attack(attack, few, calibrated=False)
            found += flags.of_calibration(without, outcomes[: len(few)], t)
        return found

    def _again(self, attack: Attack, protocol: Protocol, examples: Sequence[Example]) -> list[AttackOutcome]:
        return self.attack(attack, examples, protocol=protocol)
