"""Root is given up, and cannot be had back."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest
from uloop_servers.privileges import drop

UNIX = pytest.mark.skipif(sys.platform == "win32", reason="on Windows no process becomes another user")
ROOT = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="only root can become another user"
)
if sys.platform != "win32":
    import grp
    import pwd

# Becomes a user, says who it is, and tries to be root again in all ways there are.
PROGRAM = """
import os, sys
from uloop_servers.privileges import drop

drop(sys.argv[1])
print(os.getuid(), os.geteuid(), os.getgid(), os.getegid(), sorted(os.getgroups()), os.environ["HOME"])
if hasattr(os, "getresuid"):  # macOS has none
    assert os.getresuid() == (os.getuid(),) * 3
    assert os.getresgid() == (os.getgid(),) * 3
for back in (
    lambda: os.setuid(0), lambda: os.seteuid(0), lambda: os.setreuid(0, 0), lambda: os.setgroups([0]),
    lambda: os.setgid(0), lambda: os.setegid(0),
):
    try:
        back()
    except PermissionError:
        continue
    print("back again")
"""


def become(user: str) -> list[str]:
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, user],
        env={**os.environ, "HOME": "/left/alone"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


if sys.platform != "win32":

    def somebody() -> pwd.struct_passwd:
        """A user who is not root, nor of root's group."""
        found = [account for account in pwd.getpwall() if account.pw_uid > 0 and account.pw_gid > 0]
        if not found:
            pytest.skip("this machine has no user but root")
        named = [account for account in found if account.pw_name == "nobody"]
        return (named or found)[0]

    @ROOT
    @pytest.mark.parametrize("form", ["{0.pw_name}", "{0.pw_uid}"])
    def test_a_user_has_its_groups(form: str) -> None:
        account = somebody()
        uid, gid = account.pw_uid, account.pw_gid
        groups = sorted(os.getgrouplist(account.pw_name, gid))
        assert become(form.format(account)) == [f"{uid} {uid} {gid} {gid} {groups} /left/alone"]

    @ROOT
    def test_a_user_and_a_group() -> None:
        account = somebody()
        group = next(one for one in grp.getgrall() if one.gr_gid not in (0, account.pw_gid))
        uid, gid = account.pw_uid, group.gr_gid
        for user in (f"{account.pw_name}:{group.gr_name}", f"{uid}:{gid}"):
            assert become(user) == [f"{uid} {uid} {gid} {gid} {[gid]} /left/alone"]


@ROOT
def test_numbers_that_nobody_has() -> None:
    assert become("54321:54322") == ["54321 54321 54322 54322 [54322] /left/alone"]


@UNIX
@pytest.mark.parametrize(
    ("user", "sentence"),
    [
        ("no-such-user", "there is no user 'no-such-user' on this machine"),
        ("no-such-user:0", "there is no user 'no-such-user' on this machine"),
        ("54321:no-such-group", "there is no group 'no-such-group' on this machine"),
        ("4294967295:1", "there is no user '4294967295' on this machine"),  # (uid_t) -1
        ("1:4294967295", "there is no group '4294967295' on this machine"),
        ("99999999999:1", "there is no user '99999999999' on this machine"),
        ("54321", "the user '54321' has no name here, so a group is needed, as in 54321:54321"),
        ("root", "the user 'root' is root, which is to be given up"),
        ("0:1", "the user '0:1' is root, which is to be given up"),
    ],
)
def test_whom_nobody_can_become(user: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=r"there is no|the user") as refusal:
        drop(user)
    assert str(refusal.value) == sentence


@UNIX
def test_by_somebody_who_is_not_root() -> None:
    program = """
import os, sys
from uloop_servers.privileges import drop
if os.geteuid() == 0:
    os.setuid(54321)
try:
    drop("54321:54322")
except OSError as error:
    print(error.errno, error.strerror)
"""
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    ).stdout
    assert output == f"{errno.EPERM} only root can become another user, like '54321:54322'\n"


@ROOT
@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
def test_a_way_back_is_found() -> None:
    """With SECBIT_NO_SETUID_FIXUP a process keeps its capabilities, and with them the way back."""
    program = """
import ctypes, sys
from uloop_servers.privileges import drop
PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP = 28, 4
if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0):
    sys.exit("no capability")
try:
    drop("54321:54322")
except OSError as error:
    print(error.strerror)
"""
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    if process.stderr.startswith("no capability"):
        pytest.skip("root lacks CAP_SETPCAP here")
    assert process.stdout == "this process has become '54321:54322', but could be root again\n"


@pytest.mark.skipif(sys.platform != "win32", reason="only Windows lacks users in this sense")
def test_on_windows() -> None:
    with pytest.raises(ValueError, match="a process on Windows cannot become another user, like 'nobody'"):
        drop("nobody")
