"""``python -m tests.mutants``: break the code in many small ways, and count the breaks that the tests notice."""

import argparse
import sys
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from tests.mutants.run import AREAS, Mutants, commit, files_for, has_own_tests, modules_of
from tests.mutants.score import Score


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="AREA[/MODULE]", help=f"of {', '.join(AREAS)}; all by default")
    parser.add_argument(
        "--modules", type=int, metavar="N", help="take only N of the modules that have tests of their own, by the seed"
    )
    parser.add_argument("--sample", type=int, metavar="N", help="take only N mutants of each module, by the seed")
    parser.add_argument(
        "--wide", action="store_true", help="try what a module's own tests do not notice with all of its area"
    )
    parser.add_argument("--seed", default=commit(), help="what decides on samples; the commit by default")
    parser.add_argument(
        "--least", type=float, default=0.0, metavar="PERCENT", help="fail below this share of killed ones"
    )
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="mutants that are tried at the same time")
    arguments = parser.parse_args()
    random = Random(arguments.seed)
    modules = modules_of(arguments.targets or AREAS)
    if arguments.modules:
        modules = [module for module in modules if has_own_tests(module)]
        modules = sorted(random.sample(modules, min(arguments.modules, len(modules))))
    scores = {area: Score() for area in AREAS}
    for module in modules:
        score = try_module(module, arguments.sample, random, arguments.jobs, wide=arguments.wide)
        area = module.parts[1]
        print(f"{area}/{module.stem}: {score}", flush=True)
        scores[area] += score
    for area, score in scores.items():
        if score.tried:
            print(f"{area}: {score}")
    total = sum(scores.values(), Score())
    print(f"seed {arguments.seed}: {total}")
    return 0 if total.percent >= arguments.least else 1


def try_module(module: Path, sample: int | None, random: Random, jobs: int, *, wide: bool) -> Score:
    """Break a module; what survives is printed as a diff."""
    with TemporaryDirectory(prefix="mutants-") as directory:
        tests = files_for(module)
        mutants = Mutants(Path(directory), module, tests, jobs)
        score = mutants.test(mutants.names(sample, random))
        if wide and score.survivors and (more := files_for(module, wide=True)) != tests:
            with TemporaryDirectory(prefix="mutants-") as other:
                again = Mutants(Path(other), module, more, jobs)
                again.names(0, random)
                score = Score(score.tried, again.test(score.names).survivors)
        for survivor, name in zip(score.survivors, score.names, strict=True):
            print(f"# {survivor}\n{mutants.diff(name)}", flush=True)
    return score


if __name__ == "__main__":
    sys.exit(main())
