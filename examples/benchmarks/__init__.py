"""CPU and latency of userproxy beside HAProxy, nginx and a Go proxy: ``python -m examples.benchmarks``."""
