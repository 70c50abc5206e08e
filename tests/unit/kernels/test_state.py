"""The table of states: what clients see of a kernel's life."""

import pytest

from gateway.kernels.state import Event, State, advance

BROUGHT_UP = [State.STARTING, State.RESTARTING, State.AUTORESTARTING]


@pytest.mark.parametrize("state", State)
def test_a_failure_makes_any_kernel_dead(state):
    assert advance(state, Event.FAILED) is State.DEAD


@pytest.mark.parametrize("state", State)
def test_readiness_ends_the_states_that_bring_a_kernel_up_and_no_other(state):
    assert advance(state, Event.READY) is (State.IDLE if state in BROUGHT_UP else None)


@pytest.mark.parametrize("state", [*BROUGHT_UP, State.DEAD])
@pytest.mark.parametrize("event", [Event.IDLE, Event.BUSY])
def test_a_late_word_of_the_relay_does_not_wake_a_kernel_that_is_not_up(state, event):
    assert advance(state, event) is None


def test_a_dead_kernel_is_only_brought_back_by_a_restart():
    assert [event for event in Event if advance(State.DEAD, event) not in (None, State.DEAD)] == [
        Event.RESTART
    ]
