"""Privileges: a server that was started by root, for its low ports, becomes somebody else.

The order matters: groups first, which only root can change, the user last. Afterwards the
way back is tried, and must be shut: a process that could be root again would be worse than one that
says it is root.
"""

from __future__ import annotations

import errno
import os
import sys

if sys.platform != "win32":
    import grp
    import pwd

__all__ = ["drop"]

NO_ID = 2**32 - 1  # (uid_t) -1 means "leave it as it is"


def drop(user: str) -> None:
    """Become a user, for good: ``NAME``, ``NAME:GROUP``, or numbers instead of names.

    With ``NAME`` alone the process has all groups of that user, with ``NAME:GROUP`` that group only.
    The environment stays as it is, ``HOME`` included.

    Parameters:
        user: as above.

    Raises:
        ValueError: there is no such user or group, the user is root, or this platform has none.
        OSError: this process is not root, or could be root again. Its ``strerror`` is a sentence.
    """
    if sys.platform != "win32":
        _become(user)
    else:
        raise ValueError(f"a process on Windows cannot become another user, like {user!r}")


if sys.platform != "win32":

    def _become(user: str) -> None:
        uid, gid, groups = _identity(user)
        try:
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
        except PermissionError as error:
            raise PermissionError(error.errno, f"only root can become another user, like {user!r}") from error
        except OSError as error:
            raise OSError(error.errno, f"cannot become the user {user!r}: {error.strerror}") from error
        _prove(user, uid, gid)

    def _identity(user: str) -> tuple[int, int, list[int]]:
        """The numbers of the user, of its group and of all its groups."""
        name, _, group = user.partition(":")
        account = _account(name)
        uid = _number(name, "user") if account is None else account.pw_uid
        if uid == 0:
            raise ValueError(f"the user {user!r} is root, which is to be given up")
        if group:
            gid = _group(group)
            return uid, gid, [gid]
        if account is None:
            raise ValueError(f"the user {user!r} has no name here, so a group is needed, as in {uid}:{uid}")
        return uid, account.pw_gid, os.getgrouplist(account.pw_name, account.pw_gid)

    def _account(name: str) -> pwd.struct_passwd | None:
        """What is known about a user; ``None`` if it is a number that nobody has."""
        try:
            return pwd.getpwnam(name)
        except KeyError:
            pass
        try:
            return pwd.getpwuid(_number(name, "user"))
        except KeyError:
            return None

    def _group(name: str) -> int:
        try:
            return grp.getgrnam(name).gr_gid
        except KeyError:
            return _number(name, "group")

    def _number(text: str, what: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < NO_ID):
            raise ValueError(f"there is no {what} {text!r} on this machine")
        return int(text)

    def _prove(user: str, uid: int, gid: int) -> None:
        if (os.getuid(), os.geteuid(), os.getgid(), os.getegid()) != (uid, uid, gid, gid):
            raise PermissionError(errno.EPERM, f"this process has not become {user!r}")
        try:
            os.setuid(0)
        except OSError:
            return
        raise PermissionError(errno.EPERM, f"this process has become {user!r}, but could be root again")
