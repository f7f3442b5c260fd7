"""What was written to a pseudoterminal and not yet read, in both directions.

Linux has no way to look at it: it can only be read. So it is taken out and put back
while the tree stands still, with settings under which nothing is made of it a second
time (no echo, no signals, no change of line ends). A child of ours does that: were we
killed meanwhile, it would go on and put all back.

Input comes from the master side. Where it is read by lines, a line may be unfinished;
then it can be read only while reading by lines is off. What cannot be seen is lost: a
literal-next character (^V) with nothing behind it yet, and at which column a terminal is
that expands tabs itself (XTABS).
"""

from __future__ import annotations

__all__ = ["NotTaken", "Unread", "copy_unread", "put_unread"]

import errno
import os
import select
import signal
import termios
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Literal, NoReturn

import msgspec

from jupyter_cr.errors import EngineError
from jupyter_cr.tracer import tty
from jupyter_cr.tracer.tty import Settings

_MOST = 4093
"""Linux keeps 4,095 bytes of processed input for each terminal (N_TTY_BUF_SIZE), and with
some settings (PARMRK) takes two bytes less for full. What comes after that waits in front,
not yet processed."""
_MOST_IN_LINES = 2048
"""Where lines are unread, an unfinished one behind them may fill up the rest."""
_PIECE, _LAST = 256, 1792
"""What Linux allocates for a terminal's bytes (tty_buffer_alloc, TTY_BUFFER_PAGE), least
and most. It allocates until 8 KiB are used; so the least, and at last the most, is how
as much fits in as ever can have been in there."""
_LIMIT = 5.0

Stopped = Literal["", "character", "tcflow"]


class NotTaken(Exception):
    """It could not be put back as it is, and has not been taken out."""


class Unread(msgspec.Struct, frozen=True, tag=True):
    """Of one pseudoterminal."""

    output: bytes = b""
    """For the master side to read."""
    lines: tuple[bytes, ...] = ()
    """For the slave side to read, if it reads by lines: each is one read(2). One without
    an end is what was ended by the end-of-file character."""
    rest: bytes = b""
    """The unfinished line; or all, if it does not read by lines."""
    stopped: Stopped = ""
    """Whether output is stopped, by the stop character (^S) or by tcflow(3)."""


def copy_unread(master: int, slave: int | None, settings: Settings) -> Unread:
    """What is unread, of a pseudoterminal whose users stand still.

    Args:
        slave: any descriptor on it; None if nobody has one any more. Then nobody can
            read input either, and it does not count.
        settings: those in force.

    Raises:
        NotTaken: there is so much input that some of it has not been processed yet, or
            input is stopped; nothing has been changed.
    """
    if slave is not None:
        # Where there is nothing, this waits for what is under way.
        waiting = _is_ready(slave, select.POLLIN)
        by_lines = settings.lflag & termios.ICANON
        unread = _count_settled(slave)
        most = _MOST_IN_LINES if by_lines else _MOST
        if unread > most and not _is_unprocessed(settings):
            raise NotTaken(f"{unread} bytes of input or more are unread")
        if not _is_ready(master, select.POLLOUT):
            raise NotTaken("its input is stopped or full")
        nothing = not (by_lines or waiting or unread) and _is_ready(slave, select.POLLOUT)
    else:
        nothing = True
    if nothing and not _is_ready(master, select.POLLIN):
        return Unread()
    return _have_copied(lambda: _take_and_put_back(master, slave, settings))


def put_unread(master: int, slave: int, unread: Unread, settings: Settings) -> None:
    """Put it into a pseudoterminal that holds nothing; it has `settings` afterwards.

    Args:
        master: not in packet mode.
        slave: of our own, non-blocking.

    Raises:
        EngineError: Linux does not take it.
    """
    try:
        if _is_unprocessed(settings):
            tty.write_settings(master, _plain(settings))
            _write(slave, unread.output)
            _write(master, unread.rest)
        else:
            quiet = _quiet(settings, b"".join([*unread.lines, unread.rest]))
            tty.write_settings(master, quiet)
            _write(slave, unread.output)
            _write_input(master, unread, quiet)
    finally:
        tty.write_settings(master, settings)
    if unread.stopped == "tcflow":
        termios.tcflow(slave, termios.TCOOFF)


def _write_input(master: int, unread: Unread, quiet: Settings) -> None:
    """When it returns, all has been processed, under the settings that are `quiet`."""
    for line in unread.lines:
        _write(master, _escape(line, quiet))
    _write(master, _escape_all(unread.rest, quiet))
    _have_processed(master, quiet.cc[termios.VSTOP])
    if unread.stopped != "character":
        _have_processed(master, quiet.cc[termios.VSTART])


def _take_and_put_back(master: int, held: int | None, settings: Settings) -> Unread:
    packets, locked = tty.is_packet_mode(master), tty.is_locked(master)
    exclusive = held is not None and tty.is_exclusive(held)
    with ExitStack() as undo:
        if packets:
            tty.set_packet_mode(master, False)
            undo.callback(tty.set_packet_mode, master, True)
        if locked:
            tty.set_locked(master, False)
            undo.callback(tty.set_locked, master, True)
        if exclusive and held is not None:
            tty.set_exclusive(held, False)
            undo.callback(tty.set_exclusive, held, True)
        slave = tty.open_peer(master, os.O_RDWR | os.O_NONBLOCK)
        undo.callback(os.close, slave)
        unread = _take(master, slave, settings, with_input=held is not None)
        put_unread(master, slave, unread, settings)
    taken = sum(map(len, unread.lines)) + len(unread.rest)
    if taken > _MOST and not _is_unprocessed(settings):
        raise NotTaken("as much input as Linux keeps is unread")
    return unread


def _take(master: int, slave: int, settings: Settings, *, with_input: bool) -> Unread:
    """The tree's own descriptor of the master may block: it is read when it is ready."""
    output = _read_output(master)
    # An echo for which there was no room goes before what is written next.
    with suppress(BlockingIOError):
        os.write(slave, b"")
    output += _read_output(master)
    stopped: Stopped = ""
    if not _is_ready(slave, select.POLLOUT):
        termios.tcflow(slave, termios.TCOON)
        stopped = "tcflow" if _is_ready(slave, select.POLLOUT) else "character"
    if not with_input:
        return Unread(output, stopped=stopped)
    # Under the settings in force: the last read waits for what is under way.
    if not settings.lflag & termios.ICANON:
        return Unread(output, rest=b"".join(_read_all(slave)), stopped=stopped)
    lines = tuple(_read_all(slave, by_lines=True))
    tty.write_settings(master, _plain(settings))
    return Unread(output, lines, b"".join(_read_all(slave)), stopped)


def _read_output(master: int) -> bytes:
    output = b""
    while _is_ready(master, select.POLLIN):
        try:
            output += os.read(master, 65536)
        except OSError as error:
            # There is an end, as nobody has the slave side open.
            if error.errno != errno.EIO:
                raise
            break
    return output


def _read_all(slave: int, *, by_lines: bool = False) -> list[bytes]:
    found = []
    with suppress(BlockingIOError):
        # An empty line is what the end-of-file character leaves.
        while (read := os.read(slave, 65536)) or by_lines:
            found.append(read)
    return found


def _is_ready(fd: int, event: int) -> bool:
    poll = select.poll()
    poll.register(fd, event)
    return any(events & event for _, events in poll.poll(0))


def _count_settled(slave: int) -> int:
    """Where there is something already, Linux has no way to wait for the rest."""
    count = tty.unread_bytes(slave)
    while count:
        time.sleep(_SETTLED)
        before, count = count, tty.unread_bytes(slave)
        if count == before:
            break
    return count


_SETTLED = 0.001


def _is_unprocessed(settings: Settings) -> bool:
    """Whether nothing is ever made of input, however often it comes in."""
    iflag = termios.ISTRIP | termios.INLCR | termios.IGNCR | termios.ICRNL
    iflag |= termios.IUCLC | termios.IXON | termios.PARMRK
    lflag = termios.ICANON | termios.ISIG | termios.ECHO | termios.ECHONL
    return not (settings.iflag & iflag or settings.lflag & lflag)


def _plain(settings: Settings) -> Settings:
    """Bytes can be read as they are there, at once."""
    cc = bytearray(settings.cc)
    cc[termios.VMIN], cc[termios.VTIME] = 1, 0
    oflag = settings.oflag & ~termios.OPOST
    return msgspec.structs.replace(settings, iflag=0, oflag=oflag, lflag=0, cc=bytes(cc))


def _quiet(settings: Settings, data: bytes) -> Settings:
    """Lines are only ended, and output is stopped and started. What has not come to a
    line's end can be read as bytes, once reading by lines is off.

    The characters that do more than end a line do not occur in `data`, if possible, and
    never where lines end: an escape saves the others.
    """
    cc = bytearray(len(settings.cc))
    for name in _ENDS:
        cc[name] = settings.cc[name]
    free = (byte for byte in range(1, 256) if byte != 10 and byte not in cc)
    rarest = sorted(free, key=data.count)
    for name, byte in zip(_SPECIAL, rarest, strict=False):
        cc[name] = byte
    lflag = termios.ICANON | termios.IEXTEN
    return msgspec.structs.replace(
        _plain(settings), iflag=termios.IXON, lflag=lflag, cc=bytes(cc)
    )


_ENDS = (termios.VEOL, termios.VEOL2)
_SPECIAL = (termios.VSTOP, termios.VSTART, termios.VLNEXT, termios.VEOF)


def _escape(line: bytes, quiet: Settings) -> bytes:
    """What has to be written for the line to be read."""
    ends = {10, *(quiet.cc[name] for name in _ENDS)} - {0}
    if line[-1:] and line[-1] in ends:
        return _escape_all(line[:-1], quiet) + line[-1:]
    return _escape_all(line, quiet) + bytes([quiet.cc[termios.VEOF]])


def _escape_all(body: bytes, quiet: Settings) -> bytes:
    special = {10, *quiet.cc} - {0}
    literal = quiet.cc[termios.VLNEXT]
    escaped = bytearray()
    for byte in body:
        if byte in special:
            escaped.append(literal)
        escaped.append(byte)
    return bytes(escaped)


def _write(fd: int, data: bytes) -> None:
    """There is room soon: what is written goes on from one buffer to another."""
    left = memoryview(data)
    while left:
        _wait_until(lambda: _is_ready(fd, select.POLLOUT))
        left = left[os.write(fd, left if len(left) <= _LAST else left[:_PIECE]) :]


def _have_processed(master: int, stop_or_start: int) -> None:
    """In packet mode the master side is told when such a character has its effect."""
    tty.set_packet_mode(master, True)
    _write(master, bytes([stop_or_start]))
    _wait_until(lambda: _is_ready(master, select.POLLPRI))
    tty.set_packet_mode(master, False)


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _LIMIT
    while not condition():
        if time.monotonic() > deadline:
            raise EngineError("a pseudoterminal does not take its unread bytes")
        time.sleep(0.0002)


class _Failure(msgspec.Struct, frozen=True, tag=True):
    what: str
    taken: bool


def _have_copied(work: Callable[[], Unread]) -> Unread:
    """What `work` gives, done by a child of ours, which our death does not end."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if not pid:
            _answer(work, writer)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(writer)
    with open(reader, "rb") as answers:
        raw = answers.read()
    os.waitpid(pid, 0)
    answer = msgspec.msgpack.decode(raw, type=Unread | _Failure)
    if isinstance(answer, Unread):
        return answer
    if answer.taken:
        raise EngineError(answer.what)
    raise NotTaken(answer.what)


def _answer(work: Callable[[], Unread], writer: int) -> NoReturn:
    """In the child, which ends here whatever happens."""
    answer: Unread | _Failure = _Failure("its unread bytes cannot be copied", True)
    try:
        answer = work()
    except NotTaken as error:
        answer = _Failure(str(error), False)
    except OSError as error:
        answer = _Failure(f"its unread bytes cannot be copied: {error.strerror}", False)
    except EngineError as error:
        answer = _Failure(error.message, True)
    finally:
        with suppress(OSError):
            os.write(writer, msgspec.msgpack.encode(answer))
        os._exit(0)
