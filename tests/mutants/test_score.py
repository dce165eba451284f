"""What mutmut prints is read as it is meant."""

from tests.mutants.score import Score, read_score

PRINTED = """
    userproxy.addresses.x_of_family__mutmut_1: killed
    userproxy.addresses.x_of_family__mutmut_2: survived
    userproxy.forwarding.deadlines.x\u01c1DeadlineQueue\u01c1discard__mutmut_2: timeout
    userproxy.forwarding.deadlines.x\u01c1DeadlineQueue\u01c1cancel__mutmut_3: no tests
""".splitlines()
FAMILIES = "userproxy.addresses.x_of_family__mutmut_{}"
QUEUE = "userproxy.forwarding.deadlines.x\u01c1DeadlineQueue\u01c1{}"


def test_a_mutant_is_noticed_if_a_test_fails_hangs_or_dies() -> None:
    names = [
        FAMILIES.format(1),
        FAMILIES.format(2),
        QUEUE.format("discard__mutmut_2"),
        QUEUE.format("cancel__mutmut_3"),
    ]
    score = read_score(PRINTED, names)
    assert (score.tried, score.percent) == (4, 50.0)
    assert score.survivors == (f"{names[1]}: survived", f"{names[3]}: no tests")
    assert str(score) == "2 of 4 mutants noticed (50 %)"


def test_others_do_not_count_and_one_without_an_outcome_is_unnoticed() -> None:
    assert read_score(PRINTED, [FAMILIES.format(1)]) == Score(1)
    assert read_score(PRINTED, [FAMILIES.format(9)]).survivors == (f"{FAMILIES.format(9)}: not checked",)


def test_scores_add_up_and_none_is_perfect() -> None:
    assert Score().percent == 100.0
    assert Score(3, ("a: survived",)) + Score(2, ("b: survived",)) == Score(5, ("a: survived", "b: survived"))
