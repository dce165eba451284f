"""What one data process finds out of answers to clients' addresses, another one knows."""

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from userproxy.forwarding.client_addresses import ClientAddresses
from userproxy.model import DirectNetwork, Endpoint, IPFamily, Protocol, ReturnPath
from userproxy.processes.data.learning import Learning
from userproxy.processes.messages import FollowReturnPath, Learned

TCP = (Protocol.TCP, IPFamily.IPV4)
PATH = ReturnPath(IPFamily.IPV4, networks=(DirectNetwork("10.244.1.0/24", "cni0"),))
ENDPOINT = Endpoint("10.244.2.3", 8080)


class Process:
    """A data process, as far as it learns; `told` is what it has told."""

    def __init__(self) -> None:
        self.addresses = ClientAddresses("node-1")
        self.told: list[Learned] = []
        self.channel = self
        """Stands for that to the control process."""
        self.learning = Learning(self.addresses, lambda: self.channel)  # type: ignore[arg-type, return-value]

    def send(self, message: Learned) -> None:
        self.told.append(message)


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    with capture_logs():
        yield


@pytest.fixture
def one() -> Process:
    process = Process()
    process.learning.follow(FollowReturnPath(PATH, 7))
    return process


@pytest.fixture
def other() -> Process:
    return Process()


def test_an_answer_is_known_to_the_other_and_is_told_once(one: Process, other: Process) -> None:
    pair = one.addresses.pairs[TCP].of("cni0", "there", "shop")
    pair.answer()
    pair.answer()
    (learned,) = one.told
    assert learned.number == 7
    other.learning.know(learned)
    assert other.addresses.pairs[TCP].of("cni0", "there", "shop").answered
    assert other.told == [], "what is heard is not passed on"
    assert other.addresses.pairs[TCP].known("cni0", "there", "another") is None


def test_that_answers_are_lost_is_known_with_the_time_of_the_next_look(one: Process, other: Process) -> None:
    pair = one.addresses.pairs[TCP].of("cni0", "there", "shop")
    pair.lose(100.0, "10.244.1.5", ENDPOINT, "shop/web")
    pair.lose(101.0, "10.244.1.6", ENDPOINT, "shop/web")
    pair.lose(110.0, "10.244.1.7", ENDPOINT, "shop/web")
    assert len(one.told) == 2, "a look between two times changes neither"
    for learned in one.told:
        other.learning.know(learned)
    known = other.addresses.pairs[TCP].of("cni0", "there", "shop")
    assert (known.lost_since, known.client, known.look_at) == (100.0, "10.244.1.5", 130.0)


def test_who_waits_here_goes_on_when_another_one_has_found_out(one: Process, other: Process) -> None:
    waits = other.addresses.pairs[TCP].of("cni0", "there", "shop")
    waits.is_probed = True
    resumed: list[bool] = []
    waits.waiting.append(lambda: resumed.append(waits.answered))
    one.addresses.pairs[TCP].of("cni0", "there", "shop").answer()
    other.learning.know(one.told[0])
    assert resumed == [True]
    assert waits.is_probed, "who finds out here still does"


def test_nothing_is_told_before_there_is_a_path(other: Process) -> None:
    other.addresses.pairs[TCP].of("cni0", "there", "shop").answer()
    assert other.told == []


def test_another_control_process_is_told_once_what_is_known_and_only_by_its_own_numbers(one: Process) -> None:
    one.addresses.pairs[TCP].of("cni0", "there", "shop").answer()
    told, one.channel = one.told, Process()
    one.addresses.pairs[TCP].of("cni0", "over there", "shop").answer()
    assert one.channel.told == [], "it has not told of a path"
    one.learning.follow(FollowReturnPath(PATH, 1))
    one.learning.follow(FollowReturnPath(PATH, 2))
    (learned,) = one.channel.told
    assert learned.number == 1
    assert {each.node for each in learned.pairs.pairs} == {"there", "over there"}
    assert len(told) == 1
