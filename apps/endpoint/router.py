"""A series that has arrived in, its route by the site's rules of this moment out, as its job carries it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydicom import dcmread

from apps.endpoint.inbox import Arrived
from apps.endpoint.routing import FILE, Priority, Route, RoutesError, Rule, read_rules, route_of
from apps.endpoint.series_facts import facts_of
from apps.settings import Site
from labeling_protocols.store import Store, UnknownError


class Router:
    """The rules of a site, read again when their file changes."""

    def __init__(self, site: Site, store: Store) -> None:
        self._site, self._store = site, store
        self._rules: tuple[Rule, ...] = ()
        self._of: int | None = None

    def route(self, arrived: Arrived) -> dict[str, Any]:
        """`rule`, `models`, `priority` as a number, `outside` and `reasons`; or an `error` in words, where the rules
        cannot be used."""
        try:
            route = self.explain(arrived.files[0], slices=len(arrived.files), sender=arrived.sender)
        except (RoutesError, UnknownError) as error:
            return {"error": str(error.args[0]), "priority": Priority.ROUTINE.rank}
        return {**asdict(route), "priority": route.priority.rank}

    def explain(self, path: Path, *, slices: int, sender: str, repeat: bool = False) -> Route:
        """Raises `RoutesError`, and `UnknownError` where there is no protocol to read by."""
        header = dcmread(path, stop_before_pixels=True, force=True)
        return route_of(self._current(), facts_of(header, slices=slices, sender=sender), repeat=repeat)

    def _current(self) -> tuple[Rule, ...]:
        path = self._site.root / FILE
        changed = path.stat().st_mtime_ns if path.is_file() else None
        if changed is None or changed != self._of:
            self._rules, self._of = read_rules(self._site, self._store), changed
        return self._rules
