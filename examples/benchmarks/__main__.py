"""``python -m examples.benchmarks``."""

from examples.benchmarks.run import main

main()
