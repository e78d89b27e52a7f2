# Every target makes .venv on first use and makes it anew when the dependencies change.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/installed
SHELL := bash

.PHONY: help demo test fuzz soak lint fmt bench peers study protos clean
.DEFAULT_GOAL := help

help: ## what there is to make
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(STAMP): pyproject.toml constraints.txt $(wildcard serve/nghttp2/*.[ch])
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m quorem.serve.nghttp2.build || true  # the server runs without it
	touch $@

demo: $(STAMP) ## synthetic clicks all the way to scores: a page and a table, in demo-out/
	$(BIN)/quorem demo --out demo-out

test: $(STAMP) ## every test; set QUOREM_DATA for those on real rows
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations 20

FUZZ_SECONDS ?= 600

fuzz: $(STAMP) ## bundles, requests and HTTP/2 frames spoilt at random for ten minutes, or FUZZ_SECONDS: none is half read, none ends a process
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python tests/fuzz_shim.py & shim=$$!; \
	FUZZ_SECONDS=$$(( $(FUZZ_SECONDS) / 2 )) $(BIN)/python tests/fuzz.py && \
	FUZZ_SECONDS=$$(( $(FUZZ_SECONDS) / 2 )) $(BIN)/python tests/fuzz_requests.py && \
	wait $$shim

soak: $(STAMP) ## a server under load for ten minutes, or SOAK_SECONDS, while versions change, bad ones come and workers die
	$(BIN)/python tests/soak.py

lint: $(STAMP) ## style, types and import directions
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright --level error
	$(BIN)/lint-imports --no-logo

fmt: $(STAMP) ## format, and mend what can be mended
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: build/models/ctr ## rate and latency of `quorem serve` on this machine, its client beside it
	@coproc server { exec $(BIN)/quorem serve build/models --port 0 --json; }; \
	trap 'kill $$server_PID && wait $$server_PID' EXIT; \
	read -r ready <&$${server[0]} && \
	address=$$(sed -E 's/.*"address": "([^"]+)".*/\1/' <<< "$$ready") && \
	$(BIN)/quorem bench "$$address" --out build/bench.json --page build/bench.html

peers: $(STAMP) ## KServe, MLServer and PyTriton on our exported repository, in environments of their own: about fifteen minutes
	$(BIN)/python -m benchmarks.peers --work build/peers --out build/peers.json

build/models/ctr: | $(STAMP)
	$(BIN)/quorem train synthetic --out build/run --set train.epochs=1
	$(BIN)/quorem export build/run --to $@

STUDIES ?= partitions/frappe partitions/movielens partitions/synthetic autodim/frappe autodim/movielens autodim/planted
files_of = $(or $(wildcard benchmarks/$(1).toml benchmarks/*/$(1).toml),$(error no study benchmarks/$(1).toml))

study: $(STAMP) ## the studies of benchmarks/, each run once, into build/study; STUDIES=smoke takes a minute
	for file in $(foreach study,$(STUDIES),$(call files_of,$(study))); do \
		name=$${file#benchmarks/}; \
		$(BIN)/quorem compare $$file --out build/study/$${name%.toml} || exit; \
	done

protos: $(STAMP) ## the generated code of protos/*.proto
	$(BIN)/python -m quorem.protos

clean: ## all that make made
	rm -rf serve/nghttp2/_shim_* .venv build dist demo-out *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
