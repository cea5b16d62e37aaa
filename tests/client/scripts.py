"""A server of bytes that are written beforehand, and what is asked of a client."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, BinaryIO


class Script:
    """Answers each request, on whatever connection, by the next of some byte strings; an empty one closes.

    So does one that says that it ends here.
    """

    def __init__(self, answers: Sequence[bytes], tls: ssl.SSLContext | None) -> None:
        self.requests: list[tuple[bytes, bytes]] = []
        self.connections = 0
        self.hung_up = threading.Event()
        self.closed = threading.Semaphore(0)
        self._answers = list(answers)
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), accepted:
                self.connections += 1
                connection = self._tls.wrap_socket(accepted, server_side=True) if self._tls else accepted
                with connection:
                    self._converse(connection)
            self.closed.release()

    def _converse(self, connection: socket.socket) -> None:
        file = connection.makefile("rb")
        with file:
            while head := _head(file):
                length = next(
                    (int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), 0
                )
                self.requests.append((head, file.read(length)))
                answer = self._answers.pop(0) if self._answers else None
                if answer is None:
                    file.read(1)  # until the client gives up
                    self.hung_up.set()
                    return
                connection.sendall(answer)
                if not answer or b"Connection: close" in answer or b"X-Ends: here" in answer:
                    return

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def _head(file: BinaryIO) -> bytes:
    """The lines of the next request's head; none where the client has closed."""
    return b"".join(takewhile(lambda line: line != b"\r\n", iter(file.readline, b"")))


def call(name: str, *given: Any, **named: Any) -> tuple[str, tuple, dict]:
    return name, given, named


def answer(body: bytes, status: int = 200, header_length: int | None = None, more: bytes = b"") -> bytes:
    """An HTTP response as bytes."""
    binary = b"" if header_length is None else b"Inference-Header-Content-Length: %d\r\n" % header_length
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n%b%b\r\n%b" % (status, len(body), binary, more, body)
