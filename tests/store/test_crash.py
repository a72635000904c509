"""Processes killed at random moments: what they acknowledged is there, nothing is half there, the next one goes on."""

import contextlib
import itertools
import os
import random
import select
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from sqlalchemy.exc import OperationalError

from apps.accounts import Accounts
from apps.settings import Site
from labeling_protocols.adjudications import adjudicate, adjudications
from labeling_protocols.disputes import DisputeError, claim, release, reopen, standing_over
from labeling_protocols.edits import begin_edit, edits, save_edit
from labeling_protocols.engine import UnusableDatabaseError
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Outcome, Part, Role
from labeling_protocols.settlement import settle
from labeling_protocols.store import SeatError, Store, WithdrawalError
from labeling_protocols.verification import verify
from labeling_protocols.worklist import next_case, own_work, seats
from tests.conftest import OBLIQUE, image_of, label_of
from tests.postgres import Postgres, running_postgres
from tests.store.machine_code import load_machine_code

_ALONGSIDE = 2  # processes at once, so that one dies while another writes
_MOST_LINES = 12  # two an act
_LONGEST_S = 0.02  # after the last of them
_LIMIT_S = 60.0
_REFUSALS = (SeatError, WithdrawalError, DisputeError)
_GONE = "the database is gone"


@dataclass(frozen=True, kw_only=True)
class People:
    readers: tuple[str, ...]
    judges: tuple[str, ...]


@dataclass
class Tally:
    """What the killed processes said: `acknowledged` acts, and what each was about when it died."""

    kills: int
    acknowledged: set[tuple[str, ...]]
    interrupted: Counter[str]


class Child:
    """One process that reads, withdraws and adjudicates until it is killed, and says so line by line."""

    def __init__(self, url: str, site: Site, people: People, seed: int, acts: int | None = None) -> None:
        self._content = b""
        self._pipe, its = os.pipe()
        self.id = os.fork()
        if self.id == 0:
            os.close(self._pipe)
            try:
                _live(url, site, people, random.Random(seed), its, acts)
            except (OperationalError, UnusableDatabaseError):
                _say(its, _GONE)
            except BaseException:  # noqa: BLE001  told to the parent, whose test then fails
                _say(its, f"ERROR {traceback.format_exc()!r}")
            finally:
                os._exit(0)
        os.close(its)

    def kill(self) -> None:
        os.kill(self.id, signal.SIGKILL)

    def said(self) -> list[str]:
        """Its lines, once it is dead; the last may be cut."""
        while piece := os.read(self._pipe, 1 << 16):
            self._content += piece
        os.close(self._pipe)
        os.waitpid(self.id, 0)
        return self._content.decode().split("\n")[:-1]

    def wait_for(self, lines: int) -> None:
        """Wait until it has said so many lines, or is dead."""
        while self._content.count(b"\n") < lines and select.select([self._pipe], [], [], _LIMIT_S)[0]:
            piece = os.read(self._pipe, 1 << 16)
            if not piece:
                return
            self._content += piece


@pytest.fixture
def store(site: Site, database_url: str, protocol: Protocol) -> Iterator[Store]:
    store = Store(database_url, site.blobs)
    store.add_protocol(replace(protocol, name="crash"))
    yield store
    store.close()


@pytest.fixture
def people(accounts: Accounts) -> People:
    readers = tuple(
        accounts.add(f"reader-{number}", "a-long-password", frozenset({Role.READER})).id for number in range(4)
    )
    judges = tuple(
        accounts.add(f"judge-{number}", "a-long-password", frozenset({Role.ADJUDICATOR})).id for number in range(2)
    )
    return People(readers=readers, judges=judges)


def drill(store: Store, url: str, site: Site, people: People, kills: int, disturb: Callable[[int], None]) -> Tally:
    """Kill so many processes, each at a random moment of its work; `disturb` is told the number before each kill."""
    chance = random.Random(kills)
    seeds = itertools.count()
    tally = Tally(kills=kills, acknowledged=set(), interrupted=Counter())
    load_machine_code()
    store.engine.dispose()  # SQLite's locks do not survive a fork
    alive = [Child(url, site, people, next(seeds)) for _ in range(_ALONGSIDE)]
    for number in range(kills):
        child = alive.pop(0)
        child.wait_for(chance.randint(1, _MOST_LINES))
        disturb(number)
        time.sleep(chance.uniform(0, _LONGEST_S))  # the random moment itself
        child.kill()
        _count(tally, child.said())
        alive.append(Child(url, site, people, next(seeds)))
    for child in alive:
        child.kill()
        _count(tally, child.said())
    last = Child(url, site, people, next(seeds), acts=40)  # goes on where the others were killed, to a good end
    said = last.said()
    assert said[-1] == "done", said[-1]
    _count(tally, said)
    return tally


def assert_kept(store: Store, site: Site, tally: Tally) -> None:
    """Every acknowledged act is there, and what is there fits together."""
    lost = [act for act in tally.acknowledged if not _is_there(store, act)]
    assert lost == []
    found = verify(store, site.public_key)
    assert [finding.words for finding in found.findings] == []
    said = Counter(act[0] for act in tally.acknowledged)
    print(f"{tally.kills} kills, of them within {dict(tally.interrupted)}; acknowledged {dict(said)}; lost 0")
    print(
        f"{found.rows} rows, {found.blobs} blobs, {found.leftovers} blobs without a row, {found.chain.entries} entries"
    )


@pytest.fixture(scope="module")
def durable_postgres() -> Iterator[Postgres]:
    with running_postgres(fsync=True) as server:
        yield server


@pytest.fixture
def database_url(request: pytest.FixtureRequest, site: Site) -> str:
    if getattr(request, "param", "sqlite") == "sqlite":
        return site.database_url
    return str(request.getfixturevalue("durable_postgres").new_database())


BOTH = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@BOTH
def test_twenty_kills_lose_nothing(store: Store, site: Site, database_url: str, people: People) -> None:
    assert_kept(store, site, drill(store, database_url, site, people, 20, lambda number: None))


@pytest.mark.slow
@BOTH
def test_three_hundred_kills_lose_nothing(store: Store, site: Site, database_url: str, people: People) -> None:
    tally = drill(store, database_url, site, people, 300, lambda number: None)
    assert {"claim", "save", "withdraw", "adjudicate", "hold", "edit"} <= tally.interrupted.keys()
    assert_kept(store, site, tally)


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_postgresql_that_is_killed_too_loses_nothing(
    store: Store, site: Site, database_url: str, people: People, durable_postgres: Postgres
) -> None:
    killed: Counter[str] = Counter()

    def disturb(number: int) -> None:
        if number % 12 == 5:
            killed["backend"] += durable_postgres.kill_a_backend()
            durable_postgres.wait_until_ready()
        elif number % 12 == 11:
            durable_postgres.kill()
            durable_postgres.start()
            killed["server"] += 1

    tally = drill(store, database_url, site, people, 72, disturb)
    assert_kept(store, site, tally)
    assert killed["server"] == 6
    assert killed["backend"] >= 4
    print(f"PostgreSQL killed: {dict(killed)}")


def _live(url: str, site: Site, people: People, chance: random.Random, pipe: int, acts: int | None) -> None:
    """Act at random, `acts` times or for ever; each act is announced before it begins and acknowledged after."""
    store = Store(url, site.blobs)
    choices = ("claim", "save", "save", "save", "withdraw", "adjudicate", "hold", "edit", "reopen")
    for number in itertools.count():
        if number == acts:
            _say(pipe, "done")
            return
        act = chance.choice(choices)
        _say(pipe, f"begin {act}")
        with contextlib.suppress(*_REFUSALS):  # the process beside this one came first
            for words in _act(store, site, people, chance, act):
                _say(pipe, words)


def _act(store: Store, site: Site, people: People, chance: random.Random, act: str) -> Iterator[str]:
    reader = chance.choice(people.readers)
    if act == "claim":
        case = next_case(store, "crash", reader)
        if case is None:
            seed = chance.randrange(1 << 30)
            case, _ = store.add_case(protocol="crash", patient="P", volume=image_of(seed), modality="MR")
            yield f"ack add {case.id}"
        else:
            yield f"ack claim {case.id} {reader}"
    elif act in ("adjudicate", "hold", "edit", "reopen"):
        yield from _settle(store, site, people, chance, act)
    else:
        work = own_work(store, "crash", reader)
        if work and act == "save":
            saved = store.save_read(case_id=chance.choice(work[:3]).case, reader=reader, label=_label(chance))
            yield f"ack save {saved.case} {reader} {saved.revision} {saved.label}"
        elif work:
            case_id = chance.choice(work).case
            taken_back = store.withdraw(case_id=case_id, reader=reader, actor=reader, reason="a slip")
            yield f"ack withdraw {case_id} {reader} {taken_back.revision}"


def _settle(store: Store, site: Site, people: People, chance: random.Random, act: str) -> Iterator[str]:
    """What an adjudicator does with a dispute: hold or give back, draw, decide, reopen."""
    wanted = (Outcome.SETTLED,) if act == "reopen" else (Outcome.UNJUDGED, Outcome.DISPUTED)
    known = store.cases("crash", wanted) or store.cases("crash")
    if not known:
        return
    case_id, judge = chance.choice(known).id, chance.choice(people.judges)
    if act == "reopen":
        found = reopen(store, case_id, judge, "look again")
        yield f"ack reopen {case_id} {found.round}"
        return
    settle(store, case_id)
    reads = store.latest_reads(case_id)
    if act == "hold":
        held = (claim if chance.random() < 0.5 else release)(store, case_id, judge)
        yield f"ack hold {case_id} {held.round}"
    elif act == "edit":
        begin_edit(store, case_id, judge, "consensus:majority")
        edit = save_edit(store, case_id, judge, _label(chance))
        yield f"ack edit {case_id} {judge} {edit.round} {edit.revision} {edit.label}"
    elif reads:
        first, second = chance.choice(reads), chance.choice(reads)
        parts = [Part(source=f"reader:{first.reader}")]
        if chance.random() < 0.5:
            parts.append(Part(source=f"reader:{second.reader}", structure="posterior"))
        decision = adjudicate(
            store,
            case_id=case_id,
            adjudicator=judge,
            parts=parts,
            rationale="the border is plain",
            signing_key=site.signing_key,
        )
        yield f"ack adjudicate {case_id} {decision.signature}"


def _label(chance: random.Random) -> Label:
    array_ZYX = label_of(chance.choice((0, 0, 3))).array_ZYX.copy()
    array_ZYX[-1].ravel()[:20] = [chance.randrange(2) for _ in range(20)]
    return Label(geometry=OBLIQUE, layers_LZYX=array_ZYX.astype(np.uint8)[np.newaxis])


def _say(pipe: int, words: str) -> None:
    os.write(pipe, f"{words}\n".encode())


def _count(tally: Tally, said: list[str]) -> None:
    for words in said:
        assert not words.startswith("ERROR"), words
        if words.startswith("ack "):
            tally.acknowledged.add(tuple(words.split()[1:]))
    if said and said[-1].startswith("begin "):
        tally.interrupted[said[-1].split()[1]] += 1


def _is_there(store: Store, act: tuple[str, ...]) -> bool:
    kind, case_id, *rest = act
    if kind == "add":
        return store.image(store.case(case_id)).geometry.difference(OBLIQUE, tolerance_mm=1e-3) is None
    if kind == "claim":
        return rest[0] in {seat.reader for seat in seats(store, case_id)}
    if kind == "adjudicate":
        return rest[0] in {decision.signature for decision in adjudications(store, case_id)}
    if kind in ("hold", "reopen"):
        found = standing_over(store, case_id)
        return found is not None and found.round >= int(rest[0])
    if kind == "edit":
        of_round = {(edit.round, edit.revision): edit.label for edit in edits(store, case_id, rest[0])}
        return of_round.get((int(rest[1]), int(rest[2]))) == rest[3]
    kept = {str(read.revision): read for read in store.reads(case_id, rest[0])}
    read = kept.get(rest[1])
    if read is None:
        return False
    return (
        read.withdrawn
        if kind == "withdraw"
        else read.label == rest[2] and bool(store.label(read.label).layers_LZYX.any())
    )
