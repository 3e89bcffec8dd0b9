"""What is asked of the servers, and what came out."""

from __future__ import annotations

from dataclasses import dataclass

from servers.contestants import Contestant


@dataclass(frozen=True)
class Scenario:
    """Clients that ask, each after its answer.

    Parameters:
        name: for the command line.
        title: for the tables.
        protocol: ``"tcp"``, ``"udp"`` or ``"ntp"``. Who does not speak NTP is asked for the time
            by the base protocol over UDP instead.
        clients: how many ask.
        idle: how many more are connected, and have been answered once.
    """

    name: str
    title: str
    protocol: str
    clients: int
    idle: int = 0

    def suits(self, contestant: Contestant) -> bool:
        most = contestant.most_clients
        return (
            self.protocol_of(contestant) in contestant.protocols
            and (most is None or self.clients + self.idle <= most)
            and (self.protocol != "ntp" or contestant.is_ours or contestant.name in NTP_PEERS)
        )

    def protocol_of(self, contestant: Contestant) -> str:
        return self.protocol if self.protocol in contestant.protocols or self.protocol != "ntp" else "udp"


ANSWER_LENGTH = 26  # bytes, of the base protocol
#: beside whose base protocol our NTP is measured
NTP_PEERS = ("C", "uvloop", "uvloop-datetime")
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("tcp-1", "TCP, 1 client", "tcp", 1),
        Scenario("tcp-100", "TCP, 100 clients", "tcp", 100),
        Scenario("tcp-1000", "TCP, 1,000 clients", "tcp", 1000),
        Scenario("udp", "UDP, 50 clients", "udp", 50),
        Scenario("ntp", "NTP, 50 clients (the others: UDP, the base protocol)", "ntp", 50),
        Scenario("idle", "TCP, 100 clients beside idle connections", "tcp", 100, idle=10_000),
    )
}


@dataclass(frozen=True)
class Result:
    """What came out once.

    Parameters:
        rate: answers a second.
        cpu: the server's processor time for an answer, in microseconds.
        busy: the part of the time that the server was running. Where it is well below 1, it was waiting
            for the load, or other programs had its core. Of several processes, the sum of theirs.
        load_cpu: the load's processor time for an answer, in microseconds; of one that does not sleep, it
            says nothing.
        latency: microseconds, by name.
        lost: questions without an answer.
        wrong: answers that are none.
        idle: how many connections were idle meanwhile.
        bytes_per_idle: resident memory of the server for each of them.
        rate_without: answers a second before they came.
    """

    rate: float
    cpu: float
    busy: float
    load_cpu: float
    latency: dict[str, float]
    lost: int
    wrong: int
    idle: int = 0
    bytes_per_idle: float | None = None
    rate_without: float | None = None
