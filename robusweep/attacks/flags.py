"""Reasons not to believe a robust accuracy: what a broken or a cheating defence looks like, measured.

Each flag is one that makes attacks fail without making the model more robust. Sources: AutoAttack's checks (Croce and
Hein 2020, arXiv:2003.01690); Raina et al. 2024 on over-confidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray

from robusweep.attacks.base import Attack
from robusweep.attacks.protocol import Protocol
from robusweep.examples import Example, TokenVictim, Victim
from robusweep.record import AttackOutcome, Flag
from robusweep.scores import Comparison, Rate

N_PROBED = 16  # texts that are looked at closely
N_DELETIONS = 8  # words left out of each of them, one at a time
SATURATED = 0.995  # mean largest probability
CERTAIN = 1 - 1e-6  # of the larger part of the texts: no accuracy excuses that
EVEN = 0.02  # mean largest probability above chance
SAME_SCORES = 0.2  # share of deletions that change nothing
SMALLEST_GRADIENT = 1e-6  # median L2 norm over texts; of an honest model it is 1e-3 and more
EXHAUSTED = 0.2  # share of attacked examples
TOLERANCE = 1e-3  # of logits that should be equal but for rounding


def of_victim(raw: Victim, calibrated: Victim, texts: Sequence[str], accuracy: Rate) -> list[Flag]:
    """What the scores of a victim show, on texts where its ``accuracy`` is known. ``calibrated``: with temperature."""
    few = list(texts[:N_PROBED])
    found = [
        _calls_differ(raw, few),
        _batch_matters(raw, few),
        *_confidence(raw(list(texts)), accuracy),
        _coarse(raw, few),
        _no_gradient(calibrated, few),
    ]
    return [flag for flag in found if flag is not None]


def of_outcomes(suite: Mapping[str, tuple[Attack, Sequence[AttackOutcome]]]) -> list[Flag]:
    """What the outcomes of a suite show: used-up budgets, and labels that are a better guide than scores."""
    found = []
    for name, (_, outcomes) in suite.items():
        attacked = [o for o in outcomes if o.status != "misclassified"]
        exhausted = sum(o.exhausted for o in attacked)
        if attacked and exhausted > EXHAUSTED * len(attacked):
            found.append(Flag(name="budget_exhausted", detail=f"{name}: {exhausted} of {len(attacked)} searches"))
    changing = {n: (a, o) for n, (a, o) in suite.items() if a.goal == "change_label" and a.level != "char"}
    scored = [outcomes for attack, outcomes in changing.values() if not attack.label_only]
    for name, (attack, outcomes) in changing.items():
        if attack.label_only and scored:
            under_labels = [o.status == "survived" for o in outcomes]
            under_scores = [all(o.status == "survived" for o in row) for row in zip(*scored, strict=True)]
            compared = Comparison.of(under_scores, under_labels)
            if compared.difference > 0 and compared.p_value <= 0.1:  # one-sided at 5 %
                n = compared.n_only_first
                detail = f"{name} breaks {n} texts that no word attack with scores does (p = {compared.p_value:.3g})"
                found.append(Flag(name="labels_beat_scores", detail=detail))
    return found


def of_smaller_budget(
    attack_with: Callable[[Protocol, Sequence[Example]], Sequence[AttackOutcome]],
    protocol: Protocol,
    examples: Sequence[Example],
    outcomes: Sequence[AttackOutcome],
) -> list[Flag]:
    """Attack a few examples again with half the queries that a success took: what breaks then has broken before."""
    successes = [o.n_queries for o in outcomes if o.status == "broken"]
    if not successes or protocol.library_constraints:
        return []
    less = protocol.changed({"query_budget": max(2, int(median(successes)) // 2)})
    few = list(examples[:N_PROBED])
    again = attack_with(less, few)
    worse = sum(
        a.status == "broken" and b.status == "survived" for a, b in zip(again, outcomes[: len(few)], strict=True)
    )
    if not worse:
        return []
    return [
        Flag(name="less_budget_breaks_more", detail=f"{worse} of {len(few)} texts with at most {less.query_budget}")
    ]


def of_calibration(
    without: Sequence[AttackOutcome], calibrated: Sequence[AttackOutcome], temperature: float
) -> list[Flag]:
    """Whether the same attack on the same examples leaves more standing without the temperature than with it."""
    raw, real = ([o.status == "survived" for o in row] for row in (without, calibrated))
    compared = Comparison.of(raw, real)
    if not (compared.difference > 0 and compared.p_value <= 0.1):
        return []
    detail = f"{compared.first.value:.3f} without, {compared.second.value:.3f} with temperature {temperature:.3g}"
    return [Flag(name="uncalibrated_gain", detail=f"{detail} (n = {compared.first.n})")]


# ----------------------------------------------------------------------------------------------- probes
def _asked_afresh(victim: Victim) -> Victim:
    """The victim without its memory of earlier answers."""
    return victim.forgetful() if isinstance(victim, TokenVictim) else victim


def _calls_differ(victim: Victim, texts: Sequence[str]) -> Flag | None:
    first, second = (_asked_afresh(victim)(texts) for _ in range(2))
    largest = float(np.abs(first - second).max(initial=0.0))
    if largest <= TOLERANCE * _scale(first):
        return None
    return Flag(name="nondeterministic", detail=f"logits of the same texts differ by up to {largest:.3g}")


def _batch_matters(victim: Victim, texts: Sequence[str]) -> Flag | None:
    fresh = _asked_afresh(victim)
    together = fresh(texts)
    alone = np.concatenate([_asked_afresh(victim)([text]) for text in texts]) if texts else together
    largest = float(np.abs(together - alone).max(initial=0.0))
    if largest <= TOLERANCE * _scale(together) or _calls_differ(victim, texts):
        return None
    return Flag(name="depends_on_batch", detail=f"logits alone and in company differ by up to {largest:.3g}")


def _scale(logits: NDArray[np.float32]) -> float:
    return max(1.0, float(np.abs(logits).max(initial=0.0)))


def _confidence(logits: NDArray[np.float32], accuracy: Rate) -> list[Flag | None]:
    if not len(logits):
        return []
    largest = _probabilities(logits).max(axis=1)
    mean, chance = float(largest.mean()), 1 / logits.shape[1]
    certain = float((largest > CERTAIN).mean())
    detail = (
        f"mean largest probability {mean:.4f}, accuracy {accuracy.value:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}]"
    )
    if mean > SATURATED and (mean > accuracy.high or certain > 0.5):
        return [Flag(name="saturated", detail=detail)]
    return [Flag(name="flat", detail=detail)] if mean < chance + EVEN else []


def _probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    found: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return found


def _coarse(victim: Victim, texts: Sequence[str]) -> Flag | None:
    """Leave single words out: a model's scores move, if only a little."""
    pairs = [
        (text, " ".join([*words[:i], *words[i + 1 :]]))
        for text in texts
        for words in [text.split()]
        for i in np.unique(np.linspace(0, len(words) - 1, min(N_DELETIONS, len(words))).astype(int)).tolist()
        if len(words) > 1
    ]
    if isinstance(victim, TokenVictim):  # a word behind the model's last token is not seen
        rows = [victim.rows(list(pair)) for pair in pairs]
        pairs = [pair for pair, (a, b) in zip(pairs, rows, strict=True) if not np.array_equal(a, b)]
    if not pairs:
        return None
    whole, less = (victim([pair[side] for pair in pairs]) for side in (0, 1))
    same = float((whole == less).all(axis=1).mean())
    if same <= SAME_SCORES:
        return None
    return Flag(
        name="coarse_scores", detail=f"{same:.0%} of {len(pairs)} deletions of a word leave every score as it is"
    )


def _no_gradient(victim: Victim, texts: Sequence[str]) -> Flag | None:
    if not isinstance(victim, TokenVictim) or not texts:
        return None
    norms = [float(np.linalg.norm(found.values)) for found in victim.gradients(texts)]
    if median(norms) >= SMALLEST_GRADIENT:
        return None
    return Flag(name="zero_gradient", detail=f"median norm {median(norms):.3g} over {len(norms)} texts")
