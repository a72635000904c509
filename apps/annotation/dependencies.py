"""What the annotation routes are given: the caller, once permitted, and the parts of the running server."""

from typing import Annotated

from fastapi import Depends, Request

from apps.annotation.inference_queue import InferenceQueue
from apps.annotation.main import OverreadApp
from apps.annotation.sessions import Sessions
from apps.identity import Caller, requires
from labeling_protocols.records import Role

Anyone = Annotated[Caller, requires()]
Reader = Annotated[Caller, requires(Role.READER)]
# Who draws: readers their reads, and those who adjudicate what they edit for a decision.
Drawer = Annotated[Caller, requires(Role.READER, Role.ADJUDICATOR, Role.ADMINISTRATOR)]
Worker = Annotated[Caller, requires(Role.READER, Role.ADJUDICATOR, Role.ENGINEER, Role.ADMINISTRATOR)]
Adjudicator = Annotated[Caller, requires(Role.ADJUDICATOR, Role.ADMINISTRATOR)]
Engineer = Annotated[Caller, requires(Role.ENGINEER, Role.ADMINISTRATOR)]


def _overread(request: Request) -> OverreadApp:
    app: OverreadApp = request.app.state.annotation
    return app


def _sessions(request: Request) -> Sessions:
    sessions: Sessions = request.app.state.sessions
    return sessions


def _queue(request: Request) -> InferenceQueue:
    queue: InferenceQueue = request.app.state.inference
    return queue


Overread = Annotated[OverreadApp, Depends(_overread)]
TheSessions = Annotated[Sessions, Depends(_sessions)]
TheQueue = Annotated[InferenceQueue, Depends(_queue)]
