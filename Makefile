# Everything that a fresh Debian or Ubuntu machine needs is installed by the target that needs it: Debian packages
# where we are root (or say which are missing), Python packages into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

BUILD_PACKAGES := gcc libc6-dev python3-dev python3-venv
NETWORK_PACKAGES := iptables nftables iproute2 procps util-linux
TEST_PACKAGES := bind9-dnsutils chromium dnsmasq-base haproxy iperf3 libnginx-mod-stream nginx-light tshark
BENCH_PACKAGES := haproxy nginx-light libnginx-mod-stream strace valgrind

# What `make check` tests unless told otherwise (make check TESTS=tests/forwarding): decisions, and what is quick beside them.
TESTS := $(wildcard tests/test_*.py) tests/docs tests/model tests/routing tests/proxier tests/portals tests/config tests/telemetry tests/cluster/objects

.PHONY: help setup check test mutants demo bench format clean packages build-packages network-packages test-packages bench-packages

help:
	@echo "make setup   everything that working on userproxy needs, into .venv; the other targets do it, too"
	@echo "make check   lint, types, import contracts and the quick tests: half a minute, no root (TESTS=tests/AREA for others)"
	@echo "make test    tests, lint, types and import contracts (as root: also in network namespaces)"
	@echo "make mutants break the code in thousands of small ways and count what the tests notice (hours; see docs/testing.md)"
	@echo "make demo    watch userproxy balance real traffic in a private network; changes nothing here"
	@echo "make bench   measure all that docs/performance.md shows into bench-report/ (half an hour; BENCH=--quick: proxies alone, briefly)"
	@echo "make format  format the code"

setup: packages $(BIN)/pytest

check: $(BIN)/pytest
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports >/dev/null || $(BIN)/lint-imports
	$(BIN)/python -m pytest -q -p tests.quick --numprocesses 2 --dist worksteal $(TESTS)

test: packages $(BIN)/tox
	$(BIN)/tox run-parallel --parallel 2 --parallel-live

mutants: packages $(BIN)/tox
	$(BIN)/tox run -e mutants -- $(or $(MUTANTS),routing proxier portals forwarding)

demo: build-packages network-packages $(BIN)/userproxy
	$(BIN)/userproxy demo

bench: build-packages bench-packages $(BIN)/userproxy
	$(BIN)/pip install --quiet --editable '.[bench,plot]'
	$(BIN)/python -m examples.benchmarks $(or $(BENCH),everything)

format: $(BIN)/pytest
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .tox build dist *.egg-info

packages: build-packages network-packages test-packages

build-packages:
	@sh .ci/packages $(BUILD_PACKAGES)

network-packages:
	@sh .ci/packages $(NETWORK_PACKAGES)

test-packages:
	@sh .ci/packages $(TEST_PACKAGES)

bench-packages:
	@sh .ci/packages $(BENCH_PACKAGES)

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(BIN)/tox: $(BIN)/pip
	$(BIN)/pip install --quiet 'tox>=4'
	@touch $@

$(BIN)/userproxy: $(BIN)/pip pyproject.toml
	$(BIN)/pip install --quiet --editable .
	@touch $@

$(BIN)/pytest: $(BIN)/pip pyproject.toml
	$(BIN)/pip install --quiet --editable '.[test,check]'
	@touch $@
