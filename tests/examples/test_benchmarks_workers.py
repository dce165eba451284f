"""What userproxy carries by its number of data processes: the report."""

from click.testing import CliRunner

from examples.benchmarks.measure import Sample
from examples.benchmarks.workers import main, to_text


def a_sample(number: int, name: str, factor: float) -> Sample:
    return Sample(
        number, name, {"requests": 10_000 * factor, "request_cpu_us": 20 / factor, "resident_mb": 40 * factor}
    )


def test_the_report_has_medians_and_ratios_to_the_first() -> None:
    samples = [a_sample(1, "0, uvloop", 1), a_sample(1, "2, uvloop", 1.5), a_sample(2, "0, uvloop", 2)]
    samples += [a_sample(2, "2, uvloop", 1), a_sample(3, "0, uvloop", 1), a_sample(3, "2, uvloop", 2)]
    lines = to_text(samples).splitlines()
    assert lines[0].split("  ")[0] == "data processes, loop"
    assert lines[1].startswith("0, uvloop             10000 (10000..20000)  20.0 (10.0..20.0)")
    assert lines[2].startswith("2, uvloop             15000 (10000..20000)  13.3 (10.0..20.0)")
    assert lines[4].startswith("divided by 0, uvloop")
    assert lines[5].startswith("2, uvloop             1.50 (0.50..2.00)  0.67 (0.50..2.00)")


def test_one_alone_is_compared_with_nothing() -> None:
    lines = to_text([a_sample(1, "0, uvloop", 1)]).splitlines()
    assert lines[-1].startswith("divided by 0, uvloop")


def test_an_unknown_event_loop_is_refused() -> None:
    done = CliRunner().invoke(main, ["--loops", "uvloop,trio"])
    assert done.exit_code == 2
    assert "names others than uvloop, asyncio" in done.output
