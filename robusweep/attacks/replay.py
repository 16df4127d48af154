"""Texts that an attack found against one system, tried on another: replay, and the adaptive attack on a mix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from robusweep.attacks.evaluation import Evaluation
from robusweep.examples import Example
from robusweep.record import AttackOutcome

Pool = Mapping[str, Mapping[str, AttackOutcome]]  # example -> text -> the outcome that found it


def pooled(found: Iterable[Sequence[AttackOutcome]]) -> Pool:
    """What one attack itself broke of other systems, in the order of these; ``found`` holds its outcomes on each."""
    pool: dict[str, dict[str, AttackOutcome]] = {}
    for outcome in (outcome for rows in found for outcome in rows):
        if outcome.status == "broken" and outcome.perturbed_text is not None and not outcome.replayed:
            pool.setdefault(outcome.example_id, {}).setdefault(outcome.perturbed_text, outcome)
    return pool


def replayed(evaluation: Evaluation, examples: Sequence[Example], pool: Pool) -> dict[str, AttackOutcome]:
    """What the texts of the pool do to a system, for each example with such texts.

    ``broken`` at the first text that succeeds; ``n_queries`` counts the texts that were tried. An example that is wrong
    anyway is left to the attack.
    """
    met = [example for example in examples if example.id in pool]
    right = evaluation.predictions([example.text for example in met])
    found: dict[str, AttackOutcome] = {}
    for example, predicted in zip(met, right, strict=True):
        if predicted == example.label:
            texts = list(pool[example.id])
            labels = evaluation.predictions(texts)
            wrong = next((i for i, label in enumerate(labels) if label != example.label), None)
            first = pool[example.id][texts[wrong or 0]]
            changed = {"n_queries": len(texts) if wrong is None else wrong + 1, "replayed": True}
            found[example.id] = first.model_copy(update=changed) if wrong is not None else _stood(first, len(texts))
    return found


def aided(
    evaluation: Evaluation, outcomes: Sequence[AttackOutcome], examples: Sequence[Example], pool: Pool
) -> list[AttackOutcome]:
    """The outcomes of an attack, after the pool was tried on those of the examples that had survived it."""
    standing = {o.example_id for o in outcomes if o.status == "survived"}
    late = replayed(evaluation, [example for example in examples if example.id in standing], pool)
    broken = {key: outcome for key, outcome in late.items() if outcome.status == "broken"}
    return [broken.get(o.example_id, o) for o in outcomes]


def _stood(found: AttackOutcome, n_queries: int) -> AttackOutcome:
    """An example that stood under every text of the pool; ``found`` is an outcome of one of those."""
    return AttackOutcome(
        example_id=found.example_id, label=found.label, status="survived", n_queries=n_queries, n_words=found.n_words
    )
