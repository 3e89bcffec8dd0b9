"""The ledger: each worker has a row of its own, which its parent and its successor can read."""

from __future__ import annotations

import os
import sys
from itertools import product

import pytest
from uloop_servers.counters import REFUSALS, Count, Ledger, Vital
from uloop_servers.endpoint import SCHEMES

EVERYTHING = list(product(SCHEMES, Count))


def test_all_is_0_at_first() -> None:
    ledger = Ledger(3)
    assert [ledger.total(scheme, count) for scheme, count in EVERYTHING] == [0] * len(EVERYTHING)
    assert all(row.vital[which] == 0 for row in ledger.rows for which in Vital)


def test_every_number_has_a_cell_of_its_own() -> None:
    ledger = Ledger(2)
    value = 0
    for row in ledger.rows:
        for which in Vital:
            row.vital[which] = value = value + 1
        for scheme, count in EVERYTHING:
            row.of(scheme)[count] = value = value + 1
    written = [
        number
        for row in ledger.rows
        for number in [*row.vital, *(row.of(scheme)[count] for scheme, count in EVERYTHING)]
    ]
    assert written == list(range(1, value + 1))


def test_the_total_is_that_of_all_rows() -> None:
    ledger = Ledger(3)
    for number, row in enumerate(ledger.rows):
        row.of("udp")[Count.ANSWERED] += 10**number
    assert ledger.total("udp", Count.ANSWERED) == 111
    assert ledger.total("tcp", Count.ANSWERED) == 0


def test_what_a_successor_finds() -> None:
    """Counts go on, so that no counter ever falls; what was true of its predecessor alone does not."""
    ledger = Ledger(2)
    for row in ledger.rows:
        for which in Vital:
            row.vital[which] = 7
        for scheme, count in EVERYTHING:
            row.of(scheme)[count] = 7
    ledger.rows[0].begin_anew()
    assert list(ledger.rows[0].vital) == [0] * len(Vital)
    for scheme, count in EVERYTHING:
        assert ledger.rows[0].of(scheme)[count] == (0 if count is Count.OPEN_CONNECTIONS else 7)
        assert ledger.rows[1].of(scheme)[count] == 7


def test_a_number_may_be_as_large_as_64_bits() -> None:
    row = Ledger().rows[0]
    row.vital[Vital.HEARTBEAT] = 2**63 - 1
    assert row.vital[Vital.HEARTBEAT] == 2**63 - 1
    assert row.vital[Vital.LAG] == 0


def test_the_refusals_are_the_counts_from_form_on() -> None:
    assert REFUSALS[0] is Count.FORM
    assert REFUSALS[-1] is max(Count)
    assert not {Count.ANSWERED, Count.TIMED_OUT} & set(REFUSALS)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_shared_with_a_forked_child() -> None:
    if sys.platform == "win32":
        pytest.skip("Windows has no fork")
    ledger = Ledger(2)
    tally = ledger.rows[1].of("ntp")
    tally[Count.ANSWERED] = 1
    pid = os.fork()
    if pid == 0:
        tally[Count.ANSWERED] += 41
        os._exit(0)
    assert os.waitpid(pid, 0) == (pid, 0)
    assert ledger.total("ntp", Count.ANSWERED) == 42


def test_what_was_counted_elsewhere_is_added_before_a_row_is_read() -> None:
    ledger = Ledger(2)

    def update() -> None:
        ledger.rows[1].of("tcp")[Count.ANSWERED] += 3

    ledger.rows[1].update = update
    assert ledger.total("tcp", Count.ANSWERED) == 3
