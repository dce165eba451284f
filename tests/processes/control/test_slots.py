"""Which service port has which place in shared memory, and when another one gets it."""

from userproxy.forwarding.limits.counts import SLOTS
from userproxy.model import IPFamily, ListenerName, Protocol, ServicePortName
from userproxy.processes.control.slots import Slots


def listener(number: int, family: IPFamily = IPFamily.IPV4) -> ListenerName:
    return ListenerName(ServicePortName("default", f"s{number}", "http", Protocol.TCP), family)


def test_listeners_of_a_service_port_have_one_slot_until_the_last_is_closed() -> None:
    slots = Slots()
    assert [slots.of(listener(1)), slots.of(listener(1, IPFamily.IPV6)), slots.of(listener(2))] == [0, 0, 1]
    assert not slots.leave(listener(1))
    assert slots.of(listener(1, IPFamily.IPV6)) == 0
    assert slots.leave(listener(1, IPFamily.IPV6))
    assert not slots.leave(listener(1, IPFamily.IPV6)), "it had none any more"
    assert not slots.leave(listener(3)), "it never had one"


def test_slots_of_service_ports_that_have_gone_are_others_in_the_end() -> None:
    slots = Slots()
    assert [slots.of(listener(number)) for number in range(SLOTS)] == list(range(SLOTS))
    assert slots.of(listener(SLOTS)) is None
    for number in (7, 3):
        slots.leave(listener(number))
    assert [slots.of(listener(SLOTS + number)) for number in range(3)] == [7, 3, None]
    assert slots.of(listener(5)) == 5


def test_a_slot_is_not_another_s_soon() -> None:
    """A data process that is slow to hear that a service port has gone writes there for a while."""
    slots = Slots()
    for number in range(3 * SLOTS):
        assert slots.of(listener(number)) == number % SLOTS
        slots.leave(listener(number))
