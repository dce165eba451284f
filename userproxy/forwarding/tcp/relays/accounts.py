"""Which connections a TCP listener has, what it counts, and the decisions about its clients."""

from userproxy.forwarding.observation.counters import ListenerCounters
from userproxy.forwarding.observation.recorder import DecisionRing, Entry, Peer, Portal, Recorder
from userproxy.forwarding.tcp.dialer import Dial
from userproxy.forwarding.tcp.relay import Relay
from userproxy.model import ListenerName
from userproxy.model.reports import Outcome


class TcpStatistics(ListenerCounters):
    """What one TCP listener has done so far; `active` is what it is doing."""

    __slots__ = ()


class Accounts:
    """The books of one listener: everything about its clients that is looked at later."""

    __slots__ = ("_decisions", "_recorder", "members", "name", "statistics")

    def __init__(self, recorder: Recorder, name: ListenerName) -> None:
        self._recorder = recorder
        self._decisions: DecisionRing = recorder.ring(name.service_port)
        self.name = name
        self.statistics = TcpStatistics()
        self.members: dict[int, Dial | Relay] = {}
        """By their ids, which are in ascending order."""

    def __len__(self) -> int:
        return len(self.members)

    def established(self, after: int, last: int) -> list[Relay]:
        """The relays whose ids are beyond `after` and no greater than `last`."""
        found = []
        for number in reversed(self.members):
            if number <= after:
                break
            member = self.members[number]
            if number <= last and isinstance(member, Relay):
                found.append(member)
        return found

    def in_order(self) -> None:
        """Bring members into the order of their ids, after some have been adopted."""
        members = sorted(self.members.items())
        self.members.clear()
        self.members.update(members)

    def limited(self, peer: Peer, portal: Portal, reason: str) -> None:
        """Note that a client is not let in because of a limit."""
        self.statistics.limited += 1
        self.refused(peer, portal, reason)

    def refused(self, peer: Peer, portal: Portal, reason: str) -> None:
        """Note that a client is not let in, and why."""
        self.statistics.refused += 1
        now = self._recorder.clock()
        self._decisions.add((now, self.name, peer, portal, None, Outcome.REFUSED, reason, (), 0.0, 0, 0, None, 0))

    def settle(self, relay: Relay) -> None:
        """Count the bytes that a live connection has moved since they were last counted."""
        up, down = relay.bytes_up - relay.settled_up, relay.bytes_down - relay.settled_down
        relay.settled_up += up
        relay.settled_down += down
        for counters in (relay.counters, self.statistics):
            counters.bytes_up += up
            counters.bytes_down += down

    def _decision(self, dial: Dial, now: float, outcome: Outcome, reason: str) -> Entry:
        """About a client whose connection has moved nothing yet."""
        endpoint = dial.endpoint if outcome is Outcome.RETRIED else None
        seconds, name, peer = now - dial.opened, dial.name, dial.peer
        failed, source = dial.failed, dial.source
        return (now, name, peer, dial.portal, endpoint, outcome, reason, failed, seconds, 0, 0, source, dial.id)

    def _count_failures(self, dial: Dial) -> None:
        self.statistics.dial_failures += dial.failures
        for endpoint, _, kind in dial.failed:
            self.statistics.failed(endpoint, kind)
