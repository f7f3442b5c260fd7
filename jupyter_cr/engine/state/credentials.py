"""Who a process is: ids, groups, capabilities and what goes with them
(credentials(7), capabilities(7), prctl(2))."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec

from jupyter_cr.tracer.calls import Call
from jupyter_cr.tracer.proc.status import Status
from jupyter_cr.tracer.remote import Result

__all__ = ["Record", "collect", "collect_calls", "rebuild_calls"]

_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4
_PR_GET_KEEPCAPS, _PR_SET_KEEPCAPS = 7, 8
_PR_CAPBSET_DROP = 24
_PR_GET_SECUREBITS, _PR_SET_SECUREBITS = 27, 28
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 2, 4
_CAPABILITY_VERSION_3 = 0x20080522
_SUID_DUMP_USER = 1


class Record(msgspec.Struct, frozen=True):
    """Ids are (real, effective, saved, file system). Capability sets are bit masks."""

    uids: tuple[int, int, int, int]
    gids: tuple[int, int, int, int]
    groups: tuple[int, ...]
    inheritable: int
    permitted: int
    effective: int
    bounding: int
    ambient: int
    no_new_privs: bool
    dumpable: int
    keep_capabilities: int
    secure_bits: int


def collect_calls() -> list[Call]:
    return [
        Call("prctl", (_PR_GET_DUMPABLE,)),
        Call("prctl", (_PR_GET_KEEPCAPS,)),
        Call("prctl", (_PR_GET_SECUREBITS,)),
    ]


def collect(status: Status, results: Sequence[Result]) -> Record:
    dumpable, keep, secure = (result.value for result in results)
    return Record(
        status.uids,
        status.gids,
        status.groups,
        status.cap_inheritable,
        status.cap_permitted,
        status.cap_effective,
        status.cap_bounding,
        status.cap_ambient,
        status.no_new_privs,
        dumpable,
        keep,
        secure,
    )


def rebuild_calls(record: Record, now: Record) -> list[Call]:
    """From the credentials `now` to those recorded. In an unprivileged user namespace
    the ids are the same and only the capabilities have to be given up. Where the process
    was another user's, and we may not become that one, it is ours."""
    if record.uids != now.uids and now.uids[0] != 0 and len({*record.uids}) == 1:
        record = _adopted(record, now)
    calls: list[Call] = []
    if record.groups != now.groups and _may_set_groups(now):
        groups = struct.pack(f"<{len(record.groups)}I", *record.groups)
        calls.append(Call("setgroups", (len(record.groups), groups)))
    calls += [
        Call("prctl", (_PR_CAPBSET_DROP, capability))
        for capability in _members(now.bounding & ~record.bounding)
    ]
    if record.gids != now.gids:
        calls.append(Call("setresgid", record.gids[:3]))
        calls.append(Call("setfsgid", (record.gids[3],)))
    if record.uids != now.uids:
        calls.append(Call("prctl", (_PR_SET_KEEPCAPS, 1)))
        calls.append(Call("setresuid", record.uids[:3]))
        calls.append(Call("setfsuid", (record.uids[3],)))
    if record.secure_bits != now.secure_bits:
        calls.append(Call("prctl", (_PR_SET_SECUREBITS, record.secure_bits)))
    calls.append(Call("capset", (_HEADER, _sets(record))))
    calls.append(
        Call("prctl", (_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), optional=True)
    )
    calls += [
        Call("prctl", (_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0))
        for capability in _members(record.ambient)
    ]
    if not record.secure_bits & _SECURE_KEEP_CAPS_LOCKED:
        calls.append(Call("prctl", (_PR_SET_KEEPCAPS, record.keep_capabilities)))
    if record.no_new_privs:
        calls.append(Call("prctl", (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)))
    if record.dumpable in (0, _SUID_DUMP_USER):
        calls.append(Call("prctl", (_PR_SET_DUMPABLE, record.dumpable)))
    return calls


def _adopted(record: Record, now: Record) -> Record:
    return msgspec.structs.replace(
        record,
        uids=now.uids,
        gids=now.gids,
        groups=now.groups,
        inheritable=0,
        permitted=0,
        effective=0,
        ambient=0,
    )


_HEADER = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0)
_SECURE_KEEP_CAPS_LOCKED = 1 << 5


def _may_set_groups(now: Record) -> bool:
    return bool(now.effective >> _CAP_SETGID & 1) and now.uids[0] == 0


_CAP_SETGID = 6


def _members(mask: int) -> list[int]:
    return [number for number in range(64) if mask >> number & 1]


def _sets(record: Record) -> bytes:
    """struct __user_cap_data_struct[2] of capget(2)."""
    sets = (record.effective, record.permitted, record.inheritable)
    low = (value & 0xFFFFFFFF for value in sets)
    high = (value >> 32 for value in sets)
    return struct.pack("<6I", *low, *high)
