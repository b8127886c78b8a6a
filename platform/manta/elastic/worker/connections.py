"""Closing connections to machines that are gone without a word, as by a cut cable or lost power.

Nothing arrives from such a machine, not even the end of a connection, so an exchange with it would
wait for ever; and Gloo has no call that ends one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection
from contextlib import suppress

OPEN_FILES = "/proc/self/fd"


def shut(addresses: Collection[str]) -> int:
    """Shut all TCP connections of this process to some IP addresses; returns how many.

    Whoever waits for one gets an error, as if the other end had closed it.
    """
    if not addresses:
        return 0
    return sum(_shut_one(int(number), addresses) for number in os.listdir(OPEN_FILES))


def _shut_one(number: int, addresses: Collection[str]) -> bool:
    # No socket, not connected, or closed in the meantime: then there is nothing to shut.
    with suppress(OSError), socket.socket(fileno=os.dup(number)) as same:
        if same.family in (socket.AF_INET, socket.AF_INET6):
            peer = same.getpeername()[0].removeprefix("::ffff:")
            if peer in addresses:
                same.shutdown(socket.SHUT_RDWR)
                return True
    return False
