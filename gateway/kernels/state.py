"""The life of a kernel as a table.

::

    starting --ready--> idle <--busy/idle--> busy
        |                 |                    |
        +-- died ---------+------ died --------+--> autorestarting --ready--> idle
        |                 |                    |
        |                 +----- restart ------+--> restarting ------ready--> idle
        |                                                |
        +---------------- failed (from any) ---> dead ---+ restart

A dead kernel keeps its id, its clients and its reason, and can be restarted. What is not in the table does
not happen: `advance` refuses it, so that a late word from a relay cannot wake a kernel that is
being restarted.
"""

from __future__ import annotations

import enum


class State(enum.StrEnum):
    """What clients read as `execution_state`."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    RESTARTING = "restarting"
    AUTORESTARTING = "autorestarting"
    DEAD = "dead"


class Event(enum.Enum):
    """What moves a kernel from one state to the next."""

    READY = enum.auto()
    IDLE = enum.auto()
    BUSY = enum.auto()
    DIED = enum.auto()
    RESTART = enum.auto()
    FAILED = enum.auto()


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.STARTING, Event.READY): State.IDLE,
    (State.RESTARTING, Event.READY): State.IDLE,
    (State.AUTORESTARTING, Event.READY): State.IDLE,
    (State.IDLE, Event.BUSY): State.BUSY,
    (State.BUSY, Event.BUSY): State.BUSY,
    (State.IDLE, Event.IDLE): State.IDLE,
    (State.BUSY, Event.IDLE): State.IDLE,
    # Of a kernel that a gateway adopts: it died before.
    (State.STARTING, Event.DIED): State.AUTORESTARTING,
    (State.IDLE, Event.DIED): State.AUTORESTARTING,
    (State.BUSY, Event.DIED): State.AUTORESTARTING,
    (State.AUTORESTARTING, Event.DIED): State.AUTORESTARTING,
    (State.IDLE, Event.RESTART): State.RESTARTING,
    (State.BUSY, Event.RESTART): State.RESTARTING,
    (State.AUTORESTARTING, Event.RESTART): State.RESTARTING,
    (State.RESTARTING, Event.RESTART): State.RESTARTING,
    (State.DEAD, Event.RESTART): State.RESTARTING,
    **{(state, Event.FAILED): State.DEAD for state in State},
}


def advance(state: State, event: Event) -> State | None:
    """The next state, or None where the event does not apply in `state`."""
    return TRANSITIONS.get((state, event))
