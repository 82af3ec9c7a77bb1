.DEFAULT_GOAL := help
.PHONY: help install doctor demo test test-slow lint format lock clean

bin := .venv/bin
python := $(bin)/python
uv := .venv-lock/bin/uv
compile := $(uv) pip compile --quiet --no-annotate --custom-compile-command "make lock" \
  --python-version 3.11 --python-platform x86_64-manylinux_2_28
export OMP_NUM_THREADS ?= 2
# Threads that wait sleep: spinning ones slow each other down tenfold when cores are shared.
export OMP_WAIT_POLICY ?= PASSIVE

help:  ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  FLAVOUR=cpu or FLAVOUR=cuda overrides what install finds, PYTHON=... the interpreter"

install:  ## make .venv from the lock: CUDA where there is an NVIDIA driver, else CPU
	@requirements/install.sh

doctor: install  ## check the installation and the machine
	@$(python) -m recsys.doctor

demo: install  ## simulate a click log, train, test, export and score it
	$(python) -m recsys simulate --out runs/demo_data
	$(python) train.py fit -c configs/experiment/demo.yaml
	$(python) -m recsys export runs/demo --out runs/demo/bundle
	$(python) -m recsys score runs/demo/bundle runs/demo_data --out runs/demo/scores \
	  --columns user_id,item_id,timestamp,click,true_probability
	@echo "The last tenth of the log is the test; true_probability is what clicks were drawn from:"
	@$(python) -m recsys report runs/demo/scores --label click \
	  --scores score_click,true_probability --user user_id --last 0.1
	@echo "run: runs/demo   metrics: runs/demo/metrics.json   scores: runs/demo/scores"

test: install  ## lint, then all tests but the slow ones
	@.ci/check

test-slow: install  ## the tests that take minutes
	$(python) -m pytest -m slow

lint: install  ## style, import layers, types
	@.ci/check lint

format: install  ## rewrite to style
	@$(bin)/ruff check --fix-only --quiet .
	@$(bin)/ruff format .

lock:  ## write requirements/cpu.txt and cuda.txt from the .in files, keeping pins that still fit
	@[ -x $(uv) ] || { python3 -m venv .venv-lock && .venv-lock/bin/pip install --quiet uv==0.13.8; }
	$(compile) requirements/cpu.in --override requirements/cpu-overrides.txt -o requirements/cpu.txt
	$(compile) requirements/cuda.in -o requirements/cuda.txt

clean:  ## remove caches and the environments; runs/ stays
	rm -rf .venv .venv-lock .pytest_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find features recsys models tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
