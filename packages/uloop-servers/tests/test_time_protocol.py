"""The Time protocol: 4 bytes, and the year 2036."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from uloop_servers.protocols.time_protocol import answer, read_answer
from uloop_servers.timesource import SECOND, UNSYNCHRONISED, Quality, TimeSource


def ns(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp()) * SECOND  # type: ignore[misc,arg-type]


class Fixed(TimeSource):
    """A clock that stands still, and that nobody keeps right."""

    def __init__(self, now: int) -> None:
        super().__init__()
        self.shown = now

    def now(self) -> int:
        return self.shown

    def quality(self, now: int) -> Quality:
        return UNSYNCHRONISED


# The first four are from RFC 868 itself.
@pytest.mark.parametrize(
    ("moment", "seconds"),
    [
        (ns(1970, 1, 1), 2_208_988_800),
        (ns(1976, 1, 1), 2_398_291_200),
        (ns(1980, 1, 1), 2_524_521_600),
        (ns(1983, 5, 1), 2_629_584_000),
        (ns(2020, 6, 15, 15, 34, 33) + SECOND - 1, 3_801_224_073),
        (ns(2036, 2, 7, 6, 28, 15), 2**32 - 1),
        (ns(2036, 2, 7, 6, 28, 16), 0),
        (ns(2036, 2, 7, 6, 28, 17), 1),
        (ns(2038, 1, 19, 3, 14, 8), 61_505_152),
    ],
)
def test_the_seconds_since_1900_written_and_read(moment: int, seconds: int) -> None:
    data = answer(b"", 0, Fixed(moment))
    assert data == seconds.to_bytes(4, "big")
    whole = moment - moment % SECOND
    for years in (-60, 0, 60):
        assert read_answer(data, moment + years * 365 * 86400 * SECOND) == whole


@pytest.mark.parametrize("seconds", [-(2**31) + 1, -1, 0, 1, 2**31 - 1])
def test_the_era_next_to_our_time_is_meant(seconds: int) -> None:
    for near in (ns(2036, 2, 7, 6, 28, 16), ns(1970, 1, 1), ns(2104, 2, 26, 9, 42, 24)):
        moment = near + seconds * SECOND
        assert read_answer(answer(b"", 0, Fixed(moment)), near) == moment


@pytest.mark.parametrize("length", [0, 3, 5, 8])
def test_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"it has {length} bytes, not 4"):
        read_answer(bytes(length), 0)
