"""TlsStream: a Stream over TLS, for clients and servers.

The encryption (``ssl.SSLObject``) stands between the program and the :class:`Stream`, which goes on
to move bytes as it always does::

    write() -> ssl_object.write -> outgoing -> Stream._transmit -> socket
    on_data <- ssl_object.read  <- incoming <- Stream._received <- socket

It has no socket, so the handshake, a new key or a session ticket are bytes that come and bytes that
go, in whatever pieces. All that has come is decrypted at once, paused or not: at most one read of
the socket, which waits in ``_clear`` if the program pauses in the middle. Two things depend on
there being nothing left in ``incoming``: that nothing lies unnoticed where the loop cannot see it,
and that our ``close_notify`` can be sent (SSL_shutdown fails on data that has not been read).

What differs from a plain stream:

1. The stream is open, and ``on_connect`` called, after the handshake. A handshake that fails ends
   the stream with the reason; the peer is told by an alert.
2. The end is a ``close_notify`` (RFC 8446, 6.1), ours and the peer's. A connection that just ends
   may have been cut by anybody on the way: that is a failure, no ``on_eof``. After our own
   ``close`` the peer may just end, for nothing of what it says is awaited any more.
3. ``write_eof`` needs TLS 1.3. Before that the peer must answer a ``close_notify`` with its own at
   once, and drop what it still has to send (RFC 5246, 7.2.1): there is no half close to offer.
"""

from __future__ import annotations

import math
import socket
import ssl
from typing import TYPE_CHECKING, Any

from uloop_events import UEvent

from .stream import CLOSED, CONNECTED, DISCARDING, END_SENT, ENDING, READ_SIZE, TABLE, Event, State, Stream

if TYPE_CHECKING:
    from .uloop import Uloop

__all__ = ["TlsStream"]


class TlsStream(Stream):
    """A connected byte stream over TLS. A base class to inherit from, like :class:`Stream`.

    Parameters:
        loop: as for ``Stream``.
        sock: as for ``Stream``: a plain socket.
        context: what is trusted and accepted; a server's has its certificate.
        server_side: we are the server.
        server_hostname: the name that the server's certificate must be for, and that is sent to
            the server (SNI).
        handshake_timeout: seconds from now until ``on_connect``.
        options: ``high_water``, ``idle_timeout``, …: as for ``Stream``. ``unsent`` counts what is
            encrypted already, and what waits for that.

    Raises:
        ValueError: the context checks names, and ``server_hostname`` is missing or no name, or as
            for ``Stream``.
        OSError: as for ``Stream``.
    """

    __slots__ = (
        "_begun",
        "_clear",
        "_handshake_timeout",
        "_incoming",
        "_notified",
        "_notify_sent",
        "_outgoing",
        "_plain",
        "_secured",
        "_ssl",
    )

    def __init__(
        self,
        loop: Uloop,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        handshake_timeout: float = 30.0,
        **options: Any,
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._plain = bytearray()  # written, and cannot be encrypted yet
        self._clear = b""  # decrypted, and not yet told the program
        self._secured = False  # the handshake is done
        self._notified = False  # the peer's close_notify has come
        self._notify_sent = False  # ours
        self._handshake_timeout = handshake_timeout
        self._begun = loop.time()
        if not 0 < handshake_timeout < math.inf:
            raise ValueError(
                f"handshake_timeout must be a positive number of seconds, not {handshake_timeout}"
            )
        if context.check_hostname and not server_side and not server_hostname:
            # wrap_bio would accept it, and then check no name at all
            raise ValueError("a context that checks names (check_hostname) needs a server_hostname")
        self._ssl = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        super().__init__(loop, sock, **options)

    @property
    def ssl_object(self) -> ssl.SSLObject:
        """The session: ``version()``, ``getpeercert()``, ``selected_alpn_protocol()``, ``cipher()``, …"""
        return self._ssl

    @property
    def unsent(self) -> int:
        return len(self._buffer) + len(self._plain)

    def write_eof(self) -> None:
        """As for ``Stream``, by a ``close_notify``.

        Raises:
            NotImplementedError: the version of TLS is older than 1.3, or not negotiated yet.
        """
        if Event.WRITE_EOF in TABLE[self._state] and self._ssl.version() != "TLSv1.3":
            version = self._ssl.version() or "not negotiated before on_connect"
            raise NotImplementedError(f"write_eof() needs TLSv1.3; the version is {version}")
        super().write_eof()

    def close(self) -> None:
        if self._state is State.CONNECTING and not self._plain:
            self._lost(None)  # some of the handshake may wait, but nothing of the program's
        else:
            super().close()

    # Between the socket and the encryption. The usual cases of Stream leave it out, so no case is usual here.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        data = self._checked(data)
        if data:
            self._transmit(data)

    def process_event(self, fileno: int, event: UEvent, /) -> None:
        self._deal_with(event)

    def _socket_connected(self) -> None:
        self._watch()
        self._handshake()

    def _read(self) -> None:
        # What is decrypted comes before what the socket says next, which may be a reset.
        if (self._clear or self._notified) and self._wants_to_read():
            self._deliver()
        else:
            super()._read()

    def _received(self, data: bytes) -> None:
        if self._reason is not None and self._state is not State.BROKEN:
            return  # TLS has failed; we wait for the peer to read why
        self._incoming.write(data)
        try:
            if not self._secured:
                self._handshake()
        finally:  # there may be data behind the handshake, even if on_connect failed
            if self._secured and self._state is not CLOSED:
                self._decrypt()

    def _received_eof(self) -> None:
        if self._reason is not None or (self._secured and self._state in DISCARDING):
            self._peer_ended()
        else:
            when = "without close_notify: something may be missing" if self._secured else "in the handshake"
            self._lost(ssl.SSLEOFError(ssl.SSL_ERROR_EOF, f"the peer ended the connection {when}"))

    def _transmit(self, data: bytes | memoryview) -> None:
        if self._plain and self._too_much_waits():  # write() has looked at what is encrypted only
            return
        done = self._encrypt(data) if self._secured and not self._plain else 0
        if done < len(data):
            first = not self.unsent
            self._plain += memoryview(data)[done:]
            self._enqueued(first)
        self._send_ciphertext()

    def _flush(self) -> None:
        if self._secured and self._reason is None:
            if self._plain:
                del self._plain[: self._encrypt(self._plain)]
                self._send_ciphertext()  # apart from the end, so that it is known what has failed
            if self._state in ENDING and not self._plain and not self._notify_sent:
                self._notify_sent = True
                self._write_close_notify()
            self._send_ciphertext()
        if self._state is not CLOSED:
            super()._flush()

    def _send_ciphertext(self) -> None:
        # Behind our end there is nothing, not even an answer to a new key of the peer's.
        if self._outgoing.pending and self._state is not CLOSED and not self._flags & END_SENT:
            super()._transmit(self._outgoing.read())

    def _send_failed(self, error: OSError) -> None:
        self._plain.clear()
        if self._notified and self._notify_sent and not self._buffer:
            # Only our answer to the peer's end was left. One who does not wait for it, as is usual,
            # has often not read our session tickets either, and its kernel sends a reset for that.
            self._lost(None)
        else:
            super()._send_failed(error)

    def _wants_to_read(self) -> bool:
        return self._state is State.CONNECTING or super()._wants_to_read()

    def _resume(self) -> None:
        super()._resume()
        if self._clear or self._notified:
            self._call_soon(self._deliver)

    def _release(self, reason: BaseException | None) -> None:
        self._plain.clear()
        self._clear = b""
        super()._release(reason)

    # The encryption

    def _handshake(self) -> None:
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._send_ciphertext()
        except ssl.SSLError as error:
            self._failed(error)
        else:
            self._secured = True
            self._established()  # sends our last message, too: with what on_connect writes

    def _encrypt(self, data: bytes | bytearray | memoryview) -> int:
        """Returns how many bytes were: all, but for a negotiation in the middle (TLS 1.2)."""
        try:
            return self._ssl.write(data)
        except ssl.SSLWantReadError:
            return 0
        except ssl.SSLError as error:
            self._failed(error)
            return len(data)

    def _decrypt(self) -> None:
        failure = None
        chunks = [self._clear]
        try:
            while not self._notified:
                data = self._ssl.read(READ_SIZE)
                chunks.append(data)
                self._notified = not data
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._notified = True  # this is how it is told when ours was sent before
        except ssl.SSLError as error:
            failure = error
        self._clear = b"".join(chunks)
        try:
            if failure is None and self._outgoing.pending and not self._too_much_waits():
                self._send_ciphertext()  # reading may ask for an answer, such as to a new key
            self._deliver()
        finally:
            if failure is not None:
                self._failed(failure)
            elif self._plain and self._state is not CLOSED:
                self._flush()  # it may have waited for the end of a negotiation

    def _deliver(self) -> None:
        """Tell the program what was decrypted, and then the end, unless it has paused."""
        if not self._wants_to_read():
            return
        if self._clear:
            data, self._clear = self._clear, b""
            if self._notified:
                self._call_soon(self._deliver)  # the end comes next, whatever on_data does
            super()._received(data)
        elif self._notified:
            self._peer_ended()

    def _write_close_notify(self) -> None:
        try:
            self._ssl.unwrap()
        except ssl.SSLError:
            pass  # it waits for the peer's, which is read like everything else

    def _failed(self, error: ssl.SSLError) -> None:
        """TLS has failed: tell the peer why, if there is an alert to be sent, and end."""
        error.with_traceback(None)  # which leads back to us, see _release
        if self._state is CLOSED:
            return
        self._reason = error
        self._plain.clear()
        alert = self._outgoing.read()
        if not alert or self._flags & END_SENT:
            self._lost(error)
            return
        if Event.CLOSE in TABLE[self._state]:
            self._go(Event.CLOSE)
        super()._transmit(alert)
        if not self._flags & CONNECTED or self._state is CLOSED:
            return
        super()._flush()

    # Time

    def _deadline(self) -> tuple[float, str]:
        if self._secured or self._reason is not None:
            return super()._deadline()
        return min(super()._deadline(), (self._begun + self._handshake_timeout, "handshake"))

    def _time_is_up(self, what: str) -> None:
        if what == "handshake":
            timeout = self._handshake_timeout
            self.abort(TimeoutError(f"the TLS handshake was not done in {timeout} s (handshake_timeout)"))
        else:
            super()._time_is_up(what)
