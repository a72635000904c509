"""Who is calling: a name and password, a token or a personal address in, an `Account` out, or a bare refusal.

Every change of an account and every sign-in, refused ones too, is written to the audit with it.
"""

import secrets
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from apps import passwords
from apps.account_rows import AccountError as AccountError
from apps.account_rows import Details, account_of_row, details_of_row, require_groups
from apps.addresses import Addresses, end_addresses, plain
from apps.console import COMMAND_LINE
from apps.password_sign_in import OneTimePasswordError as OneTimePasswordError
from apps.password_sign_in import Try, judged
from apps.settings import Site
from apps.tokens import Claims, Tokens
from apps.tokens import TokenError as TokenError
from labeling_protocols import audit, schema
from labeling_protocols.audit import Action
from labeling_protocols.records import Account, Role
from labeling_protocols.store import Store, now

_NAME_MAX = 64


class Accounts:
    """The site's accounts; argon2id passwords, Ed25519-signed tokens, hashed personal addresses."""

    def __init__(self, store: Store, site: Site) -> None:
        self._store = store
        self._settings = site.config.accounts
        self.tokens = Tokens(site)
        self.addresses = Addresses(store)

    # Who there is

    def find(self, name: str) -> Account | None:
        row = self._row(schema.accounts.c.name == plain(name))
        return None if row is None else account_of_row(row)

    def get(self, account_id: str) -> Account | None:
        row = self._row(schema.accounts.c.id == plain(account_id))
        return None if row is None else account_of_row(row)

    def all(self) -> list[Account]:
        return [details.account for details in self.details()]

    def details(self) -> list[Details]:
        """Every account, by name."""
        with self._store.engine.connect() as connection:
            rows = connection.execute(sa.select(schema.accounts).order_by(schema.accounts.c.name)).all()
        return [details_of_row(row) for row in rows]

    def provider_of(self, account_id: str) -> str:
        """The issuer that signs this account in; empty for a password of ours."""
        row = self._row(schema.accounts.c.id == plain(account_id))
        return "" if row is None else row.issuer or ""

    # Making and changing them

    def add(
        self,
        name: str,
        password: str | None,
        roles: frozenset[Role],
        groups: frozenset[str] = frozenset(),
        *,
        actor: str = COMMAND_LINE,
        once: bool = False,
    ) -> Account:
        """Make an account; its id is random and stands for the person in everything that is kept.

        A password for `once` opens one time, to choose another. Nobody signs in to an account without one.
        """
        if not name.strip() or len(name) > _NAME_MAX or not name.isprintable():
            raise AccountError(f"an account name has 1 to {_NAME_MAX} printable characters. No account was made.")
        require_groups(groups, "No account was made.")
        if password is not None:
            self._require_good(password, name, "No account was made.")
        row = {
            "id": secrets.token_hex(8),
            "name": name,
            "roles": sorted(roles),
            "groups": sorted(groups),
            "disabled": False,
            "created": now(),
            **self._password(password, once),
        }
        try:
            with self._store.writing() as connection:
                connection.execute(sa.insert(schema.accounts).values(row))
                audit.append(
                    connection,
                    actor=actor,
                    action=Action.ACCOUNT_ADDED,
                    subject=row["id"],
                    roles=row["roles"],
                    groups=row["groups"],
                )
        except IntegrityError as error:
            raise AccountError("an account of this name exists already. No account was made.") from error
        return Account(id=row["id"], name=name, roles=frozenset(roles), groups=frozenset(groups), disabled=False)

    def change(
        self,
        account_id: str,
        *,
        actor: str,
        roles: frozenset[Role] | None = None,
        groups: frozenset[str] | None = None,
        disabled: bool | None = None,
    ) -> Account:
        """Change what is given; other roles, or being disabled, end every session, and the latter every address."""
        require_groups(groups or frozenset(), "Nothing was changed.")
        wanted: dict[str, Any] = {
            "roles": None if roles is None else sorted(roles),
            "groups": None if groups is None else sorted(groups),
            "disabled": disabled,
        }
        with self._store.writing() as connection:
            row = self._required(connection, account_id)
            changed = {key: value for key, value in wanted.items() if value is not None and value != getattr(row, key)}
            if not changed:
                return account_of_row(row)
            if "roles" in changed and row.issuer is not None:
                raise AccountError("this account's roles are given by its identity provider. Nothing was changed.")
            if Role.ADMINISTRATOR not in changed.get("roles", row.roles) or changed.get("disabled", row.disabled):
                self._require_another_administrator(connection, row)
            ends = {"tokens_since": now()} if changed.keys() & {"roles", "disabled"} else {}
            self._update(connection, account_id, {**changed, **ends})
            if disabled:
                end_addresses(connection, account_id, actor)
            audit.append(connection, actor=actor, action=Action.ACCOUNT_CHANGED, subject=account_id, **changed)
            return account_of_row(self._required(connection, account_id))

    def reset_password(self, account_id: str, *, actor: str, once: bool = True) -> str:
        """A new password, to be shown once; unlocks the account and ends its sessions and addresses.

        One for `once` opens one time, to choose another.
        """
        password = passwords.made_up()
        values = {**self._password(password, once), "tokens_since": now(), **_UNLOCKED}
        with self._store.writing() as connection:
            row = self._required(connection, account_id)
            if row.issuer is not None:
                raise AccountError("this account signs in at its identity provider. Nothing was changed.")
            _require_sign_in(row)
            self._update(connection, account_id, values)
            end_addresses(connection, account_id, actor)
            audit.append(connection, actor=actor, action=Action.PASSWORD_CHANGED, subject=account_id, reset=True)
        return password

    def unlock(self, account_id: str, *, actor: str) -> None:
        """End a lock-out before its time."""
        with self._store.writing() as connection:
            self._required(connection, account_id)
            self._update(connection, account_id, _UNLOCKED)
            audit.append(connection, actor=actor, action=Action.ACCOUNT_CHANGED, subject=account_id, unlocked=True)

    # Who calls

    def sign_in(self, name: str, password: str, *, through: str = "viewer", new: str | None = None) -> Account | None:
        """The account whose password this is, if it is neither locked nor disabled; `new` replaces the password.

        A refusal takes as long, and leaves as much behind, whether the name is unknown, the password wrong or the
        account locked. Raises `OneTimePasswordError` where the right password must be replaced first.
        """
        if new is not None:
            self._require_good(new, name, "Nothing was changed.")
        row = self._row(schema.accounts.c.name == plain(name))
        right = passwords.matches(None if row is None else row.password, password)
        kept = new if new is not None else password
        renew = new is not None or (right and row is not None and passwords.outdated(row.password))
        tried = Try(right=right, through=through, hash=passwords.hashed(kept) if renew else None, own=new is not None)
        with self._store.writing() as connection:
            opened = judged(connection, row, tried, self._settings)
        return account_of_row(opened) if opened is not None else None

    def token(self, account: Account, *, minutes: float | None = None) -> str:
        """A JWT that names the account; who that is and what they may do is looked up afresh at each use."""
        return self.tokens.make(account.id, minutes=minutes)

    def holder(self, token: str) -> tuple[Account, Claims]:
        """Raises `TokenError` for a token not of this site, expired or ended, or whose account is disabled."""
        claims = self.tokens.read(token)
        return self.enabled(claims.account, claims.issued, claims.session), claims

    def account_of(self, token: str) -> Account:
        return self.holder(token)[0]

    def sign_out(self, claims: Claims) -> None:
        """End the session this token is of."""
        with self._store.writing() as connection:
            self.tokens.end(connection, claims)
            audit.append(connection, actor=claims.account, action=Action.SIGNED_OUT, subject=claims.account)

    def end_sessions(self, account_id: str, *, actor: str) -> None:
        """End every session of an account, wherever it is signed in; its addresses stay."""
        with self._store.writing() as connection:
            self._required(connection, account_id)
            self._update(connection, account_id, {"tokens_since": now()})
            audit.append(connection, actor=actor, action=Action.SIGNED_OUT, subject=account_id, everywhere=True)

    def new_address(self, account: Account, *, days: float = 30, title: str = "", actor: str = COMMAND_LINE) -> str:
        """The secret of a server address `…/u/<secret>` that stands for this account; shown now and never again."""
        with self._store.engine.connect() as connection:
            _require_sign_in(self._required(connection, account.id))
        return self.addresses.make(account.id, actor=actor, days=days, title=title)

    def revoke_addresses(self, account: Account, *, actor: str = COMMAND_LINE) -> int:
        """End every address of this account; how many were in use."""
        return self.addresses.revoke_all(account.id, actor=actor)

    def account_of_address(self, secret: str) -> Account:
        """Raises `TokenError` for an address that is unknown, revoked or expired, or whose account is disabled."""
        return self.enabled(self.addresses.holder(secret))

    def rotate_keys(self, *, actor: str, at_once: bool = False) -> str:
        """Sign with a new key from now on; returns its kid. `at_once` ends every session of the site."""
        with self._store.writing() as connection:
            kid = self.tokens.keys.rotate(at_once=at_once)
            audit.append(connection, actor=actor, action=Action.KEY_ROTATED, subject=kid, at_once=at_once)
        return kid

    def enabled(self, account_id: str, issued: datetime | None = None, session: str = "") -> Account:
        """The account, if it is enabled and ended neither this session nor what was `issued` then; or `TokenError`."""
        ended = sa.exists().where(schema.ended_tokens.c.id == session).label("session_ended")
        query = sa.select(schema.accounts, ended).where(schema.accounts.c.id == account_id)
        with self._store.engine.connect() as connection:
            row = connection.execute(query).first()
        if row is None or row.disabled:
            raise TokenError("this account is disabled")
        if row.session_ended:
            raise TokenError("this session was ended by signing out; sign in again")
        if issued is not None and row.tokens_since is not None and issued < row.tokens_since:
            raise TokenError("this sign-in was ended; sign in again")
        return account_of_row(row)

    def _row(self, condition: sa.ColumnElement[bool]) -> sa.Row[Any] | None:
        with self._store.engine.connect() as connection:
            return connection.execute(sa.select(schema.accounts).where(condition)).first()

    def _password(self, password: str | None, once: bool) -> dict[str, Any]:
        if password is None:
            return {"password": None, "password_until": None}
        until = now() + timedelta(days=self._settings.one_time_password_days) if once else None
        return {"password": passwords.hashed(password), "password_until": until}

    def _require_good(self, password: str, name: str, undone: str) -> None:
        problem = passwords.problem_with(password, name, self._settings)
        if problem:
            raise AccountError(f"{problem}. {undone}")

    @staticmethod
    def _required(connection: sa.Connection, account_id: str) -> sa.Row[Any]:
        mine = schema.accounts.c.id == plain(account_id)
        row = connection.execute(sa.select(schema.accounts).where(mine)).first()
        if row is None:
            raise AccountError("there is no such account. Nothing was changed.")
        return row

    @staticmethod
    def _update(connection: sa.Connection, account_id: str, values: dict[str, Any]) -> None:
        connection.execute(sa.update(schema.accounts).where(schema.accounts.c.id == account_id).values(values))

    @staticmethod
    def _require_another_administrator(connection: sa.Connection, row: sa.Row[Any]) -> None:
        """Refuse to take the last administrator from a site: nobody could give the role back from a page."""
        if row.disabled or Role.ADMINISTRATOR not in row.roles:
            return
        table = schema.accounts
        query = sa.select(table).where(~table.c.disabled).order_by(table.c.id).with_for_update(key_share=True)
        others = [other for other in connection.execute(query) if other.id != row.id]
        if not any(Role.ADMINISTRATOR in other.roles for other in others):
            raise AccountError("this is the site's only administrator; make another one first. Nothing was changed.")


def _require_sign_in(row: sa.Row[Any]) -> None:
    """Refuse a way into an account that stands for somebody elsewhere."""
    if row.password is None and row.issuer is None:
        raise AccountError("nobody signs in to this account: it stands for reads made elsewhere. Nothing was changed.")


_UNLOCKED: dict[str, Any] = {"failures": 0, "locked_until": None}
