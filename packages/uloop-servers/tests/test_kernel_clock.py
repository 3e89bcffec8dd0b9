"""The state of the kernel's clock, as the kernel tells it, and in every state that it can be in."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from uloop_servers import kernel_clock
from uloop_servers.kernel_clock import STA_DEL, STA_INS, TIME_ERROR, read

TELLS = sys.platform in ("linux", "darwin") or sys.platform.startswith("freebsd")


@pytest.mark.skipif(not TELLS, reason=f"{sys.platform} does not tell the state of its clock")
def test_the_kernel_answers() -> None:
    clock = read()
    if clock is None:
        pytest.skip("a sandbox forbids to ask the kernel for the state of its clock")
    assert clock.leap in (0, 1, 2)
    assert clock.maxerror >= 0
    assert clock.esterror >= 0


@pytest.mark.skipif(TELLS, reason=f"{sys.platform} tells the state of its clock")
def test_where_it_cannot_be_asked() -> None:
    assert read() is None


@pytest.mark.skipif(sys.platform != "linux", reason="adjtimex is Linux's")
def test_the_library_agrees_with_adjtimex() -> None:
    # glibc's other name for the same, with another struct: the errors stand elsewhere in it
    import ctypes

    class NtpTimeval(ctypes.Structure):
        _fields_ = (
            ("seconds", ctypes.c_long),
            ("microseconds", ctypes.c_long),
            ("maxerror", ctypes.c_long),
            ("esterror", ctypes.c_long),
            ("rest", ctypes.c_long * 8),
        )

    libc = ctypes.CDLL(None)
    if not hasattr(libc, "ntp_gettime"):
        pytest.skip("this C library has no ntp_gettime to compare with")
    timeval = NtpTimeval()
    for _ in range(3):  # the kernel lets the error grow each second
        before, state, after = read(), libc.ntp_gettime(ctypes.byref(timeval)), read()
        assert before is not None
        assert after is not None
        if before == after:
            break
    else:
        pytest.fail("the state of the clock changes all the time")
    assert before.synchronised == (state != TIME_ERROR)
    assert before.maxerror == pytest.approx(timeval.maxerror / 1e6)
    assert before.esterror == pytest.approx(timeval.esterror / 1e6)


@pytest.mark.skipif(sys.platform == "win32" or not hasattr(os, "geteuid"), reason="Windows has no such users")
def test_it_takes_no_privilege() -> None:
    if sys.platform == "win32" or os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    program = (
        "import os; from uloop_servers.kernel_clock import read; os.setuid(65534); print(read() is None)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == str(read() is None)


OK, INS, DEL, OOP, WAIT = range(5)


@pytest.mark.parametrize(
    ("state", "status", "synchronised", "leap"),
    [
        (OK, 0, True, 0),
        (INS, STA_INS, True, 1),
        (DEL, STA_DEL, True, 2),
        (OOP, STA_INS, True, 1),
        (WAIT, STA_INS, True, 0),  # it has been inserted, and the daemon has not taken the order back
        (WAIT, STA_DEL, True, 0),
        (TIME_ERROR, 0x0040, False, 0),
        (TIME_ERROR, 0x0040 | STA_INS, False, 1),
        (TIME_ERROR, 0x0040 | STA_DEL, False, 2),
    ],
)
def test_the_states(
    state: int, status: int, synchronised: bool, leap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_clock, "_ask", lambda: (state, status, 1_500_000, 250))
    clock = read()
    assert clock is not None
    assert (clock.synchronised, clock.leap) == (synchronised, leap)
    assert clock.maxerror == pytest.approx(1.5)
    assert clock.esterror == pytest.approx(0.00025)


@pytest.mark.parametrize("error", [OSError("no library"), AttributeError("no such call")])
def test_a_system_without_the_call(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(kernel_clock, "_ask", fail)
    assert read() is None
