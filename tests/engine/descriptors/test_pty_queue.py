"""Unread bytes of real pseudoterminals: copied without a change to the original, and
there again in another one."""

from __future__ import annotations

import errno
import os
import random
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
import pytest

from jupyter_cr.engine.descriptors.pty_queue import (
    NotTaken,
    Unread,
    copy_unread,
    put_unread,
)
from jupyter_cr.tracer import tty
from jupyter_cr.tracer.tty import Settings


@dataclass
class Pty:
    """A pseudoterminal of the test's own, neither side of which ever blocks."""

    master: int
    slave: int

    @property
    def settings(self) -> Settings:
        return tty.read_settings(self.master)

    def change(self, **changes: int) -> None:
        tty.write_settings(self.master, msgspec.structs.replace(self.settings, **changes))

    def set_character(self, name: int, value: int) -> None:
        cc = bytearray(self.settings.cc)
        cc[name] = value
        settings = msgspec.structs.replace(self.settings, cc=bytes(cc))
        tty.write_settings(self.master, settings)

    def copy(self) -> Unread:
        return copy_unread(self.master, self.slave, self.settings)

    def read_output(self) -> bytes:
        return read_all(self.master)

    def read_input(self) -> list[bytes]:
        """Each line of it; or all at once, if it is not read by lines."""
        found = []
        while poll(self.slave, select.POLLIN):
            found.append(os.read(self.slave, 65536))
        by_lines = self.settings.lflag & termios.ICANON
        return found if by_lines or not found else [b"".join(found)]

    def type(self, data: bytes) -> None:
        assert os.write(self.master, data) == len(data)
        poll(self.slave, select.POLLIN)

    def print(self, data: bytes) -> None:
        assert os.write(self.slave, data) == len(data)


def read_all(fd: int, *, until_end: bool = False) -> bytes:
    """What is there; or what comes until nobody has the other side open."""
    found = b""
    while poll(fd, select.POLLIN) or until_end:
        try:
            found += os.read(fd, 65536)
        except OSError as error:
            if not until_end or error.errno != errno.EIO:
                raise
            break
    return found


def poll(fd: int, event: int) -> bool:
    waiting = select.poll()
    waiting.register(fd, event)
    return any(events & event for _, events in waiting.poll(0))


@contextmanager
def pseudoterminal() -> Iterator[Pty]:
    master = tty.open_pseudoterminal()
    pty = Pty(master, tty.open_peer(master, os.O_RDWR | os.O_NONBLOCK))
    try:
        yield pty
    finally:
        os.close(pty.slave)
        os.close(pty.master)


RAW = {"iflag": 0, "oflag": 0, "lflag": 0}


def raw(pty: Pty) -> None:
    pty.change(**RAW)


def raw_with_minimum(pty: Pty) -> None:
    raw(pty)
    pty.set_character(termios.VMIN, 5)


def raw_without_minimum(pty: Pty) -> None:
    raw(pty)
    pty.set_character(termios.VMIN, 0)


def by_lines(pty: Pty) -> None:
    """As Linux gives it."""


def without_echo(pty: Pty) -> None:
    pty.change(lflag=pty.settings.lflag & ~termios.ECHO)


def other_ends(pty: Pty) -> None:
    pty.set_character(termios.VEOL, ord(";"))
    pty.set_character(termios.VEOL2, ord(","))


BYTES = bytes(range(256))
INPUT: dict[str, tuple[Callable[[Pty], None], bytes]] = {
    "nothing": (by_lines, b""),
    "nothing, raw": (raw, b""),
    "raw": (raw, BYTES * 3),
    "raw, less than the minimum": (raw_with_minimum, b"abc"),
    "raw, no minimum": (raw_without_minimum, b"abc"),
    "raw, nothing and no minimum": (raw_without_minimum, b""),
    "raw, nearly full": (raw, BYTES * 15),
    "a line": (by_lines, b"line\n"),
    "lines": (by_lines, b"one\ntwo\n\nfour\n"),
    "an unfinished line": (by_lines, b"unfin"),
    "an unfinished line, without echo": (without_echo, b"unfin"),
    "a long unfinished line": (without_echo, b"x" * 4000),
    "a line and an unfinished one": (by_lines, b"one\ntwo\nunfin"),
    "corrected": (by_lines, b"wrong\x15right\x7f\x7f"),
    "carriage return": (by_lines, b"one\rtwo\rthr"),
    "the end of the file": (by_lines, b"\x04"),
    "a line ended as the end of the file": (by_lines, b"one\x04two\x04\x04rest"),
    "other ends of lines": (other_ends, b"one;two,three\nfour\x16;five;rest\x16,"),
    "literal characters": (by_lines, b"".join(b"\x16" + bytes([n]) for n in range(256))),
    "literal characters in lines": (
        without_echo,
        b"".join(b"\x16" + bytes([n]) for n in range(256)) + b"\n\x16\x04\x16\n\x04a\n",
    ),
    "a stop character that means nothing": (
        lambda pty: pty.change(iflag=0, lflag=termios.ICANON | termios.IEXTEN),
        b"a\x13b\x11c\nrest\x13",
    ),
}


def play(how: str, act: Callable[[Pty], None]) -> tuple[list[bytes], bytes, bytes]:
    """All that can be read, then, after an end to the line, again; and the output."""
    prepare, data = INPUT[how]
    with pseudoterminal() as pty:
        prepare(pty)
        if data:
            pty.type(data)
        settings = pty.settings
        act(pty)
        assert pty.settings == settings
        return read(pty)


def read(pty: Pty) -> tuple[list[bytes], bytes, bytes]:
    found = pty.read_input()
    output = pty.read_output()
    pty.type(b"more;\x7f!\n")
    return [*found, b"|", *pty.read_input()], output, pty.read_output()


@pytest.mark.parametrize("how", INPUT)
def test_input_stays_as_it_is(how: str) -> None:
    untouched = play(how, lambda pty: None)
    assert play(how, lambda pty: [pty.copy() for _ in range(3)] and None) == untouched


@pytest.mark.parametrize("how", INPUT)
def test_input_comes_back(how: str) -> None:
    untouched = play(how, lambda pty: None)
    prepare, data = INPUT[how]
    with pseudoterminal() as one, pseudoterminal() as two:
        prepare(one)
        if data:
            one.type(data)
        put_unread(two.master, two.slave, one.copy(), one.settings)
        assert two.settings == one.settings
        assert read(two) == untouched


@pytest.mark.parametrize("settings", [by_lines, raw])
@pytest.mark.parametrize("size", [1, 100, 4095, 5000])
def test_output(settings: Callable[[Pty], None], size: int) -> None:
    printed = random.Random(size).randbytes(size)
    with pseudoterminal() as one, pseudoterminal() as two:
        settings(one)
        for start in range(0, size, 777):
            one.print(printed[start : start + 777])
        before = one.settings
        for _ in range(3):
            unread = one.copy()
        assert one.settings == before
        ends = b"\r\n" if before.oflag else b"\n"
        assert unread.output == printed.replace(b"\n", ends)
        put_unread(two.master, two.slave, unread, before)
        assert two.copy() == unread
        assert one.read_output() == two.read_output() == unread.output
        for pty in (one, two):
            pty.print(b"more\n")
            assert pty.read_output() == b"more" + ends


@pytest.mark.parametrize("piece", [1, 7, 255, 256, 257, 1000, 1792, 2048, 65536])
def test_full(piece: int) -> None:
    """However it came to be full: all of it can be put back."""
    with pseudoterminal() as one, pseudoterminal() as two:
        raw(one)
        written = b""
        while poll(one.slave, select.POLLOUT):
            data = random.Random(len(written)).randbytes(piece)
            try:
                written += data[: os.write(one.slave, data)]
            except BlockingIOError:
                break
        unread = one.copy()
        assert unread.output == written
        put_unread(two.master, two.slave, unread, one.settings)
        assert one.copy() == two.copy() == unread
        assert one.read_output() == two.read_output() == written


def stop_by_character(pty: Pty) -> None:
    pty.type(b"\x13")


def stop_by_call(pty: Pty) -> None:
    termios.tcflow(pty.slave, termios.TCOOFF)


def start_by_character(pty: Pty) -> None:
    pty.type(b"\x11")


def start_by_call(pty: Pty) -> None:
    termios.tcflow(pty.slave, termios.TCOON)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("settings", "stop", "start", "other"),
    [
        (by_lines, stop_by_character, start_by_character, start_by_call),
        (by_lines, stop_by_call, start_by_call, start_by_character),
        (raw, stop_by_call, start_by_call, by_lines),
    ],
)
def test_stopped_output(
    settings: Callable[[Pty], None],
    stop: Callable[[Pty], None],
    start: Callable[[Pty], None],
    other: Callable[[Pty], None],
    full: bool,
) -> None:
    """It goes on as it would have, and not otherwise."""
    with pseudoterminal() as one, pseudoterminal() as two:
        settings(one)
        one.print(b"before")
        while full and poll(one.slave, select.POLLOUT):
            os.write(one.slave, b"x" * 100)
        stop(one)
        unread = one.copy()
        assert one.copy() == unread
        assert unread.stopped
        put_unread(two.master, two.slave, unread, one.settings)
        for pty in (one, two):
            assert pty.read_output() == unread.output
            assert not poll(pty.slave, select.POLLOUT)
            other(pty)
            assert not poll(pty.slave, select.POLLOUT)
            start(pty)
            pty.print(b"more")
            assert pty.read_output() == b"more"


@pytest.mark.parametrize("size", [4093, 4094, 4095, 4096, 8000])
def test_much_raw_input(size: int) -> None:
    with pseudoterminal() as one, pseudoterminal() as two:
        raw(one)
        written = random.Random(size).randbytes(size)
        one.type(written)
        for _ in range(3):
            unread = one.copy()
        assert unread.rest == written
        put_unread(two.master, two.slave, unread, one.settings)
        for pty in (one, two):
            assert b"".join(pty.read_input()) == written
            pty.type(b"more")
            assert b"".join(pty.read_input()) == b"more"


@pytest.mark.parametrize(("size", "lflag"), [(4094, termios.ECHO), (8000, termios.ISIG)])
def test_too_much_input(size: int, lflag: int) -> None:
    """Some of it has not been processed: it is left alone."""
    with pseudoterminal() as pty:
        raw(pty)
        pty.change(lflag=lflag)
        pty.type(b"x" * size)
        with pytest.raises(NotTaken):
            pty.copy()
        assert pty.read_input() == [b"x" * size]


def test_as_much_input_as_there_can_be() -> None:
    with pseudoterminal() as pty:
        raw(pty)
        written = 0
        # Room appears as Linux moves the first of it on.
        for _ in range(50):
            while poll(pty.master, select.POLLOUT):
                written += os.write(pty.master, b"x" * 1000)
            time.sleep(0.001)
        with pytest.raises(NotTaken):
            pty.copy()
        assert pty.read_input() == [b"x" * written]


def test_too_many_lines() -> None:
    with pseudoterminal() as pty:
        pty.type(b"a line of twenty.....\n" * 150)
        with pytest.raises(NotTaken, match="unread"):
            pty.copy()
        assert len(pty.read_input()) == 150


def test_side_that_is_closed() -> None:
    with pseudoterminal() as one, pseudoterminal() as two:
        one.print(b"last words\n")
        os.close(one.slave)
        before = one.settings
        for _ in range(3):
            unread = copy_unread(one.master, None, before)
        assert unread == Unread(output=b"last words\r\n")
        assert poll(one.master, select.POLLHUP)
        assert one.settings == before
        assert os.read(one.master, 100) == b"last words\r\n"
        with pytest.raises(OSError, match="Input/output error"):
            os.read(one.master, 100)
        one.slave = os.dup(two.slave)


def test_exclusive_locked_and_in_packet_mode() -> None:
    with pseudoterminal() as pty:
        tty.set_exclusive(pty.slave, True)
        tty.set_locked(pty.master, True)
        tty.set_packet_mode(pty.master, True)
        pty.print(b"output")
        pty.type(b"input\n")
        assert pty.copy() == Unread(output=b"outputinput\r\n", lines=(b"input\n",))
        assert tty.is_exclusive(pty.slave)
        assert tty.is_locked(pty.master)
        assert tty.is_packet_mode(pty.master)
        assert not poll(pty.master, select.POLLPRI)
        assert os.read(pty.master, 100) == b"\0outputinput\r\n"
        tty.set_locked(pty.master, False)


COPYING = """
import sys
from jupyter_cr.engine.descriptors.pty_queue import copy_unread
from jupyter_cr.tracer import tty
master, slave = map(int, sys.argv[1:])
print("ready", flush=True)
while True:
    copy_unread(master, slave, tty.read_settings(master))
"""


def test_killed_while_it_copies() -> None:
    """All is where it was, whenever it comes."""
    with pseudoterminal() as pty:
        pty.print(b"output")
        pty.type(b"line\nunfin")
        before = pty.settings
        for number in range(10):
            process = subprocess.Popen(
                [sys.executable, "-c", COPYING, str(pty.master), str(pty.slave)],
                stdout=subprocess.PIPE,
                pass_fds=(pty.master, pty.slave),
            )
            with process:
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"
                time.sleep(0.0013 * number)
                process.kill()
                # Its child has it open, too, until it is done.
                assert process.stdout.read() == b""
            assert pty.settings == before
        assert pty.read_input() == [b"line\n"]
        assert pty.read_output() == b"outputline\r\nunfin"
        pty.type(b"ished\n")
        assert pty.read_input() == [b"unfinished\n"]
