"""The queue of inferences: order, limits, places, and work that is left once nobody waits for it."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from apps.annotation.calling import caller_or_nobody, calling
from apps.annotation.inference_queue import BusyError, InferenceQueue, Place, TooLongError
from labeling_protocols.records import Account, Role
from tests.annotation.served import Served
from training.stopping import InferenceStopped, Stopped, go_on

LIMIT_S = 20.0


@dataclass
class Work:
    """An inference that goes on until it is let go, or stopped; `begun` says that its turn came."""

    name: str = "label"
    begun: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)
    left: bool = False

    def __call__(self, stopped: Stopped) -> str:
        self.begun.set()
        while not self.let_go.wait(0.01):
            if stopped():
                self.left = True
            go_on(stopped)
        return self.name


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(scenario(), LIMIT_S)

    with ThreadPoolExecutor(1) as own:  # a browser's test leaves its event loop in this thread
        own.submit(asyncio.run, bounded()).result()


async def came_true(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_inferences_of_a_device_run_one_after_the_other_in_their_order() -> None:
    async def scenario() -> None:
        queue = InferenceQueue()
        works = [Work(str(number)) for number in range(3)]
        asked = [asyncio.ensure_future(queue.run(work, model=f"model {work.name}")) for work in works]
        for number, work in enumerate(works):
            await came_true(work.begun.is_set)
            assert [later.begun.is_set() for later in works[number + 1 :]] == [False] * (2 - number)
            work.let_go.set()
            assert await asked[number] == str(number)
        assert queue.counts == (0, 0)

    run(scenario)


def test_another_device_and_an_urgent_one_do_not_wait() -> None:
    async def scenario() -> None:
        queue = InferenceQueue()
        works = [Work(), Work(), Work()]
        asked = [
            asyncio.ensure_future(queue.run(works[0], model="a")),
            asyncio.ensure_future(queue.run(works[1], model="b", device="cuda")),
            asyncio.ensure_future(queue.run(works[2], model="a", urgent=True)),
        ]
        await came_true(lambda: all(work.begun.is_set() for work in works))
        for work in works:
            work.let_go.set()
        assert await asyncio.gather(*asked) == ["label"] * 3

    run(scenario)


def test_a_model_at_its_limit_holds_no_other_model_up() -> None:
    async def scenario() -> None:
        queue = InferenceQueue(at_once=2, model_at_once=1)
        first, same, other = Work("first"), Work("same"), Work("other")
        asked = [
            asyncio.ensure_future(queue.run(work, model=model))
            for work, model in ((first, "a"), (same, "a"), (other, "b"))
        ]
        await came_true(other.begun.is_set)
        assert not same.begun.is_set()
        first.let_go.set()
        await came_true(same.begun.is_set)
        same.let_go.set()
        other.let_go.set()
        assert await asyncio.gather(*asked) == ["first", "same", "other"]

    run(scenario)


def test_whoever_comes_when_too_many_wait_is_turned_away_in_words() -> None:
    async def scenario() -> None:
        queue = InferenceQueue(waiting_max=1)
        works = [Work(), Work()]
        asked = [asyncio.ensure_future(queue.run(work, model="a")) for work in works]
        await came_true(works[0].begun.is_set)
        with pytest.raises(BusyError, match="1 inferences wait already"):
            await queue.run(Work(), model="a")
        for work in works:
            work.let_go.set()
        await asyncio.gather(*asked)
        assert await queue.run(lambda _: "again", model="a") == "again"

    run(scenario)


def test_a_client_that_goes_away_frees_the_device_for_the_next() -> None:
    async def scenario() -> None:
        queue = InferenceQueue()
        away = False

        async def gone() -> bool:
            return away

        left, next_one = Work(), Work("next")
        first = asyncio.ensure_future(queue.run(left, model="a", gone=gone))
        second = asyncio.ensure_future(queue.run(next_one, model="a"))
        await came_true(left.begun.is_set)
        away = True
        with pytest.raises(InferenceStopped, match="went away"):
            await first
        next_one.let_go.set()
        assert await second == "next"
        assert left.left

    run(scenario)


def test_one_who_goes_away_while_he_waits_is_never_worked_for() -> None:
    async def scenario() -> None:
        queue = InferenceQueue()

        async def gone() -> bool:
            return True

        running, waiting = Work(), Work()
        first = asyncio.ensure_future(queue.run(running, model="a"))
        await came_true(running.begun.is_set)
        with pytest.raises(InferenceStopped):
            await queue.run(waiting, model="a", gone=gone)
        assert queue.counts == (1, 0)
        running.let_go.set()
        await first
        assert not waiting.begun.is_set()

    run(scenario)


def test_a_request_whose_task_is_cancelled_is_left_too() -> None:
    async def scenario() -> None:
        queue = InferenceQueue()
        work = Work()
        asked = asyncio.ensure_future(queue.run(work, model="a"))
        await came_true(work.begun.is_set)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await came_true(lambda: queue.counts == (0, 0))
        assert work.left

    run(scenario)


def test_after_its_time_a_request_is_answered_in_words_and_its_work_left() -> None:
    async def scenario() -> None:
        queue = InferenceQueue(timeout_s=0.1)
        work, waiting = Work(), Work()
        asked = [asyncio.ensure_future(queue.run(one, model="a")) for one in (work, waiting)]
        for one in asked:
            with pytest.raises(TooLongError, match="Nothing was proposed"):
                await one
        await came_true(lambda: queue.counts == (0, 0))
        assert work.left

    run(scenario)


def test_the_device_is_not_given_to_the_next_before_the_work_has_really_ended() -> None:
    async def scenario() -> None:
        queue = InferenceQueue()
        ended = threading.Event()

        def stubborn(stopped: Stopped) -> str:
            assert ended.wait(LIMIT_S)
            return "too late"

        with pytest.raises(TooLongError):
            await queue.run(stubborn, model="a", timeout_s=0.05)
        later = Work()
        asked = asyncio.ensure_future(queue.run(later, model="b"))
        await asyncio.sleep(0)
        assert (queue.counts, later.begun.is_set()) == ((1, 1), False)
        ended.set()
        later.let_go.set()
        assert await asked == "label"

    run(scenario)


def test_what_work_raises_reaches_the_caller_and_the_next_goes_on() -> None:
    async def scenario() -> None:
        queue = InferenceQueue()

        def broken(_: Stopped) -> str:
            raise ValueError("no such image")

        with pytest.raises(ValueError, match="no such image"):
            await queue.run(broken, model="a")
        assert await queue.run(lambda _: "next", model="a") == "next"

    run(scenario)


def test_a_caller_sees_his_own_places_and_of_others_only_how_many_wait() -> None:
    async def scenario() -> None:
        queue = InferenceQueue()
        works = [Work() for _ in range(4)]
        callers = ("ann", "ben", "ann", "ben")
        asked = [
            asyncio.ensure_future(queue.run(work, model=f"model of {caller}", caller=caller))
            for work, caller in zip(works, callers, strict=True)
        ]
        await came_true(works[0].begun.is_set)
        assert queue.places("ann") == [
            Place(model="model of ann", position=0, waiting=3),
            Place(model="model of ann", position=2, waiting=3),
        ]
        assert [place.position for place in queue.places("ben")] == [1, 3]
        assert queue.places("nobody") == []
        assert queue.counts == (1, 3)
        for work in works:
            work.let_go.set()
        await asyncio.gather(*asked)
        assert queue.places("ann") == []

    run(scenario)


def test_work_knows_who_called() -> None:
    account = Account(id="a1", name="ann", roles=frozenset({Role.READER}), disabled=False)

    async def scenario() -> None:
        queue = InferenceQueue()
        with calling(account):
            seen = await queue.run(lambda _: caller_or_nobody(), model="a")
        assert seen == account

    run(scenario)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts the priority of each thread")
def test_work_runs_at_a_lower_priority_than_the_server_and_urgent_work_between() -> None:
    def niceness(_: Stopped) -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    async def scenario() -> None:
        queue = InferenceQueue()
        mine = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        ordinary = await queue.run(niceness, model="a")
        urgent = await queue.run(niceness, model="a", urgent=True)
        assert ordinary >= max(15, mine)
        assert mine <= urgent <= ordinary
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == mine

    run(scenario)


def test_closing_stops_what_runs_and_turns_away_what_waits() -> None:
    async def scenario() -> None:
        queue = InferenceQueue()
        works = [Work(), Work()]
        asked = [asyncio.ensure_future(queue.run(work, model="a")) for work in works]
        await came_true(works[0].begun.is_set)
        await asyncio.get_running_loop().run_in_executor(None, queue.close)
        for one in asked:
            with pytest.raises(InferenceStopped):
                await one
        assert works[0].left
        assert not works[1].begun.is_set()

    run(scenario)


def test_a_reader_asks_where_his_inferences_stand(served: Served) -> None:
    reader = served.account()
    answer = served.session(reader).get(f"{served.url}/infer/queue")
    assert answer.status_code == 200
    assert answer.json() == {"running": 0, "waiting": 0, "own": []}
