"""What a service manager is told: that the server is ready, by systemd's protocol (``Type=notify``)."""

from __future__ import annotations

import contextlib
import os
import socket


def tell_manager(state: str) -> None:
    """Tell whoever started this process of a state, such as ``READY=1``, if it asked to be told.

    Source: sd_notify(3). Nothing is lost where nobody listens.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    if address[0] == "@":
        address = f"\0{address[1:]}"
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager,
    ):
        manager.connect(address)
        manager.send(state.encode())
