"""Texts that an attack has turned against a network, with their old labels."""

from __future__ import annotations

from robusweep.seeds import derive, generator
from robusweep.training.base import Extra, Setting

CHUNK = 32  # texts that are attacked at once, at least: the lanes of an attack


def attacked_texts(
    setting: Setting, *, kind: str, live: bool, attack: str, most: int, n_queries: int, weight: float, draw: int
) -> list[Extra]:
    """At most ``most`` texts with which the attack succeeds, from training texts in random order.

    ``live`` attacks the network that is being trained, else the method's reference. ``draw`` numbers the times that
    this is done in a run. No more texts are attacked than it takes, but for the last chunk.
    """
    texts, lent = setting.lexicon(kind)
    order = generator(setting.seed, "attacked", draw).permutation(len(texts)).tolist()
    found: list[tuple[str, int]] = []
    while order and len(found) < most:
        size = max(CHUNK, 2 * (most - len(found)))
        chunk, order = order[:size], order[size:]
        results = lent.attacked(
            [(texts[i], setting.labels[i]) for i in chunk],
            network=setting.network if live else None,
            attack=attack,
            n_queries=n_queries,
            seed=derive(setting.seed, "attack"),
        )
        found += [(new, setting.labels[i]) for i, new in zip(chunk, results, strict=True) if new is not None]
    found = found[:most]
    ids = lent.tokens([text for text, _ in found])
    return [Extra(row, label, weight) for row, (_, label) in zip(ids, found, strict=True)]
