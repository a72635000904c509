"""monailabel's active-learning strategies: who calls decides which case comes next, his edits first.

`worklist` follows the protocol's own order; each other one the order it made of the same cases, with the same seats.
"""

from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from apps.acquisition_ordering import order_at_once
from apps.annotation.calling import caller
from apps.annotation.edits import next_edit
from apps.reasons import reason_of
from labeling_protocols.case_scores import has_order, offers
from labeling_protocols.records import Role
from labeling_protocols.store import Store
from labeling_protocols.worklist import next_case
from training.acquisition import STRATEGIES

WORKLIST = "worklist"


class StrategyError(ValueError):
    """A strategy that has not ordered the cases yet: what to do about it; nobody was given a case."""


class NextCase(Strategy):
    """The caller's next case: what he edits for a decision, the one he left, else one with a free seat: then his.

    Which free seat comes first is for the strategy of this name to say, or for the worklist where it is empty.
    """

    def __init__(self, store: Store, name: str = "") -> None:
        title = (
            STRATEGIES[name].title if name else "Your next case: the one you left, else one that still needs a reader"
        )
        super().__init__(title)
        self._store = store
        self._name = name

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """`id`, and `why` where there is something to tell; None when nothing is left for him.

        `protocol` in the request keeps to one protocol. Raises `StrategyError`.
        """
        asked = request.get("protocol")
        names = [self._store.protocol(str(asked)).name] if asked else [p.name for p in self._store.protocols()]
        edit = next_edit(self._store, names, caller())
        if edit is not None:
            return {"id": edit.case}
        if Role.READER not in caller().roles:
            return None
        able = [name for name in names if self._has_order(name)]
        for name in able:
            case = next_case(self._store, name, caller().id, strategy=self._name)
            if case is not None:
                return {"id": case.id, **self._why(name, case.id)}
        if unordered := [name for name in names if name not in able and self._store.progress(name).cases]:
            raise StrategyError(
                f"{self._name} has not ordered the cases of {', '.join(unordered)} yet: take the strategy {WORKLIST},"
                f" or have an engineer run `overread score {unordered[0]} --strategy {self._name}`. You were given no"
                " case."
            )
        return None

    def _has_order(self, protocol_name: str) -> bool:
        """Whether there is an order to follow; one that takes no look at the cases is made now."""
        if not self._name or has_order(self._store, protocol_name, self._name):
            return True
        return order_at_once(self._store, protocol_name, self._name)

    def _why(self, protocol_name: str, case_id: str) -> dict[str, str]:
        offer = offers(self._store, caller().id, [case_id]).get(case_id)
        why = reason_of(self._store.protocol(protocol_name), offer)
        return {"why": why} if why else {}


def strategies(store: Store) -> dict[str, Strategy]:
    """Every strategy by name, the protocols' own order first: viewers choose the first where nobody chooses."""
    return {WORKLIST: NextCase(store), **{name: NextCase(store, name) for name in STRATEGIES}}
