"""Daytime: the layouts, written and read."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta, timezone

import pytest
from uloop_servers.protocols.daytime import FORMATS, answer, read_answer
from uloop_servers.timesource import SECOND, Quality, TimeSource

JUNE = datetime(2020, 6, 15, 15, 34, 33, 899256, UTC)
EARLY = datetime(2021, 2, 3, 4, 5, 6, 0, UTC)
WEST, EAST = timezone(timedelta(hours=-3, minutes=-30)), timezone(timedelta(hours=5, minutes=45))
GOOD = Quality(0, 2, bytes(4), 0, 0.0, 0.001)


class Somewhere(TimeSource):
    """A clock that stands still, in a time zone."""

    def __init__(self, moment: datetime, quality: Quality = GOOD) -> None:
        super().__init__(self)
        self.moment = moment
        self.told = quality

    def now(self) -> int:
        return int(self.moment.timestamp()) * SECOND + self.moment.microsecond * 1000

    def local(self, now: int) -> datetime:
        moment = self.moment.replace(microsecond=0)
        assert now == moment.timestamp() * SECOND
        return moment

    def quality(self, now: int) -> Quality:
        return self.told


def line(moment: datetime, layout: str) -> str:
    told = answer(b"", 0, Somewhere(moment), layout)
    assert told.endswith(b"\r\n")
    return told[:-2].decode("ascii")


@pytest.mark.parametrize(
    ("layout", "june", "early"),
    [
        ("xinetd", "15 JUN 2020 15:34:33 UTC", "03 FEB 2021 04:05:06 UTC"),
        ("long", "Monday, June 15, 2020 15:34:33-UTC", "Wednesday, February 3, 2021 04:05:06-UTC"),
        ("ctime", "Mon Jun 15 15:34:33 2020", "Wed Feb  3 04:05:06 2021"),
        ("iso", "2020-06-15T15:34:33Z", "2021-02-03T04:05:06Z"),
        (
            "nist",
            "59015 20-06-15 15:34:33 00 0 0   0.0 UTC(NIST) *",
            "59248 21-02-03 04:05:06 00 0 0   0.0 UTC(NIST) *",
        ),
    ],
)
def test_the_layouts(layout: str, june: str, early: str) -> None:
    assert line(JUNE, layout) == june
    assert line(EARLY, layout) == early


def test_xinetds_layout_is_the_default() -> None:
    assert answer(b"whatever", 0, Somewhere(JUNE)) == b"15 JUN 2020 15:34:33 UTC\r\n"


def test_a_layout_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="'rfc' is not a format of Daytime; there are xinetd, long, ctime"):
        answer(b"", 0, Somewhere(JUNE), "rfc")


@pytest.mark.parametrize(
    ("zone", "xinetd", "long", "iso"),
    [
        (timezone(timedelta(hours=2), "CEST"), " CEST", "-CEST", "+02:00"),
        (timezone(timedelta(hours=3), "+03"), " +0300", "+0300", "+03:00"),
        (EAST, " +0545", "+0545", "+05:45"),
        (WEST, " -0330", "-0330", "-03:30"),
        (timezone(timedelta(hours=1), "W. Europe Standard Time"), " +0100", "+0100", "+01:00"),
        (timezone(timedelta(hours=1), "Wintér"), " +0100", "+0100", "+01:00"),
        (timezone(timedelta(0), "WET"), " WET", "-WET", "Z"),
    ],
)
def test_zones(zone: timezone, xinetd: str, long: str, iso: str) -> None:
    moment = JUNE.replace(tzinfo=zone)
    assert line(moment, "xinetd") == f"15 JUN 2020 15:34:33{xinetd}"
    assert line(moment, "long") == f"Monday, June 15, 2020 15:34:33{long}"
    assert line(moment, "iso") == f"2020-06-15T15:34:33{iso}"
    assert line(moment, "ctime") == "Mon Jun 15 15:34:33 2020"


def test_an_offset_with_seconds_becomes_utc() -> None:
    monrovia = timezone(-timedelta(minutes=44, seconds=30), "LMT")
    assert line(datetime(1971, 1, 1, 0, 0, 0, tzinfo=monrovia), "iso") == "1971-01-01T00:44:30Z"


@pytest.mark.parametrize(
    ("quality", "leap_and_health"),
    [
        (Quality(0, 2, bytes(4), 0, 0.0, 0.5), "0 0"),
        (Quality(1, 2, bytes(4), 0, 0.0, 0.5), "1 0"),
        (Quality(2, 2, bytes(4), 0, 0.0, 0.5), "2 0"),
        (Quality(0, 2, bytes(4), 0, 1.0, 0.75), "0 1"),
        (Quality(0, 2, bytes(4), 0, 0.0, 5.0), "0 1"),
        (Quality(0, 2, bytes(4), 0, 0.0, 5.5), "0 2"),
        (Quality(3, 16, bytes(4), 0, 0.0, 0.0), "0 3"),
    ],
)
def test_nist_tells_leap_seconds_and_health(quality: Quality, leap_and_health: str) -> None:
    told = answer(b"", 0, Somewhere(JUNE, quality), "nist").decode()
    assert told == f"59015 20-06-15 15:34:33 00 {leap_and_health}   0.0 UTC(NIST) *\r\n"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows' locales have other names")
def test_names_are_english_in_any_locale() -> None:
    import locale

    before = locale.setlocale(locale.LC_TIME)
    for name in ("de_DE.UTF-8", "fr_FR.UTF-8", "C.UTF-8"):
        try:
            locale.setlocale(locale.LC_TIME, name)
        except locale.Error:
            continue
        break
    try:
        assert (
            line(datetime(2020, 12, 25, 1, 2, 3, tzinfo=UTC), "long")
            == "Friday, December 25, 2020 01:02:03-UTC"
        )
    finally:
        locale.setlocale(locale.LC_TIME, before)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("zone", [UTC, EAST, WEST])
def test_what_is_written_can_be_read(layout: str, zone: timezone) -> None:
    written = JUNE.astimezone(zone)
    read, resolution = read_answer(answer(b"", 0, Somewhere(written), layout))
    assert resolution == 1.0
    if layout == "ctime":
        assert read == written.replace(tzinfo=None, microsecond=0)
    else:
        assert read.tzinfo is not None
        assert read == written.replace(microsecond=0)


def test_a_zone_known_by_its_name_alone_is_not_guessed() -> None:
    read, _ = read_answer(b"15 JUN 2020 15:34:33 CST\r\n")
    assert read == datetime(2020, 6, 15, 15, 34, 33)
    assert read.tzinfo is None


@pytest.mark.parametrize(
    ("data", "expected", "resolution"),
    [
        # as NIST's, inetd's and others' servers send it
        (b"\n59015 20-06-15 15:34:33 50 0 0 478.1 UTC(NIST) * \n", JUNE.replace(microsecond=0), 1.0),
        (b"Mon Jun 15 15:34:33 2020\r\n", datetime(2020, 6, 15, 15, 34, 33), 1.0),
        (b"Tuesday, February 22, 1982 17:37:43-PST", datetime(1982, 2, 22, 17, 37, 43), 1.0),
        (b"02 FEB 2021 07:59:01 GMT", datetime(2021, 2, 2, 7, 59, 1, 0, UTC), 1.0),
        (b"2020-06-15T15:34:33.25+00:00\n", JUNE.replace(microsecond=250_000), 0.01),
        (b"2020-06-15 15:34:33.1234567Z", JUNE.replace(microsecond=123_456), 1e-6),
    ],
)
def test_lines_of_other_servers(data: bytes, expected: datetime, resolution: float) -> None:
    read, steps = read_answer(data)
    assert (read, read.tzinfo) == (expected, expected.tzinfo)
    assert steps == pytest.approx(resolution)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n",
        b"hello\r\n",
        b"31 FEB 2020 15:34:33 UTC\r\n",
        b"15 JUX 2020 15:34:33 UTC\r\n",
        b"15 JUN 2020 25:34:33 UTC\r\n",
        b"15 JUN 2020 15:34:33 UTC\r\n15 JUN 2020 15:34:33 UTC\r\n",
        b"15 JUN 2020 15:34:33 +9999\r\n",
        b"59016 20-06-15 15:34:33 00 0 0   0.0 UTC(NIST) *\r\n",  # the number of another day
        b"59015 20-06-15 25:34:33 00 0 0   0.0 UTC(NIST) *\r\n",
        b"\xff" * 30,
        b"15 JUN 2020 15:34:33 UTC" + b" " * 200,
    ],
)
def test_what_is_no_time_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(ValueError, match="is not a line with a date and a time") as refusal:
        read_answer(data)
    assert repr(data[:60]) in str(refusal.value)
