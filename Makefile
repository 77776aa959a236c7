# make env    .venv with everything in it (CPU unless a GPU is found), compiled kernels warmed
# make demo   the main job against the simulated microscope: simulator, agent, ZeroMQ, report
# make test   format, lint, types, import rules, all tests
# make bench  the benchmarks; prints a table
# make faults  28 faults and what must hold through each, with the test that shows it
# make soak    100,000 steps of faults, 1,000 acquisitions, 2,000 damaged ledgers, a kill at every boundary (about an hour); first
#              the tests marked `long`, further cases of what make test proves (two minutes)
# make kills   the kills alone: agent, then server of one small campaign, at every boundary; a line each (half an hour on a busy machine)
# make soak-serve  30 campaigns on 3 simulated instruments while workers, broker and `serve` itself are killed (half an hour)
# make fuzz    rubbish to every reader, guided by coverage (atheris): a million inputs or FUZZ_SECONDS (300) for each; all ten millions
#              are an hour and a half of one idle core (FUZZ_SECONDS=1500)
# make limit   error of the phase over the physical limit against frequency: table and figure (ten minutes)
# make test-interop  our files in other programs, and foreign instruments behind our adapters, each in an environment of its own (5 GB)
# make test-day  an operator's day at the page, in a browser
# make test-mqttjs  the status contract seen from mqtt.js, where node is
# make test-deploy  server, agent, broker, Prometheus from the files in deploy/ on this machine: a campaign, every series, an alert
# make test-image  the image, built with podman on a base made here, and `doctor` in it (15 minutes, 5 GB)
# make grafana  Grafana's dashboard, from its code
# make contract  JSON Schemas and AsyncAPI document of the status contract, from its models
# make bench-peers  other engines, each in an environment of its own, and ours on the same recordings (8 GB, about an hour)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# the tests start hundreds of processes, each of which would compile our modules again
unexport PYTHONDONTWRITEBYTECODE

.PHONY: contract grafana test-deploy test-image test-mqttjs test-day env demo faults fuzz kills soak soak-serve test style types pytest lint bench bench-peers test-interop limit clean
.PRECIOUS: .interop/%/.installed

env: $(STAMP)

# torch comes first and alone, at its pinned version: asked for as a range by another package it would be another build. The CPU build
# has to be among what pip finds (the head of constraints.txt says how); else PyPI's comes, with CUDA's libraries.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python >= 3.11 is needed, this is {v.major}.{v.minor}; run make PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "python3-venv is missing: apt-get install python3-venv"; exit 1; }
	$(BIN)/pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet -c constraints.txt -e '.[agent,sim,dashboard,mcp,cluster,test]'
	@if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1; then \
	  cuda=$$(nvidia-smi | sed -n 's/.*CUDA Version: *\([0-9]*\).*/\1/p'); \
	  extra=gpu; [ "$${cuda:-12}" -ge 13 ] && extra=gpu13; \
	  echo "GPU found (CUDA $$cuda): installing the extra $$extra"; $(BIN)/pip install --quiet -e ".[$$extra]"; fi
	@$(BIN)/python -m agent.reconstruction
	@touch $@

demo: env
	$(BIN)/ptychopilot demo

lint: style types

style: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: env
	$(BIN)/lint-imports
	$(BIN)/mypy

# mypy takes a minute of one core where it has no cache yet: the tests begin beside it
test: style
	@$(MAKE) --no-print-directory -j2 types pytest

pytest: env
	$(BIN)/python -m pytest -n auto --dist worksteal

faults: env
	$(BIN)/python tests/faults.py

FUZZED := envelope cbor npy mib hdr ndata1 h5 emd hspy raw
FUZZ_SECONDS ?= 300

fuzz: $(FUZZED:%=fuzz-%)

fuzz-%: .interop/fuzz/.installed
	PYTHONPATH=. .interop/fuzz/bin/python tests/fuzz/fuzz.py $* -runs=1000000 -max_total_time=$(FUZZ_SECONDS)

soak: env
	$(BIN)/python -m pytest -n auto --dist worksteal -m long
	$(BIN)/python -m pytest tests/soak -s -n 0

kills: env
	$(BIN)/python -m pytest tests/soak/test_kills.py -s -n 0

soak-serve: env
	$(BIN)/python tests/integration/facility_soak.py
	$(BIN)/python tests/integration/dask_soak.py

bench: env
	$(BIN)/python -m pytest tests/benchmarks -s

PEERS := py4dstem ptyrad ptychi quantem phaser
PEER_FILES := tests/benchmarks/peers

.peers/%/.installed: $(PEER_FILES)/requirements-%.txt
	$(PYTHON) -m venv .peers/$*
	@torch=$$(grep '^torch==' $<); if [ -n "$$torch" ]; then .peers/$*/bin/pip install --quiet "$$torch"; fi
	.peers/$*/bin/pip install --quiet -r $<
	@touch $@

bench-peers: env $(PEERS:%=.peers/%/.installed)
	$(BIN)/python $(PEER_FILES)/bench.py

READERS := silx rosettasciio libertem py4dstem
READER_FILES := tests/interop

.interop/%/.installed: $(READER_FILES)/requirements-%.txt
	$(PYTHON) -m venv .interop/$*
	.interop/$*/bin/pip install --quiet -r $<
	@touch $@

# test-interop-NAME opens our files with one of READERS
test-interop-%: env .interop/%/.installed
	$(BIN)/python $(READER_FILES)/write_files.py .interop/files-$*
	.interop/$*/bin/python $(READER_FILES)/read_$*.py .interop/files-$*

INSTRUMENTS := tickit temscript epics libertemlive deapi nion
NION_PYTHON ?= python3.12

# Nion Swift needs Python 3.12 or later: make test-drive-nion NION_PYTHON=/path/to/python3.13
.interop/nion/.installed: $(READER_FILES)/requirements-nion.txt
	$(NION_PYTHON) -m venv .interop/nion
	.interop/nion/bin/pip install --quiet -r $<
	@touch $@

# test-drive-NAME drives one of INSTRUMENTS, a foreign program, with our adapter
test-drive-%: env .interop/%/.installed
	$(BIN)/python $(READER_FILES)/drive_$*.py .interop/$*

DRIVERS := libensemble xopt

# test-gest-NAME lets one of DRIVERS, a foreign optimisation program, drive our policy
test-gest-%: env .interop/%/.installed
	PYTHONPATH=.:tests .interop/$*/bin/python $(READER_FILES)/gest_$*.py

# mqtt.js, a client that browsers have, against our agent on a real broker; needs node
test-mqttjs: env
	@command -v npm >/dev/null || { echo "npm is missing: apt-get install nodejs npm"; exit 1; }
	mkdir -p .interop/mqttjs && cp tests/interop/mqttjs/package.json .interop/mqttjs
	npm install --prefix .interop/mqttjs --no-audit --no-fund --silent
	$(BIN)/python -m pytest -q -n 0 tests/interop/test_mqttjs.py

# an operator's day at the page in a real browser; PTYCHOPILOT_SCREENSHOTS=FOLDER keeps pictures of it
test-day: env
	PTYCHOPILOT_DAY=1 $(BIN)/python -m pytest -q -n 0 tests/integration/test_operators_day.py

test-interop: $(READERS:%=test-interop-%) $(INSTRUMENTS:%=test-drive-%) $(DRIVERS:%=test-gest-%)

test-deploy: env
	$(BIN)/python -m pytest -q tests/deploy

test-image: env
	PTYCHOPILOT_IMAGE=1 $(BIN)/python -m pytest -q -s -n 0 tests/deploy/test_image.py

grafana: env
	$(BIN)/python deploy/grafana/make_dashboard.py

contract: env
	$(BIN)/python -m agent.status.asyncapi

limit: env
	$(BIN)/python tests/benchmarks/physical_limit.py

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
