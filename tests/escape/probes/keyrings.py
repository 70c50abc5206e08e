"""The kernel's keyrings, which namespaces divide only in part: a key is found by its number anywhere."""

from __future__ import annotations

import ctypes

from .calls import raw
from .table import Facts, RefusedError, probe

_PROCESS, _SESSION, _USER = -2, -3, -4
_GET_ID, _JOIN_SESSION, _UPDATE, _DESCRIBE, _LINK, _SEARCH, _READ = 0, 1, 2, 6, 8, 10, 11
_SET_TIMEOUT, _GET_SECURITY, _GET_PERSISTENT, _CAPABILITIES = 15, 17, 22, 31


def _add(facts: Facts, kind: bytes, ring: int) -> int:
    payload = b"payload" if kind != b"keyring" else None
    return raw(facts, "add_key", kind, b"escape:probe", payload, len(payload or b""), ring)


def _has_token(facts: Facts, buffer: ctypes.Array[ctypes.c_char]) -> str:
    if buffer.value != facts["token"].encode():
        raise RefusedError("it was another")
    return "read the token"


@probe("keyrings", "no key can be kept in a session")
def add_a_key_to_the_session(facts: Facts) -> str:
    return f"added {_add(facts, b'user', _SESSION)}"


@probe("keyrings", "nor with the user, whose keys outlive the sandbox")
def add_a_key_to_the_user(facts: Facts) -> str:
    return f"added {_add(facts, b'user', _USER)}"


@probe("keyrings", "nor with the process")
def add_a_key_to_the_process(facts: Facts) -> str:
    return f"added {_add(facts, b'user', _PROCESS)}"


@probe("keyrings", "nor a secret one, as file systems and mounts use")
def add_a_secret_key(facts: Facts) -> str:
    return f"added {_add(facts, b'logon', _PROCESS)}"


@probe("keyrings", "no keyring can be made")
def add_a_keyring(facts: Facts) -> str:
    return f"added {_add(facts, b'keyring', _PROCESS)}"


@probe("keyrings", "no session can be joined")
def join_a_session(facts: Facts) -> str:
    return f"joined {raw(facts, 'keyctl', _JOIN_SESSION, b'escape')}"


@probe("keyrings", "the session of who started the gateway cannot be asked for")
def ask_for_the_session(facts: Facts) -> str:
    return f"it is {raw(facts, 'keyctl', _GET_ID, _SESSION, 1)}"


@probe("keyrings", "a key of the host cannot be read by its number")
def read_a_key_of_the_host(facts: Facts) -> str:
    buffer = ctypes.create_string_buffer(64)
    raw(facts, "keyctl", _READ, facts["key"], buffer, 63)
    return _has_token(facts, buffer)


@probe("keyrings", "nor described")
def describe_a_key_of_the_host(facts: Facts) -> str:
    buffer = ctypes.create_string_buffer(256)
    raw(facts, "keyctl", _DESCRIBE, facts["key"], buffer, 255)
    return f"it is {buffer.value!r}"


@probe("keyrings", "nor changed")
def change_a_key_of_the_host(facts: Facts) -> str:
    token = facts["token"].encode()
    raw(facts, "keyctl", _UPDATE, facts["key"], token, len(token))
    return "wrote it"


@probe("keyrings", "nor taken into a ring of one's own")
def link_a_key_of_the_host(facts: Facts) -> str:
    raw(facts, "keyctl", _LINK, facts["key"], _PROCESS)
    return "linked it"


@probe("keyrings", "nor given an end")
def set_the_end_of_a_key_of_the_host(facts: Facts) -> str:
    raw(facts, "keyctl", _SET_TIMEOUT, facts["key"], 3600)
    return "set its end"


@probe("keyrings", "nor its label read")
def read_the_label_of_a_key_of_the_host(facts: Facts) -> str:
    buffer = ctypes.create_string_buffer(256)
    raw(facts, "keyctl", _GET_SECURITY, facts["key"], buffer, 255)
    return "read its label"


@probe("keyrings", "nor searched for")
def search_for_a_key(facts: Facts) -> str:
    raw(facts, "keyctl", _LINK, facts["key"], _PROCESS)
    return f"found {raw(facts, 'keyctl', _SEARCH, _PROCESS, b'user', b'escape', 0)}"


@probe("keyrings", "nor asked for from a helper program of the host's")
def ask_a_helper_for_a_key(facts: Facts) -> str:
    """Of a name that is there already, so that no helper is started where it is allowed."""
    raw(facts, "keyctl", _LINK, facts["key"], _PROCESS)
    return f"got {raw(facts, 'request_key', b'user', b'escape', None, _PROCESS)}"


@probe("keyrings", "no ring that outlives every session can be had")
def get_the_persistent_ring(facts: Facts) -> str:
    return f"got {raw(facts, 'keyctl', _GET_PERSISTENT, -1, _PROCESS)}"


@probe("keyrings", "what keys can do cannot be asked")
def ask_what_keys_can_do(facts: Facts) -> str:
    buffer = ctypes.create_string_buffer(8)
    raw(facts, "keyctl", _CAPABILITIES, buffer, 8)
    return f"they can {buffer.raw.hex()}"
