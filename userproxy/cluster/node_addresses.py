"""Which addresses are those of the cluster's Nodes, as far as is known. Pure.

A node port on any of them leads to a Service, so as an endpoint it may lead in a loop. Manifests have all Nodes. Of an
API server only our own is watched, since thousands of others report to it every few seconds: whether an address is
another Node's is looked up once somebody needs to know (:mod:`userproxy.cluster.node_lookup`).
"""

from collections.abc import Callable, Iterable

from userproxy.cluster.store import Store

_MOST_ANSWERED = 10_000
"""Answers that are remembered: endpoints may come and go for as long as the process lives."""


class NodeAddresses:
    """A container of addresses, which notes what it is asked for. Addresses are canonical text.

    With `looks_up` there is somebody who takes `questions` and brings answers; else the Store's Nodes are all. Until
    the first answer what is not known counts as a Node's address, and from then on it does not.
    """

    def __init__(self, store: Store, *, looks_up: bool) -> None:
        self._store = store
        self._looks_up = looks_up
        self._presuming = looks_up
        self._stored: frozenset[str] = frozenset()
        self._seen_of_store = -1
        self._listed: frozenset[str] = frozenset()
        self._answered: set[str] = set()
        self._asked: set[str] = set()
        self._version = 0
        self.on_question: Callable[[], None] = lambda: None
        """Called when there is a question again after there was none."""

    @property
    def version(self) -> int:
        """Another number once an answer may be another one."""
        self._look_into_store()
        return self._version

    @property
    def presuming(self) -> bool:
        """Whether an address that is not known counts as a Node's."""
        return self._presuming

    @property
    def questions(self) -> frozenset[str]:
        """What was asked for and is not known."""
        return frozenset(self._asked)

    def __contains__(self, address: object) -> bool:
        self._look_into_store()
        if address in self._stored:
            return True
        if not self._looks_up or address in self._answered:
            return address in self._listed
        first = not self._asked
        self._asked.add(str(address))
        if first:
            self.on_question()
        return self._presuming or address in self._listed

    def answer(self, questions: Iterable[str], listed: Iterable[str]) -> None:
        """All Nodes have these addresses, and so it is known of `questions` whether they are among them."""
        found = frozenset(listed)
        answered = frozenset(questions)
        if len(self._answered) > _MOST_ANSWERED:
            self._answered.clear()
        self._answered |= answered
        self._asked -= answered
        if self._presuming or found != self._listed:
            self._version += 1
        self._listed, self._presuming = found, False

    def stop_presuming(self) -> None:
        """What is not known counts as no Node's address, since nobody will say it soon."""
        self._version += self._presuming
        self._presuming = False

    def forget_answers(self) -> None:
        """Nodes come and go: have everything asked for again. What was a Node's address stays one until then."""
        self._answered.clear()
        self._version += 1

    def _look_into_store(self) -> None:
        changes = self._store.events["Node"]
        if changes != self._seen_of_store:
            self._seen_of_store = changes
            stored = frozenset(address for node in self._store.nodes.values() for address in node.addresses)
            self._version += stored != self._stored
            self._stored = stored
