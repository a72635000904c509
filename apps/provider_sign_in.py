"""Where provider and accounts meet: a browser that comes back, or a program's token, in; an account of the site out."""

import hashlib
import threading
from collections import OrderedDict
from datetime import UTC, datetime

import jwt

from apps.accounts import Accounts
from apps.oidc import Departure, Provider
from apps.provider_accounts import ProviderAccounts
from apps.settings import Site
from labeling_protocols.records import Account
from labeling_protocols.store import Store

_REMEMBERED = 4096  # tokens of programs whose roles were taken over already


class ProviderSignIn:
    """Sign-in through the provider of one site."""

    def __init__(self, provider: Provider, people: ProviderAccounts, accounts: Accounts) -> None:
        self.title = provider.settings.title
        self._provider = provider
        self._people = people
        self._accounts = accounts
        self._seen: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def depart(self, redirect_uri: str, then: str) -> Departure:
        return self._provider.depart(redirect_uri, then)

    def arrive(self, pending: str, answer: dict[str, str]) -> tuple[Account, str]:
        """The account of who came back, signed in, and where they go then."""
        person, then = self._provider.arrive(pending, answer)
        return self._people.sign_in(person, through="provider"), then

    def issued(self, token: str) -> bool:
        """Whether a token says that it is the provider's; whether it is shows `account_of`."""
        try:
            said = jwt.decode(token, options={"verify_signature": False})
        except (jwt.PyJWTError, ValueError):
            return False
        return said.get("iss") == self._provider.settings.issuer

    def account_of(self, token: str) -> Account:
        """The account of a program's token; raises `TokenError`.

        The roles in it are taken over when it is seen first; later uses look up the account as it is then.
        """
        person, claims = self._provider.person_of(token)
        name = hashlib.sha256(token.encode()).hexdigest()
        account_id = self._seen.get(name)
        if account_id is None:
            account_id = self._people.recognise(person).id
            with self._lock:
                self._seen[name] = account_id
                while len(self._seen) > _REMEMBERED:
                    self._seen.popitem(last=False)
        return self._accounts.enabled(account_id, datetime.fromtimestamp(claims["iat"], UTC))


def provider_sign_in(site: Site, store: Store, accounts: Accounts) -> ProviderSignIn | None:
    """Sign-in through the provider that the site's settings name, if they name one."""
    settings = site.config.oidc
    if settings is None:
        return None
    return ProviderSignIn(Provider(site, settings), ProviderAccounts(store), accounts)
