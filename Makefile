# make demo | test | test-fast | test-faults | lint | setup. Each makes .venv first and installs what this machine needs into it.
PYTHON ?= python3
GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo yes)
REQUIREMENTS := $(if $(GPU),requirements.txt,requirements-cpu.txt)
OVERRIDES := $(if $(GPU),,--override overrides-cpu.txt)
BIN := .venv/bin
READY := .venv/ready-$(REQUIREMENTS)

.PHONY: setup demo test test-fast test-faults lint
setup: $(READY)

$(READY): requirements.txt requirements-cpu.txt requirements-common.txt requirements-dev.txt overrides-cpu.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v in ((3, 11), (3, 12)) else "Python 3.11 or 3.12 is needed, $(PYTHON) is %d.%d: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r $(REQUIREMENTS) -r requirements-dev.txt $(OVERRIDES)
	touch $@

demo: setup
	$(BIN)/python -m toy.demo

# Two files at a time; one at a time where they would share a GPU. One thread each: the matrices are tiny.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(if $(GPU),,-n 2 --dist loadfile)
test: lint
	$(PYTEST)

test-fast: setup
	$(PYTEST) -m "not slow and not gpu"

# Every fault by name, ten kills, 10,000 fuzzed inputs of each kind; results for docs/reliability.md in runs/.
test-faults: setup
	mkdir -p runs
	FAULTS=1 KILLS=10 FUZZ=10000 FAULTS_TABLE=$(CURDIR)/runs/faults.jsonl OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest tests/faults tests/test_fuzz.py tests/test_security.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
