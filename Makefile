# Everything here works on a fresh clone with nothing but Python (3.10 or newer) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUNS ?= runs
# More options of `uv pip install`, such as --resolution lowest-direct.
UV_OPTIONS ?=

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: setup
setup: $(STAMP) ## Build .venv (done by every other target where it is missing)

# uv resolves and installs in seconds; it lives inside the environment, so nothing else is touched.
$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --quiet $(UV_OPTIONS) --editable '.[dev]'
	touch $@

.PHONY: demo
demo: $(STAMP) ## Train a small network, see INT8 break it on a tool chain, and repair it (5 minutes on 2 cores)
	$(BIN)/python -m depth_distill fit --config configs/quickstart.yaml --runs_dir $(RUNS)
	@echo
	@echo "Now to INT8, for a tool chain that computes the last Sigmoid as a hard sigmoid, as some do by default."
	$(BIN)/python -m depth_distill export --checkpoint $(RUNS)/quickstart/latest/checkpoints/best.ckpt --target hard-sigmoid \
		--backends onnxruntime --images 64 --out $(RUNS)/quickstart/latest/bundle
	@echo "next    your own network: depth-distill harden model.onnx --images photos --out model.hardened.onnx"
	@echo "        your own data: README.md, On your own data; INT8 is bad already: docs/int8_is_bad.md"

CKPT ?= $(error give a checkpoint: make export-npu CKPT=runs/.../checkpoints/last.ckpt)
TARGET ?= per-tensor-minmax
OUT ?= bundle
.PHONY: export-npu
export-npu: $(STAMP) ## Bundle for the NPU: CKPT=runs/.../last.ckpt TARGET=per-tensor-minmax OUT=bundle ARGS=...
	$(BIN)/python -m depth_distill export --checkpoint "$(CKPT)" --target "$(TARGET)" --out "$(OUT)" $(ARGS)

# Their pins clash, so each tool chain has an environment of its own; one that cannot be installed does not stop the rest.
RUNNERS := depth_distill/export/backends/runners
BACKENDS ?= $(filter-out onnxruntime,$(patsubst $(RUNNERS)/requirements-%.txt,%,$(wildcard $(RUNNERS)/requirements-*.txt)))
DEPTH_DISTILL_BACKENDS ?= .backends
.PHONY: backends
backends: $(STAMP) ## Environments of the NPU tool chains that exports are verified on (several GB)
	@failed=; for name in $(BACKENDS); do \
		echo "== $$name"; \
		folder="$(DEPTH_DISTILL_BACKENDS)/$$name"; \
		{ test -x "$$folder/bin/python" || $(PYTHON) -m venv "$$folder"; } \
			&& VIRTUAL_ENV="$$(cd "$$folder" && pwd)" $(BIN)/uv pip install --quiet -r $(RUNNERS)/requirements-$$name.txt \
			|| failed="$$failed $$name"; \
	done; \
	if test -n "$$failed"; then \
		echo "could not be installed (exports are not verified on them):$$failed"; exit 1; \
	fi

.PHONY: test
test: $(STAMP) ## Run the tests, in two processes of one thread each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.PHONY: lint
lint: $(STAMP) ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: docs
docs: $(STAMP) ## The documentation as a site, in site/; every link is checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

.PHONY: docs-serve
docs-serve: $(STAMP) ## The documentation while it is written, on port 8000
	$(BIN)/mkdocs serve

.PHONY: check
check: lint docs test ## Everything that CI runs

.PHONY: format
format: $(STAMP) ## Let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: clean
clean: ## Remove .venv and caches; runs stay
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache dist site
