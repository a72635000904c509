"""What the review pages' routes are given: a request in, who calls, the site's store and the dispute asked for out."""

from typing import Annotated

from fastapi import Depends, Request

from apps.identity import Caller, Identities, Means, requires
from apps.review.disputes import ShownDispute, find_dispute
from apps.settings import Site
from labeling_protocols.records import Role
from labeling_protocols.store import Store

# A reader's personal address opens his viewer, not these pages.
_MEANS = (Means.TOKEN, Means.COOKIE)
Adjudicator = Annotated[Caller, requires(Role.ADJUDICATOR, Role.ADMINISTRATOR, means=_MEANS)]
Lead = Annotated[Caller, requires(Role.ADJUDICATOR, Role.ADMINISTRATOR, Role.ENGINEER, means=_MEANS)]


def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


def _site(request: Request) -> Site:
    site: Site = request.app.state.site
    return site


def _identities(request: Request) -> Identities:
    identities: Identities = request.app.state.identities
    return identities


TheStore = Annotated[Store, Depends(_store)]
TheSite = Annotated[Site, Depends(_site)]
TheIdentities = Annotated[Identities, Depends(_identities)]


def _dispute(case: str, caller: Adjudicator, store: TheStore, site: TheSite) -> ShownDispute:
    return find_dispute(store, site.secret, case, caller.account)


TheDispute = Annotated[ShownDispute, Depends(_dispute)]
