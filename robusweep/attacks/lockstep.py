"""Many searches at once: each stops where it asks a question, and the questions of all are answered together.

A search is ordinary code (TextAttack's, unchanged) in a greenlet of its own. It runs until it asks a service, such as
the victim, about some items. When every search waits, the items of all are handed to the service in one call, and
each search goes on with its own answers. A forward pass then holds hundreds of texts instead of a handful.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from greenlet import getcurrent, greenlet

R = TypeVar("R")
Service = Callable[[Sequence[Any]], Any]  # items in, a sequence (or array) with one answer for each out
Question = tuple[Service, list[Any]]


def ask(service: Service, items: list[Any], *, draws: bool = True) -> Any:
    """The service's answers to these items, one for each; inside ``in_lockstep`` they are gathered with others'.

    With ``draws`` the global generators of Python, NumPy and torch, which TextAttack may draw from, are this search's
    own again afterwards. A search that draws nothing saves the time (70 us).
    """
    lane = getcurrent()
    if lane.parent is None or not isinstance(lane, _Lane):
        return service(items)
    if not draws:
        return lane.parent.switch((service, items))
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    answers = lane.parent.switch((service, items))
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    return answers


class _Lane(greenlet):  # type: ignore[misc]  # greenlet is not looked into
    """One running search."""


def in_lockstep(jobs: Sequence[Callable[[], R]], *, n_lanes: int) -> Iterator[tuple[int, R]]:
    """(index, result) of each job, as they finish; ``n_lanes`` run at once. What a job raises is raised here."""
    pending = deque(enumerate(jobs))
    waiting: list[tuple[int, _Lane, Question]] = []
    while pending or waiting:
        going: list[tuple[int, _Lane, tuple[Any, ...]]] = []
        if waiting:
            answers = _answered([question for _, _, question in waiting])
            going = [(i, lane, (answer,)) for (i, lane, _), answer in zip(waiting, answers, strict=True)]
        while pending and len(going) < n_lanes:
            i, job = pending.popleft()
            going.append((i, _Lane(job), ()))
        waiting = []
        for i, lane, arguments in going:
            said = lane.switch(*arguments)
            if lane.dead:
                yield i, said
            else:
                waiting.append((i, lane, said))


def _answered(questions: Sequence[Question]) -> list[Sequence[Any]]:
    """The answers to each question; every service is called once, with the items of all its questions."""
    answers: list[Sequence[Any]] = [()] * len(questions)
    for service in dict.fromkeys(service for service, _ in questions):
        mine = [i for i, (other, _) in enumerate(questions) if other == service]
        found = service([item for i in mine for item in questions[i][1]])
        begin = 0
        for i in mine:
            end = begin + len(questions[i][1])
            answers[i] = found[begin:end]
            begin = end
    return answers
