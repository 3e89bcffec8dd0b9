"""Daytime, RFC 867: one line of text that tells the date and the time.

On TCP the server sends it as soon as somebody connects, and closes; on UDP it answers each datagram. The
RFC leaves the layout open, so there are several to choose from (``FORMATS``):

=========  =======================================================  ===================================
xinetd     ``15 JUN 2020 15:34:33 UTC``                             as xinetd sends it; the default
long       ``Monday, June 15, 2020 15:34:33-UTC``                   the RFC's first example
ctime      ``Mon Jun 15 15:34:33 2020``                             as inetd sends it; no zone
iso        ``2020-06-15T15:34:33+02:00``, ``2020-06-15T13:34:33Z``  RFC 3339
nist       ``59015 20-06-15 13:34:33 00 0 0   0.0 UTC(NIST) *``     as NIST's servers send it; in UTC
=========  =======================================================  ===================================

* Names are English, whatever the locale. A zone is its abbreviation if that is 1 to 5 letters of ASCII,
  and otherwise its offset, as in ``+0530``.
* All are one line of printable ASCII, ended by CR LF. All but nist are shorter than 48 bytes, and nist
  begins with the digits of its day number, which as an NTP header are of a version that does not
  exist; so no line of ours is ever a request of NTP.
* nist has, after day number (MJD), date and time: ``TT``, the state of daylight saving time in the United
  States, for which we have no word but ``00``; ``L``, 1 or 2 if a leap second is inserted or left out
  at the end of the month; ``H``, the health: 0 good, 1 wrong by up to 5 seconds, 2 by more, 3
  unknown; and the milliseconds by which the time is sent ahead, of which there are none. The line starts
  with no empty one, which NIST's has.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache

from ..timesource import EPOCH, SECOND, Quality, TimeSource
from .answers import refusal

__all__ = ["FORMATS", "answer", "read_answer", "refusal"]

FORMATS = ("xinetd", "long", "ctime", "iso", "nist")

MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
FIRST_MJD = 40587  # the Modified Julian Date of 1970-01-01
ABBREVIATION = re.compile("[A-Za-z]{1,5}")
MINUTE = timedelta(minutes=1)
LONGEST_LINE = 128  # bytes of an answer that is worth reading

TIME = r"(?P<hour>\d{1,2}):(?P<minute>\d\d):(?P<second>\d\d)"
MONTH, ZONE = r"(?P<month>[A-Za-z]{3,9})", r"(?P<zone>[A-Za-z]{1,5}|[+-]\d{4})"
LAYOUTS = [
    re.compile(layout, re.ASCII)
    for layout in (
        rf"(?P<day>\d{{1,2}}) {MONTH} (?P<year>\d{{4}}) {TIME}(?: {ZONE})?",
        rf"[A-Za-z]{{6,9}}, {MONTH} (?P<day>\d{{1,2}}), (?P<year>\d{{4}}) {TIME}(?:-?{ZONE})?",
        rf"[A-Za-z]{{3}} {MONTH} +(?P<day>\d{{1,2}}) {TIME} (?P<year>\d{{4}})",
        rf"(?P<year>\d{{4}})-(?P<month>\d\d)-(?P<day>\d\d)[T ]{TIME}(?:\.(?P<fraction>\d{{1,9}}))?"
        r"(?P<zone>Z|[+-]\d\d:?\d\d)?",
    )
]
NIST = re.compile(
    rf"(?P<mjd>\d{{5}}) (?P<date>\d\d-\d\d-\d\d) {TIME} \d\d \d (?P<health>\d) +\d+\.\d UTC\(NIST\) [!-~]",
    re.ASCII,
)


def answer(request: bytes, arrival: int, source: TimeSource, format: str = "xinetd") -> bytes:  # noqa: A002
    """The time, as a line.

    Parameters:
        request: what the client has sent; it does not matter.
        arrival: when that came, in ns since the epoch; it does not matter.
        source: what time it is.
        format: one of ``FORMATS``.

    Raises:
        ValueError: there is no such format.
    """
    return _line(source, source.now() // SECOND, format)


# A second has one line: what is said of the clock's quality does not change faster.
@lru_cache(maxsize=16)
def _line(source: TimeSource, second: int, name: str) -> bytes:
    now = second * SECOND
    line = _nist(now, source.quality(now)) if name == "nist" else _in_local_time(source.local(now), name)
    return f"{line}\r\n".encode("ascii")


def _in_local_time(now: datetime, name: str) -> str:
    if (now.utcoffset() or timedelta()) % MINUTE:
        now = now.astimezone(
            UTC
        )  # no layout has room for the seconds of an offset, which some had until 1972
    month, time = MONTHS[now.month - 1], f"{now:%H:%M:%S}"
    match name:
        case "xinetd":
            return f"{now.day:02} {month[:3].upper()} {now.year:04} {time} {_zone(now)}"
        case "long":
            zone = _zone(now)
            hyphen = "-" if zone[0].isalpha() else ""
            return f"{DAYS[now.weekday()]}, {month} {now.day}, {now.year:04} {time}{hyphen}{zone}"
        case "ctime":
            return f"{DAYS[now.weekday()][:3]} {month[:3]} {now.day:2} {time} {now.year:04}"
        case "iso":
            return now.isoformat(timespec="seconds").replace("+00:00", "Z")
    raise ValueError(f"{name!r} is not a format of Daytime; there are {', '.join(FORMATS)}")


def _zone(now: datetime) -> str:
    name = now.tzname() or ""
    return name if ABBREVIATION.fullmatch(name) else f"{now:%z}"


def _nist(now: int, quality: Quality) -> str:
    days = now // (86400 * SECOND)
    time = f"{EPOCH + timedelta(seconds=now // SECOND):%y-%m-%d %H:%M:%S}"
    leap = quality.leap if quality.synchronised else 0
    return f"{FIRST_MJD + days:05} {time} 00 {leap} {_health(quality)}   0.0 UTC(NIST) *"


def _health(quality: Quality) -> int:
    if not quality.synchronised:
        return 3
    error = quality.root_delay / 2 + quality.root_dispersion
    return 0 if error < 1 else 1 if error <= 5 else 2


def read_answer(data: bytes) -> tuple[datetime, float]:
    """The time in an answer, in any of the layouts that we send.

    Returns:
        The time, naive if no zone is told or it is one whose offset is not known from its name;
        and in what steps it is told, in seconds.

    Raises:
        ValueError: it is no such line.
    """
    try:
        if len(data) > LONGEST_LINE:
            raise ValueError(f"it has {len(data)} bytes")
        return _read(data.decode("ascii").strip())
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{data[:60]!r} is not a line with a date and a time that is known here") from error


def _read(line: str) -> tuple[datetime, float]:
    if found := NIST.fullmatch(line):
        day = EPOCH + timedelta(days=int(found["mjd"]) - FIRST_MJD)
        if f"{day:%y-%m-%d}" != found["date"]:
            raise ValueError("the day number and the date differ")
        return day.replace(
            hour=int(found["hour"]), minute=int(found["minute"]), second=int(found["second"])
        ), 1.0
    for layout in LAYOUTS:
        if found := layout.fullmatch(line):
            break
    else:
        raise ValueError("it has another layout")
    fields = found.groupdict()
    fraction = fields.get("fraction") or ""
    moment = datetime(
        year=int(fields["year"]),
        month=_month(fields["month"]),
        day=int(fields["day"]),
        hour=int(fields["hour"]),
        minute=int(fields["minute"]),
        second=int(fields["second"]),
        microsecond=int(fraction[:6].ljust(6, "0")),
        tzinfo=_offset(fields.get("zone")),
    )
    return moment, 10.0 ** -min(len(fraction), 6)


def _month(text: str) -> int:
    if text.isdigit():
        return int(text)
    name = text.capitalize()
    for number, month in enumerate(MONTHS, 1):
        if name in (month, month[:3]):
            return number
    raise ValueError(f"{text!r} is not a month")


def _offset(zone: str | None) -> timezone | None:
    if zone is None:
        return None
    if zone in ("Z", "UTC", "GMT", "UT"):
        return UTC
    if zone[0] not in "+-":
        return None  # CST is three zones, and IST too
    minutes = int(zone[1:3]) * 60 + int(zone[-2:])
    return timezone(timedelta(minutes=-minutes if zone[0] == "-" else minutes))
