"""What is logged of what happens again and again."""

from userproxy.forwarding.log_limit import LogLimit


def test_what_goes_on_is_logged_at_its_start_and_again_after_a_minute_without() -> None:
    limit = LogLimit()
    assert [limit.begins(now) for now in (0.0, 0.0, 59.0, 118.0, 177.0)] == [True, False, False, False, False]
    assert [limit.begins(now) for now in (237.0, 297.5, 300.0)] == [False, True, False]


def test_what_goes_on_is_due_once_a_minute() -> None:
    limit = LogLimit()
    assert [limit.is_due(now) for now in (0.0, 1.0, 59.0, 60.0, 119.0, 120.0)] == [
        True,
        False,
        False,
        True,
        False,
        True,
    ]


def test_limits_of_different_events_are_independent() -> None:
    one, another = LogLimit(), LogLimit()
    assert one.begins(1.0)
    assert another.begins(1.0)
