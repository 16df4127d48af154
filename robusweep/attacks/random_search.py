"""A search of TextAttack's kind that looks at predicted labels and at nothing else."""

from __future__ import annotations

import random
from typing import Any

from robusweep.attacks.library import import_textattack

textattack: Any = import_textattack()
SUCCEEDED = textattack.goal_function_results.GoalFunctionResultStatus.SUCCEEDED


class RandomThenRevert(textattack.search_methods.SearchMethod):  # type: ignore[misc]
    """Replace words at random until the label changes, up to ``restarts`` times from the start; then take back what is
    not needed. Draws from Python's global generator, as TextAttack's searches do."""

    def __init__(self, restarts: int) -> None:
        self.restarts = restarts

    def perform_search(self, initial_result: Any) -> Any:
        for _ in range(self.restarts):
            found, over = self._walk(initial_result)
            if found.goal_status == SUCCEEDED:
                return found if over else self._reverted(initial_result, found)
            if over:
                break
        return initial_result

    def _walk(self, initial_result: Any) -> tuple[Any, bool]:
        """(the first success on a walk over the words in random order, else the last text; whether the budget
        ended)."""
        current, original = initial_result, initial_result.attacked_text
        _, places = self.get_indices_to_order(original)
        random.shuffle(places)
        for place in places:
            options = self.get_transformations(current.attacked_text, original_text=original, indices_to_modify=[place])
            if not options:
                continue
            results, over = self.get_goal_results([random.choice(options)])
            current = results[0] if results else current
            if over or current.goal_status == SUCCEEDED:
                return current, over
        return current, False

    def _reverted(self, initial_result: Any, found: Any) -> Any:
        """The same success with fewer changes: each is taken back, in random order, where the label stays wrong."""
        original = initial_result.attacked_text
        places = sorted(found.attacked_text.all_words_diff(original))
        random.shuffle(places)
        for place in places:
            text = found.attacked_text.replace_word_at_index(place, original.words[place])
            text.attack_attrs["last_transformation"] = found.attacked_text.attack_attrs["last_transformation"]
            text.attack_attrs["modified_indices"] -= {place}
            allowed = self.filter_transformations([text], found.attacked_text, original_text=original)
            if not allowed:
                continue
            results, over = self.get_goal_results(allowed)
            if results and results[0].goal_status == SUCCEEDED:
                found = results[0]
            if over:
                break
        return found

    @property
    def is_black_box(self) -> bool:
        return True

    def check_transformation_compatibility(self, transformation: Any) -> bool:
        found: bool = textattack.shared.validators.transformation_consists_of_word_swaps(transformation)
        return found

    def extra_repr_keys(self) -> list[str]:
        return ["restarts"]
