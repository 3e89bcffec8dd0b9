"""Why a loop's recording differs from epoll's, situation by situation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    verdict: str  # "approximate" or "impossible"
    reason: str


def approximate(reason: str, *situations: str) -> dict[str, Difference]:
    return dict.fromkeys(situations, Difference("approximate", reason))


def impossible(reason: str, *situations: str) -> dict[str, Difference]:
    return dict.fromkeys(situations, Difference("impossible", reason))


EPOLL_ALONE = {
    **impossible(
        "epoll alone reports changes instead of states. It cannot be imitated without seeing what the "
        "program reads and writes, so it is refused.",
        "rules: asked for changes, not states (poll_et)",
    ),
    **impossible(
        "epoll alone wakes one of several. It is refused, not ignored.",
        "rules: asked to wake one of several (poll_exclusive)",
    ),
}
NO_DUPLICATES = approximate(
    "epoll watches the open file, and reports the number that it was registered with for as long as a "
    "duplicate is open. This loop knows numbers alone, and drops one when it is closed.",
    "rules: closed while a duplicate lives",
)
PIPES = (
    "pipe, reader: empty",
    "pipe, reader: data waits",
    "pipe, reader: data waits, asked for nothing",
    "pipe, reader: writer has closed, data unread",
    "pipe, reader: writer has closed, all is read",
    "pipe, reader: writer has closed, asked for nothing",
    "pipe, writer: room to write",
    "pipe, writer: reader has closed",
    "pipe, writer: reader has closed, asked for IN",
    "pipe, writer: reader has closed, asked for nothing",
)
WINDOWS = {
    **EPOLL_ALONE,
    **NO_DUPLICATES,
    **impossible("Windows watches sockets alone. Anything else is refused.", *PIPES, "file: /proc/mounts"),
    **approximate(
        "What is no socket does not count as open, so it is refused with EBADF.",
        "file: a regular file",
        "file: /dev/null",
        "file: /dev/zero",
        "file: /dev/urandom",
    ),
    **approximate(
        "Windows has no names for the parts of IN and OUT.",
        "rules: asked for RDNORM and WRNORM",
    ),
    **approximate(
        "The end of what the peer sends is not seen while data waits; it is when all is read.",
        "TCP: peer sends no more, data unread",
        "TCP: peer has closed, data unread",
    ),
    **approximate(
        "Windows does not tell what we have shut down ourselves.",
        "TCP: we read no more",
        "TCP: we read no more, data unread",
        "TCP: we send and read no more",
        "TCP: neither side sends any more, peer first",
        "TCP: neither side sends any more, we first",
        "TCP: neither side sends any more, asked for IN",
        "TCP: neither side sends any more, asked for nothing",
        "TCP: peer sends no more, then we send no more, while watched",
        "TCP: we have connected, neither side sends any more",
        "UDP: we read no more",
        "UDP: we send and read no more",
    ),
    **approximate(
        "Urgent data that is taken inline is data like any other.",
        "TCP: urgent data inline",
    ),
    **approximate(
        "Windows says nothing of a socket that was never connected.",
        "TCP, not connected: fresh",
        "TCP, not connected: fresh, asked for nothing",
        "TCP, not connected: bound",
    ),
    **approximate(
        "Whether the program has read the error already is not told: ERR stays.",
        "TCP, not connected: refused, seen by two polls, then by SO_ERROR",
    ),
}
SELECT = {
    **EPOLL_ALONE,
    **NO_DUPLICATES,
    **approximate(
        "select has no names for the parts of IN and OUT.",
        "rules: asked for RDNORM and WRNORM",
    ),
}

DIFFERENCES: dict[str, dict[str, Difference]] = {
    "PollLoop-linux": {**EPOLL_ALONE, **NO_DUPLICATES},
    "KqueueLoop-model": {
        **EPOLL_ALONE,
        **NO_DUPLICATES,
        **approximate(
            "kqueue has no names for the parts of IN and OUT.",
            "rules: asked for RDNORM and WRNORM",
        ),
        **approximate(
            "kqueue says nothing of a socket that was never connected.",
            "TCP, not connected: fresh",
            "TCP, not connected: fresh, asked for nothing",
            "TCP, not connected: bound",
            "Unix stream: not connected",
            "listening: shut down",
        ),
        **approximate(
            "kqueue shows the error of a datagram socket as something to read, and no more.",
            "UDP: refused",
            "UDP: refused, asked for IN",
            "UDP: refused, asked for nothing",
            "UDP: refused, seen by two polls, then by SO_ERROR",
        ),
        **approximate(
            "kqueue does not tell of the error that waits; the hang-up is reported.",
            "Unix stream: peer has closed without reading our data",
            "Unix stream: peer has closed without reading our data, seen by a poll, then by recv",
        ),
        **approximate(
            "kqueue does not tell whether a broken pipe is full. A write fails with EPIPE in both cases.",
            "pipe, writer: full, reader has closed",
        ),
        **approximate(
            "kqueue has urgent data for sockets alone.",
            "controlling side of a terminal: packet mode, a status byte waits",
        ),
        **approximate(
            "kqueue shows that the other side of a terminal has closed as an end, and no more.",
            "terminal: the controlling side has closed",
            "terminal: the controlling side has closed, asked for OUT",
            "controlling side of a terminal: the terminal has closed",
        ),
    },
    "AfdLoop-windows": {
        **WINDOWS,
        **approximate(
            "Whether the program has read the error already is not told: ERR stays.",
            "TCP: reset by peer, seen by two polls, then by recv",
        ),
    },
    "SelectLoop-windows": {
        **WINDOWS,
        **approximate(
            "Winsock's select shows a reset as the end of what the peer sends; the next recv raises it.",
            "TCP: reset by peer",
            "TCP: reset by peer, asked for IN",
            "TCP: reset by peer, asked for OUT",
            "TCP: reset by peer, asked for nothing",
            "TCP: reset by peer, seen by two polls, then by recv",
            "TCP: we have connected, reset by peer",
            "TCP: we have connected, reset by peer before it is watched",
            "TCP: watched, then we connect, reset by peer",
            "TCP: we send no more, then reset by peer",
            "TCP: peer has closed and we have sent",
            "oneshot: asked for nothing, reset by peer",
        ),
    },
    "SelectLoop-linux": {
        **SELECT,
        **approximate(
            "Whether the program has read the error already cannot be known without taking it: ERR stays.",
            "TCP: reset by peer, seen by two polls, then by recv",
            "TCP, not connected: refused, seen by two polls, then by SO_ERROR",
        ),
        **approximate(
            "Of a connection that was over before it was registered, a reset cannot always be told from a "
            "regular end. Reading raises the error all the same.",
            "TCP: we have connected, reset by peer before it is watched",
        ),
        **approximate(
            "That we read no more shows as something to read, and no more.",
            "TCP: we read no more",
            "TCP: we send and read no more",
            "TCP: we read no more, data unread",
        ),
        **approximate(
            "An error on a datagram socket cannot be told from an empty datagram without taking it: it is "
            "reported as something to read, to who asks for IN, and the next recv or send raises it.",
            "UDP: refused",
            "UDP: refused, asked for IN",
            "UDP: refused, asked for nothing",
            "UDP: refused, seen by two polls, then by SO_ERROR",
        ),
        **approximate(
            "That a datagram or seqpacket socket was shut down shows as something to read, and no more.",
            "UDP: we read no more",
            "UDP: we send and read no more",
            "Unix seqpacket: peer has closed",
        ),
        **approximate(
            "The end of a pipe or of a Unix stream is not seen while data waits; it is when all is read.",
            "Unix stream: peer sends no more, data unread",
            "Unix stream: peer has closed, data unread",
            "pipe, reader: writer has closed, data unread",
        ),
        **approximate(
            "That an error waits on a Unix stream is not known without taking it; the hang-up is reported.",
            "Unix stream: peer has closed without reading our data",
            "Unix stream: peer has closed without reading our data, seen by a poll, then by recv",
        ),
        **approximate(
            "select calls a broken pipe writable, be it full or not. A write fails with EPIPE in both cases.",
            "pipe, writer: full, reader has closed",
        ),
    },
}

#: how the situations begin in which the model of kqueue answers as is assumed, not as was measured
UNPROVEN_FAMILIES = (
    "Unix stream",
    "Unix datagram",
    "Unix seqpacket",
    "UDP: refused",
    "UDP: we",
    "named pipe",
    "terminal",
    "controlling side of a terminal",
    "TCP: urgent",
    "file: ",
    "eventfd",
    "another epoll",
    "listening: shut down",
)
