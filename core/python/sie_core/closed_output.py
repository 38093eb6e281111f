"""A command whose reader goes away, as `| head` does, ends without a complaint."""

import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Final

EXIT_CLOSED: Final = 128 + signal.SIGPIPE
"""What shells say of a program that SIGPIPE has ended, as it ends most others in this place."""


def until_closed(command: Callable[[], int]) -> int:
    """Run a command to its end, or until nobody reads its standard output any more. Returns the exit code.

    What is buffered is written out here, so that the interpreter does not find out at its own end. A pipe or
    socket other than standard output that breaks is the command's own to handle: its BrokenPipeError goes on.
    """
    try:
        try:
            return command()
        finally:
            if sys.stdout is not None:  # it is where the program was started without one
                sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_is_gone(sys.stdout.fileno()):
            raise
        _discard_rest(sys.stdout.fileno())
        return EXIT_CLOSED


def _reader_is_gone(descriptor: int) -> bool:
    """Whether a pipe or socket has nobody at its other end, which poll(2) tells unasked."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def _discard_rest(descriptor: int) -> None:
    """Let what is still in the buffer, or written later, go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
