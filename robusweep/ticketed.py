"""The ticket of a trial: drawn from a search that all densities share, and the other units removed from the base."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from robusweep.examples import Example
from robusweep.ground import Ground
from robusweep.model import TextModel
from robusweep.record import TicketRecord, write_json
from robusweep.seeds import derive
from robusweep.spec import digest_of
from robusweep.tickets import CoefficientRecord, Masks, Ticket
from robusweep.tickets.base import Searched

SEARCH_CODE = 2  # raise it when the same search would give other coefficients
RECORD = "coefficients.npz"
MASKS = "ticket/masks.json"  # in the trial's folder


def with_ticket(ground: Ground) -> tuple[Ground, TicketRecord | None]:
    """(the ground with the units that the ticket does not keep removed from its base, what the ticket is)."""
    ticket = ground.recipe.ticket
    if ticket is None:
        return ground, None
    record, cached = _searched(ticket, ground) if isinstance(ticket, Searched) else (None, False)
    drawn = ticket.draw(record or ground.base.network, seed=derive(ground.recipe.seed, "ticket"))
    network: Any = ground.base.network
    size = network.config.hidden_size
    heads, neurons = drawn.masks.density
    told = TicketRecord(
        kind=ticket.kind,
        head_density=heads,
        neuron_density=neurons,
        n_removed=drawn.masks.n_removed(hidden=size),
        gap=drawn.gap,
        step=drawn.step,
        stop_step=drawn.stop_step,
        fallback=drawn.fallback,
        distances=[list(pair) for pair in drawn.distances],
        cached=cached,
        search=asdict(record.costs) if record else {},
    )
    write_json(ground.folder / MASKS, drawn.masks.as_json())
    ground.progress.say(f"ticket: {heads:.0%} of the heads and {neurons:.0%} of the neurons are kept")
    base, identity = cut(ground.base, ground.base_identity, drawn.masks)
    return replace(ground, base=base, base_identity=identity), told


def cut(base: TextModel, identity: str, masks: Masks) -> tuple[TextModel, str]:
    """(the base without the units that the masks drop, what it is then).

    Its identity takes the masks in, so that nothing trained or attacked without them is taken for the same.
    """
    from robusweep.tickets.removal import removed

    network: Any = removed(base.network, masks)
    return replace(base, network=network), digest_of({"base": identity, "masks": masks.as_json()})


def _searched(ticket: Searched, ground: Ground) -> tuple[CoefficientRecord, bool]:
    """(a record that this ticket can be drawn from, whether it was in the cache).

    A search ends when its own ticket can be drawn. One that needs more is searched to the end, under another key.
    """
    record, cached = _cached(ticket, ground, stop=True)
    return (record, cached) if ticket.suffices(record) else _cached(ticket, ground, stop=False)


def _cached(ticket: Searched, ground: Ground, *, stop: bool) -> tuple[CoefficientRecord, bool]:
    key = _key(ticket, ground) | {"stop": stop}
    entry, cached = ground.cache.get_or_make("ticket", key, partial(_search, ticket=ticket, ground=ground, stop=stop))
    return CoefficientRecord.load(entry / RECORD), cached


def _key(ticket: Ticket, ground: Ground) -> dict[str, Any]:
    """Everything that a search reads; how much is kept of it is not part of that."""
    recipe, base = ground.recipe, ground.base
    return {
        "code": SEARCH_CODE,
        "base": ground.base_identity,
        "max_tokens": base.max_tokens,
        "dropout": recipe.model.dropout,
        "attention": recipe.model.attention,
        "labels": list(base.label_names),
        "train": _columns(ground.dataset.train),
        "search": ticket.search_digest,
        "seed": recipe.seed,
        **ground.terms.hardware,
    }


def _columns(examples: tuple[Example, ...]) -> tuple[list[str], list[int]]:
    return [example.text for example in examples], [example.label for example in examples]


def _search(folder: Path, *, ticket: Searched, ground: Ground, stop: bool) -> None:
    texts, labels = _columns(ground.dataset.train)
    ground.progress.say(f"ticket: searching ({ticket.kind})")
    record = ticket.search(
        ground.base.network,
        ground.base.tokens(texts),
        labels,
        pad_id=ground.base.pad_id,
        seed=derive(ground.recipe.seed, "search"),
        bf16=ground.bf16,
        stop=stop,
        on_step=lambda share: ground.progress.share("ticket", share),
    )
    ground.progress.share("ticket", 1.0)
    record.save(folder / RECORD)
