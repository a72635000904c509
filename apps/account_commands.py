"""`overread account …`: accounts made, changed and listed, personal addresses, and the keys that sign tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.table import Table

from apps import passwords
from apps.accounts import AccountError, Accounts
from apps.console import COMMAND_LINE, HERE, SiteOption, console, lines, opened_store
from apps.settings import Site
from labeling_protocols.records import Account, Role

account_app = typer.Typer(no_args_is_help=True, help="Make and change accounts.")

_Roles = Annotated[list[Role], typer.Option("--role", help="May be given several times.")]
_Once = Annotated[bool, typer.Option("--one-time", help="Opens /sign-in once, to choose another; viewers refuse it.")]
_Groups = Annotated[list[str] | None, typer.Option("--group", help="May be given several times.")]


@account_app.command("add")
def account_add(
    name: str,
    role: _Roles,
    group: _Groups = None,
    password: Annotated[str | None, typer.Option(help="Made up and printed once where it is not given.")] = None,
    one_time: _Once = False,
    site: SiteOption = HERE,
) -> None:
    """Make an account."""
    chosen = password or passwords.made_up()
    with _opened(site) as (accounts, _):
        accounts.add(name, chosen, frozenset(role), frozenset(group or ()), once=one_time)
    shown = "" if password else f", {_shown(chosen, one_time)}"
    lines.print(f"Account [bold]{name}[/] ({', '.join(role)}){shown}")


@account_app.command("list")
def account_list(site: SiteOption = HERE) -> None:
    """List the accounts and the pseudonyms that stand for them in reads."""
    table = Table("Name", "Roles", "Groups", "Pseudonym", "Signs in with", "State")
    with _opened(site) as (accounts, _):
        for one in accounts.details():
            own = "one-time password" if one.awaits_own_password else "password"
            how = one.provider or (own if one.signs_in else "nothing")
            locked = f"locked until {one.locked_until:%H:%M UTC}" if one.locked_until else "active"
            state = "disabled" if one.account.disabled else locked
            groups = ", ".join(sorted(one.account.groups))
            table.add_row(one.account.name, ", ".join(sorted(one.account.roles)), groups, one.account.id, how, state)
    console.print(table)


@account_app.command("password")
def account_password(name: str, one_time: _Once = False, site: SiteOption = HERE) -> None:
    """Give an account a new password, printed once; ends its lock-out, its sessions and its addresses."""
    with _opened(site) as (accounts, _):
        password = accounts.reset_password(_named(accounts, name).id, actor=COMMAND_LINE, once=one_time)
    lines.print(f"{name}: {_shown(password, one_time)}")


@account_app.command("roles")
def account_roles(name: str, role: _Roles, site: SiteOption = HERE) -> None:
    """Give an account these roles and no others; ends its sessions."""
    with _opened(site) as (accounts, _):
        accounts.change(_named(accounts, name).id, actor=COMMAND_LINE, roles=frozenset(role))
    lines.print(f"{name} is now {', '.join(sorted(role))}.")


@account_app.command("groups")
def account_groups(name: str, group: _Groups = None, site: SiteOption = HERE) -> None:
    """Put an account into these groups and no others; into none where none is given."""
    with _opened(site) as (accounts, _):
        accounts.change(_named(accounts, name).id, actor=COMMAND_LINE, groups=frozenset(group or ()))
    lines.print(f"{name} is now in {', '.join(sorted(group)) if group else 'no group'}.")


@account_app.command("disable")
def account_disable(name: str, site: SiteOption = HERE) -> None:
    """Refuse an account at once; what it did stays. Ends its sessions and addresses."""
    with _opened(site) as (accounts, _):
        accounts.change(_named(accounts, name).id, actor=COMMAND_LINE, disabled=True)
    lines.print(f"{name} is disabled.")


@account_app.command("enable")
def account_enable(name: str, site: SiteOption = HERE) -> None:
    """Let a disabled account sign in again."""
    with _opened(site) as (accounts, _):
        accounts.change(_named(accounts, name).id, actor=COMMAND_LINE, disabled=False)
    lines.print(f"{name} is enabled.")


@account_app.command("unlock")
def account_unlock(name: str, site: SiteOption = HERE) -> None:
    """End the lock-out that wrong passwords led to."""
    with _opened(site) as (accounts, _):
        accounts.unlock(_named(accounts, name).id, actor=COMMAND_LINE)
    lines.print(f"{name} is unlocked.")


@account_app.command("address")
def account_address(
    name: str,
    days: Annotated[int, typer.Option(min=1, help="How long it is valid.")] = 30,
    title: Annotated[str, typer.Option(help="What it is for, as the list shows it.")] = "",
    revoke: Annotated[bool, typer.Option("--revoke", help="End every address of this account instead.")] = False,
    site: SiteOption = HERE,
) -> None:
    """Make a personal server address for a viewer that cannot sign in; whoever has it acts as this account."""
    with _opened(site) as (accounts, opened):
        account = _named(accounts, name)
        if revoke:
            ended = accounts.addresses.revoke_all(account.id, actor=COMMAND_LINE)
            lines.print(f"{ended} address(es) of {name} ended.")
            return
        secret = accounts.new_address(account, days=days, title=title)
    # Printed plainly, so that a narrow terminal does not break it in two.
    print(f"http://{opened.config.web.host}:{opened.config.web.port}/u/{secret}")


@account_app.command("addresses")
def account_addresses(name: str, site: SiteOption = HERE) -> None:
    """List an account's personal addresses, without their secrets."""
    table = Table("Address", "For", "Made", "Ends", "Last used")
    with _opened(site) as (accounts, _):
        for one in accounts.addresses.of(_named(accounts, name).id):
            ends = "revoked" if one.revoked else f"{one.expires:%Y-%m-%d}" if one.in_use else "ended"
            used = f"{one.last_used:%Y-%m-%d %H:%M UTC}" if one.last_used else "never"
            table.add_row(one.id, one.title, f"{one.created:%Y-%m-%d}", ends, used)
    console.print(table)


@account_app.command("revoke")
def account_revoke(name: str, address: str, site: SiteOption = HERE) -> None:
    """End one personal address, named as `overread account addresses` lists it."""
    with _opened(site) as (accounts, _):
        accounts.addresses.revoke(_named(accounts, name).id, address, actor=COMMAND_LINE)
    lines.print(f"Address {address} of {name} ended.")


@account_app.command("rotate-keys")
def account_rotate_keys(
    at_once: Annotated[bool, typer.Option("--at-once", help="End every session now: a key may be known.")] = False,
    site: SiteOption = HERE,
) -> None:
    """Sign tokens with a new key from now on; older keys verify until the tokens they signed have expired."""
    with _opened(site) as (accounts, _):
        kid = accounts.rotate_keys(actor=COMMAND_LINE, at_once=at_once)
    rest = "Everybody has to sign in again." if at_once else "Nobody has to sign in again."
    lines.print(f"Tokens are signed with key {kid} now. {rest}")


@contextmanager
def _opened(folder: SiteOption) -> Iterator[tuple[Accounts, Site]]:
    with opened_store(folder) as (site, store):
        yield Accounts(store, site), site


def _shown(password: str, one_time: bool) -> str:
    what, then = ("one-time password", "; /sign-in asks for another") if one_time else ("password", "")
    return f"{what} [bold]{password}[/] (shown this once{then})"


def _named(accounts: Accounts, name: str) -> Account:
    account = accounts.find(name)
    if account is None:
        raise AccountError("no account of this name. Nothing was done.")
    return account
