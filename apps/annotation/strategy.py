"""The worklist as monailabel's active-learning strategy: who calls decides which case comes next, his edits first."""

from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from apps.annotation.calling import caller
from apps.annotation.edits import next_edit
from labeling_protocols.records import Role
from labeling_protocols.store import Store
from labeling_protocols.worklist import next_case


class Worklist(Strategy):
    """The caller's next case: what he edits for a decision, the one he left, else one with a free seat: then his."""

    def __init__(self, store: Store) -> None:
        super().__init__("Your next case: the one you left, else one that still needs a reader")
        self._store = store

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """`{"id": …}`, or None when nothing is left; `protocol` in the request keeps to one protocol."""
        asked = request.get("protocol")
        names = [self._store.protocol(str(asked)).name] if asked else [p.name for p in self._store.protocols()]
        edit = next_edit(self._store, names, caller())
        if edit is not None:
            return {"id": edit.case}
        for name in names if Role.READER in caller().roles else ():
            case = next_case(self._store, name, caller().id)
            if case is not None:
                return {"id": case.id}
        return None
