"""What a file holds, and how much of it survives a mistake."""

from typing import Any

from tests.cluster.examples import SERVICE, SLICE, a_service, as_text, put
from userproxy.cluster.objects.keys import ObjectKey
from userproxy.cluster.objects.manifest import Manifest, ManifestProblem, combine, read_manifest, unreadable
from userproxy.model import Service

BROKEN = put(SERVICE, ("spec", "ports", 0, "port"), 0)
SENTENCE = "spec.ports[0].port: 0 is not a port number (1..65535)"
WEB = ObjectKey("Service", "shop", "web")


def read(*documents: Any, last: Manifest | None = None) -> Manifest:
    return read_manifest(as_text(*documents).encode(), "a.yaml", last or Manifest())


def names(content: Manifest) -> list[str]:
    return [str(entry.key) for entry in content.entries]


def test_documents_in_their_order_with_their_places() -> None:
    content = read(SERVICE, None, SLICE)
    assert [(entry.where, str(entry.key)) for entry in content.entries] == [
        ("a.yaml document 1", "Service shop/web"),
        ("a.yaml document 3", "EndpointSlice shop/web-1"),
    ]
    assert content.keys() == {WEB, ObjectKey("EndpointSlice", "shop", "web-1")}
    assert content.problems == ()


def test_nothing_at_all() -> None:
    assert read_manifest(b"", "a.yaml", Manifest()) == Manifest()
    assert read_manifest(b"# empty\n---\n", "a.yaml", Manifest()) == Manifest()


def test_malformed_text_keeps_the_last_good_content() -> None:
    good = read(SERVICE, SLICE)
    broken = read_manifest(b"a: [", "a.yaml", good)
    assert broken.entries == good.entries
    (problem,) = broken.problems
    assert problem.subject == "a.yaml"
    assert problem.text.startswith("a.yaml: line 2, column 1: ")
    assert problem.text.endswith("; its last good content stays")


def test_malformed_text_without_a_past_promises_nothing() -> None:
    (problem,) = read_manifest(b"a: [", "a.yaml", Manifest()).problems
    assert "last good" not in problem.text


def test_one_mistake_of_the_text_after_the_other_is_one_problem() -> None:
    content = read_manifest(b"a: [", "a.yaml", read(SERVICE, BROKEN))
    content = read_manifest(b"b: {", "a.yaml", content)
    assert [problem.subject for problem in content.problems] == ["a.yaml", "a.yaml (Service shop/web)"]


def test_a_broken_document_keeps_its_last_good_version_while_its_neighbours_change() -> None:
    good = read(SERVICE, a_service("api", port=1))
    content = read(a_service("api", port=2), a_service("new"), BROKEN, last=good)
    assert names(content) == ["Service default/api", "Service default/new", "Service shop/web"]
    assert content.entries[2].objects == good.entries[0].objects
    assert content.entries[2].where == "a.yaml document 3"
    (api,) = content.entries[0].objects
    assert isinstance(api, Service)
    assert api.ports[0].port == 2
    assert content.problems == (
        ManifestProblem(
            "a.yaml (Service shop/web)",
            f"a.yaml document 3 (Service shop/web): {SENTENCE}; its last good version stays",
        ),
    )


def test_the_last_good_version_outlives_many_mistakes() -> None:
    good = content = read(SERVICE)
    for port in (0, -1, "x", 70000):
        content = read(put(SERVICE, ("spec", "ports", 0, "port"), port), last=content)
    assert content.entries == good.entries
    assert read(SERVICE, last=content) == good


def test_a_document_that_was_never_good_gives_nothing() -> None:
    content = read(BROKEN)
    assert content.entries == ()
    assert content.problems == (
        ManifestProblem("a.yaml (Service shop/web)", f"a.yaml document 1 (Service shop/web): {SENTENCE}"),
    )


def test_a_document_that_was_taken_out_is_gone() -> None:
    assert read(last=read(SERVICE)) == Manifest()


def test_a_flaw_that_costs_only_itself_is_told_and_the_object_is_there() -> None:
    content = read(put(SERVICE, ("spec", "externalIPs"), ["x"]))
    assert names(content) == ["Service shop/web"]
    assert [problem.text for problem in content.problems] == [
        'a.yaml document 1 (Service shop/web): spec.externalIPs[0]: "x" is not an IP address'
    ]


def test_a_list_whose_items_are_none_costs_only_itself() -> None:
    content = read({"kind": "List", "items": 5}, SERVICE)
    assert names(content) == ["Service shop/web"]
    assert [problem.text for problem in content.problems] == ["a.yaml document 1 (List): items: a number is not a list"]


def test_an_unreadable_file_keeps_everything_it_had() -> None:
    good = read(SERVICE, put(SERVICE, ("kind",), 5))
    content = unreadable("a.yaml", "a.yaml: cannot be read", good)
    assert content.entries == good.entries
    assert content.problems == (
        ManifestProblem("a.yaml", "a.yaml: cannot be read; its last good content stays"),
        *good.problems,
    )


def test_of_two_versions_the_first_counts_and_the_other_is_a_problem() -> None:
    first = read(SERVICE)
    second = read_manifest(as_text(put(SERVICE, ("spec", "type"), "NodePort")).encode(), "b.yaml", Manifest())
    objects, problems = combine([first, second])
    assert objects == {WEB: first.entries[0].objects[0]}
    assert problems == (
        ManifestProblem(
            "b.yaml document 1",
            "b.yaml document 1 (Service shop/web): a.yaml document 1 has Service shop/web already, "
            "and the first counts",
        ),
    )


def test_two_versions_in_one_file() -> None:
    objects, problems = combine([read(SERVICE, SERVICE, SERVICE)])
    assert list(objects) == [WEB]
    assert [problem.subject for problem in problems] == ["a.yaml document 2", "a.yaml document 3"]


def test_the_problems_of_all_files_stay_in_order() -> None:
    _, problems = combine([read(BROKEN), unreadable("b.yaml", "b.yaml: cannot be read", Manifest())])
    assert [problem.subject for problem in problems] == ["a.yaml (Service shop/web)", "b.yaml"]
