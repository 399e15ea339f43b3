# `make run` and `make test` are all a newcomer needs; both create the virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
HUB_PORT ?=
EDGE_PORT ?=
DATA ?= .bramble
ARGS ?=
PEERS ?= ../shared/bench/peers
GEN ?= ../shared/bench/gen.py
TARGETS ?= 10
WORK ?= .bramble/bench
PYTEST := $(BIN)/python -m pytest -q
JOBS ?= $(shell nproc)
# Integration tests mostly wait for real programs: more at a time than there are cores.
WAITERS ?= 4

.PHONY: run demo test check lint types unit conformance integration armhf kills fuzz fuzz-api bench-query bench-lag bench-scrape bench-pull bench-storage bench-edge bench-frames bench-promql docs format clean

run: $(VENV)/.run ## hub and one agent on this machine, discovered, queried, alerting
	@$(BIN)/bramblectl run --data $(DATA)/run $(if $(HUB_PORT),--hub-port $(HUB_PORT)) $(if $(EDGE_PORT),--edge-port $(EDGE_PORT)) $(ARGS)

demo: $(VENV)/.run ## the same with five agents on fixture Pis, one of them too hot
	@$(BIN)/bramblectl demo --data $(DATA)/demo --trees tests/fixtures/pis $(if $(HUB_PORT),--hub-port $(HUB_PORT)) $(if $(EDGE_PORT),--edge-port $(EDGE_PORT)) $(ARGS)

test: check conformance integration ## everything that proves it

check: lint types unit ## what to run before each commit

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

unit: $(VENV)/.dev
	$(PYTEST) -n $(JOBS) -m "not integration and not conformance"

conformance: $(VENV)/.dev ## against the data beside the checkout, where it is there
	$(PYTEST) -n $(JOBS) -m "conformance and not integration"

integration: $(VENV)/.dev ## real programs; needs prometheus and prometheus-node-exporter installed, skips loudly without
	$(PYTEST) -n $(WAITERS) --dist worksteal -m "integration and not alone"
	$(PYTEST) -m "integration and alone"

bench-query: $(VENV)/.dev ## queries beside Prometheus and VictoriaMetrics: PEERS=DIR GEN=FILE [TARGETS=100] [WORK=DIR]
	$(BIN)/python -m tests.bench.query --peers $(PEERS) --gen $(GEN) --work $(WORK)/$(TARGETS) --targets $(TARGETS) $(ARGS)

.PHONY: bench-dashboard
bench-dashboard: $(VENV)/.dev ## a dashboard again and again, beside VictoriaMetrics with its cache: as bench-query
	$(BIN)/python -m tests.bench.dashboard --peers $(PEERS) --gen $(GEN) --work $(WORK)/$(TARGETS) --targets $(TARGETS) $(ARGS)

.PHONY: bench-live
bench-live: $(VENV)/.dev ## queries on what a hub pulled just now, beside Prometheus and VictoriaMetrics: as bench-query
	$(BIN)/python -m tests.bench.live --peers $(PEERS) --gen $(GEN) --work $(WORK)/$(TARGETS) --targets $(TARGETS) $(ARGS)

bench-lag: $(VENV)/.dev ## the event loop under the worst queries beside intake, on a store that bench-query filled: [TARGETS=100] [WORK=DIR]
	$(BIN)/python -m tests.bench.loop_lag --store $(WORK)/$(TARGETS)/bramble --data $(WORK)/$(TARGETS)/data --template $(WORK)/$(TARGETS)/template.txt $(ARGS)

bench-scrape: $(VENV)/.dev ## CPU a scraped sample beside Prometheus: BENCH_DATA as gen.py made it of TEMPLATE, PROMETHEUS its binary
	$(BIN)/python -m tests.bench.scrape --data $(BENCH_DATA) --template $(TEMPLATE) --prometheus $(or $(PROMETHEUS),prometheus) $(ARGS)

.PHONY: bench-native
bench-native: $(VENV)/.dev ## queries on native histograms beside Prometheus 3: PEERS=DIR [WORK=DIR]
	$(BIN)/python -m tests.bench.native_histograms --peers $(PEERS) --work $(WORK)/native $(ARGS)

.PHONY: bench-rules
bench-rules: $(VENV)/.dev ## a hundred rules beside Prometheus 3, and whether both record the same: as bench-scrape
	$(BIN)/python -m tests.bench.rules --data $(BENCH_DATA) --template $(TEMPLATE) --prometheus $(or $(PROMETHEUS),prometheus) $(ARGS)

bench-pull: $(VENV)/.dev ## CPU and loop lag while frames are pulled from 100 and 1,000 agents: BENCH_DATA, TEMPLATE as for bench-scrape
	$(BIN)/python -m tests.bench.pull --data $(BENCH_DATA) --template $(TEMPLATE) $(ARGS)

bench-storage: $(VENV)/.dev ## all that storage promises beside Prometheus; as root on loop devices: BENCH_DATA as gen.py made it, PROMETHEUS, NODE_EXPORTER
	$(BIN)/python -m tests.bench.storage_suite --data $(BENCH_DATA) --prometheus $(or $(PROMETHEUS),prometheus) --node-exporter $(or $(NODE_EXPORTER),prometheus-node-exporter) $(ARGS)

bench-edge: $(VENV)/.dev ## the agent's CPU and memory beside node_exporter: NODE_EXPORTER its binary
	$(BIN)/python -m tests.bench.edge_scrape --peer $(or $(NODE_EXPORTER),prometheus-node-exporter) $(ARGS)

bench-frames: $(VENV)/.dev ## both encoders beside plain zstd: BENCH_DATA as gen.py made it
	$(BIN)/python -m tests.bench.frames --data $(BENCH_DATA) $(ARGS)

bench-promql: $(VENV)/.dev ## range functions beside loops, and parsing of hostile text
	$(BIN)/python -m tests.bench.promql_functions
	$(BIN)/python -m tests.bench.parser_hostile

ARMHF ?= .bramble/armhf
armhf: $(VENV)/.dev ## the unit tests on 32-bit ARM under qemu; as root, with debootstrap and qemu-user-static
	tests/armhf/run.sh $(ARMHF) $(BIN)/python -m "not integration and not conformance" $(ARGS)

kills: $(VENV)/.dev ## kill -9 of log and store under ingest, 200 rounds each; every file of a store cut at, and flipped in, each byte
	BRAMBLE_KILL_ROUNDS=200 $(PYTEST) -m integration tests/integration/test_log_kill.py tests/integration/test_store_killed.py
	BRAMBLE_CUT_EVERY=1 $(PYTEST) tests/common/tsdb/test_store_files.py tests/common/tsdb/test_block.py

FUZZ_SECONDS ?= 60
fuzz: $(VENV)/.dev ## atheris on the PromQL parser, until it finds something or FUZZ_SECONDS are over
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[fuzz]'
	$(BIN)/python -m tests.fuzz.promql_parser -max_total_time=$(FUZZ_SECONDS) -max_len=300 -timeout=10

fuzz-api: $(VENV)/.dev ## schemathesis on a started hub, for FUZZ_SECONDS
	$(BIN)/python -m tests.fuzz.api --seconds $(FUZZ_SECONDS) $(ARGS)

.PHONY: fuzz-promql
fuzz-promql: $(VENV)/.dev ## random queries to a hub and a Prometheus 3 (PROMETHEUS its binary), samples in memory and in blocks: ARGS="--seed 1 --count 5000"
	$(BIN)/python -m tests.fuzz.promql_answers --prometheus $(or $(PROMETHEUS),prometheus) $(ARGS)

docs: $(VENV)/.dev ## renew the reference parts of edge/README.md and hub/README.md
	$(BIN)/python -m tests.reference
	$(BIN)/python -m tests.edge.collectors.reference

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Bramble needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "cannot create $(VENV): install python3-venv, or give another place with VENV=DIR"; exit 1; }

$(VENV)/.run: pyproject.toml | $(BIN)/python
	@echo "installing Bramble into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[edge,hub]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "installing Bramble and its tests' needs into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV) .bramble build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
