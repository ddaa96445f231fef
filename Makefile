# Everything starts here: `make help`. On a machine with Python 3.11 (with venv), make and git, every target
# sets itself up first and is quick when that is already done.

PYTHON ?= $(shell python3.11 -c "" 2>/dev/null && echo python3.11 || echo python3)
UV_VERSION := $(shell sed -n "s/^uv==\([0-9.]*\).*/\1/p" requirements-uv.lock)
TORCH_VERSION := 2.13.0
COVERAGE_VERSION := 7.11.0

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UV := $(BIN)/uv
INSTALL := $(UV) pip install --quiet --python $(BIN)/python
SPACE := $(subst ,, )

# torch comes from the wheel folder that pip is told to use, else in the build that fits this machine.
ifdef PIP_FIND_LINKS
TORCH_FROM := UV_FIND_LINKS="$(subst $(SPACE),$(,),$(strip $(PIP_FIND_LINKS)))"
TORCH_BACKEND :=
else
TORCH_FROM :=
TORCH_BACKEND := --torch-backend=auto
endif
, := ,

export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
# Where it is set (in containers, say) every test process compiles all tests anew: 20 s of collection in place of 8.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
RAW ?= data/openkbp
OFFLINE_BASE ?= ctan-base:bookworm
export TORCH BASE_IMAGE DOCKER_BUILD_FLAGS ALLOW_DIRTY
.PHONY: help setup demo phantoms test test-fast test-hard mutants coverage lint format pipeline lock image test-containers release audit bench ui clean docs

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## Create .venv with everything pinned (done by every other target when needed)
	@echo "$(VENV) is ready"

$(READY): requirements.lock requirements-dev.lock requirements-uv.lock pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit("ctan needs Python 3.11 or newer, $(PYTHON) is %d.%d; say make PYTHON=..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@echo "setting up $(VENV) (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test "$$($(UV) --version 2>/dev/null | cut -d' ' -f2)" = "$(UV_VERSION)" || $(BIN)/python -m pip install --quiet --require-hashes -r requirements-uv.lock
	@$(INSTALL) --require-hashes --no-deps -r requirements.lock -r requirements-dev.lock
	@$(TORCH_FROM) $(INSTALL) $(TORCH_BACKEND) torch==$(TORCH_VERSION)
	@$(INSTALL) --no-deps --no-build-isolation --reinstall-package ctan -e .
	@touch $@

demo: $(READY)  ## Phantom patients to a judged, registered model and a predicted patient: all four architectures
	@$(BIN)/dvc pull --quiet data/openkbp
	@$(BIN)/ctan run --source data/openkbp --profile smoke --promote
	@echo && echo "The registered model, asked about a patient without dose and organs"
	@$(BIN)/ctan predict models:/ctan-openkbp-phantom@challenger data/openkbp/validation-pats/pt_201 \
		--out "$${CTAN_WORKSPACE:-workspace}/predicted"

phantoms: $(READY)  ## Write the packaged phantoms of every data set anew (then: dvc commit, dvc push)
	@rm -rf data/openkbp data/prostate data/ham10000 data/stoic
	@$(BIN)/ctan data phantom data/openkbp --train 12 --validation 4
	@$(BIN)/ctan data phantom data/prostate --dataset prostate --train 8 --validation 2
	@$(BIN)/ctan data phantom data/ham10000 --dataset ham10000 --train 40 --validation 10
	@$(BIN)/ctan data phantom data/stoic --dataset stoic --train 12 --validation 4

# One test process a core, each with one thread: PyTorch's threads suffer badly where cores are shared.
test: $(READY)  ## Run all tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n logical --maxprocesses 4 --dist loadfile \
		--no-loadscope-reorder $(ARGS)

# Rooms whose tests are arithmetic on small arrays, settings and texts: together less than a minute of one core.
FAST := tests/metrics tests/networks tests/cases/test_geometry.py tests/evaluation/test_improvement.py \
	tests/intake/test_splits.py tests/intake/test_manifest.py tests/cluster/test_cron.py tests/cluster/test_values.py \
	tests/dicom/test_dicomrt_rois.py tests/dicom/test_dicomrt_raster.py tests/project/test_config.py \
	tests/project/test_dependencies.py tests/project/test_progress.py tests/project/test_reading.py

test-fast: $(READY)  ## Run quick tests of many rooms: a minute of one core
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow" $(FAST) $(ARGS)

test-hard: $(READY)  ## Attack our own formats with 2,000 mutations of each, the rasteriser with 1,500 shapes, a training with 50 kills; run all tutorials
	@CTAN_MUTATIONS=2000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -k mutation tests/records tests/training/test_checkpoint.py tests/tracking/test_ledger.py $(ARGS)
	@CTAN_KILLS=50 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -k killed_at_random tests/training/test_survival.py $(ARGS)
	@CTAN_SHAPES=1500 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -k "random_shapes or keyholes" tests/dicom/test_dicomrt_raster.py $(ARGS)
	@CTAN_TUTORIALS=all OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/journeys/test_tutorials.py $(ARGS)

mutants: $(READY)  ## Change code that decides, one place at a time: some test must notice (ARGS="--number 60 --seed 0")
	@$(BIN)/python -m tests.mutants $(ARGS)

# coverage.py lies in a folder of its own: it is needed for nothing else. Every process of a test takes it along.
coverage: $(READY)  ## Measure which lines of ctan/ the tests run, in all their processes (ARGS=tests/store for a part)
	@mkdir -p build && rm -f build/.coverage*
	@test -d build/coverage-py || $(UV) pip install --quiet --python $(BIN)/python --target build/coverage-py coverage==$(COVERAGE_VERSION)
	@echo 'import coverage; coverage.process_startup()' > build/coverage-py/sitecustomize.py
	@export PYTHONPATH=$(CURDIR)/build/coverage-py COVERAGE_PROCESS_START=$(CURDIR)/pyproject.toml \
		COVERAGE_FILE=$(CURDIR)/build/.coverage OMP_NUM_THREADS=1; \
		$(BIN)/python -m pytest -q $(if $(ARGS),$(ARGS),-n logical --maxprocesses 4 --dist loadfile); \
		$(BIN)/python -m coverage combine --quiet build && \
		$(BIN)/python -m coverage report --sort=cover --skip-covered --fail-under=$(if $(ARGS),0,92)

lint: $(READY)  ## Check format, lint, types, the rooms' contracts, and that the compiled pipeline is up to date
	@mkdir -p build
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo > build/imports.log 2>&1 || { cat build/imports.log; exit 1; }
	@$(BIN)/python -m pipelines.signatures --check
	@for name in ctan retrain; do $(BIN)/python -m pipelines.$$name build/$$name.yaml && \
		cmp --silent build/$$name.yaml pipelines/$$name.yaml || { echo "pipelines/$$name.yaml is stale: run make pipeline"; exit 1; }; done

format: $(READY)  ## Format the sources and fix what ruff can
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

# The site's own libraries lie in a folder of their own: they are needed for nothing else.
docs: $(READY)  ## Build the documentation as a site in build/site, references made from the code; links are checked
	@$(BIN)/python docs/site.py
	@test -x build/docs-python/bin/zensical || { $(UV) venv --quiet --python $(BIN)/python build/docs-python && \
		$(UV) pip install --quiet --python build/docs-python/bin/python --require-hashes -r requirements-docs.lock; }
	@build/docs-python/bin/zensical build --clean --strict
	@echo "look at it: $(BIN)/python -m http.server --directory build/site 8000, then http://127.0.0.1:8000"

pipeline: $(READY)  ## Write the parameters into pipelines/*.py and compile them to YAML
	@$(BIN)/python -m pipelines.signatures
	@$(BIN)/python -m pipelines.ctan
	@$(BIN)/python -m pipelines.retrain
	@$(BIN)/python -m pipelines.tune

# torch and what only its CUDA build needs stay out of the lock: a machine without a GPU must not fetch gigabytes.
lock: $(READY)  ## Resolve requirements*.in to their locks, with hashes
	@mkdir -p build && echo 'torch ; python_version < "3"' > build/overrides.txt
	@for name in requirements requirements-dev requirements-uv requirements-docs; do \
		$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
			--custom-compile-command "make lock" --override build/overrides.txt $$name.in -o $$name.lock || exit 1; \
	done
	@! grep -nE '^(torch=|triton|nvidia-|cuda-)|://| @ ' requirements.lock requirements-dev.lock || { echo "a lock holds what it must not"; exit 1; }

# The image needs docker and git alone, no .venv: docs/images.md.
image:  ## Build the container image (TORCH=cpu or cuda, BASE_IMAGE=...; docs/images.md)
	@TORCH_VERSION=$(TORCH_VERSION) infra/docker/build.sh

test-containers: $(READY)  ## Build the image on a base of Debian packages and run the pipeline in containers
	@infra/docker/offline-base.sh $(OFFLINE_BASE)
	@$(MAKE) --no-print-directory image TORCH=cpu BASE_IMAGE=$(OFFLINE_BASE)
	@$(BIN)/python -m pytest -q tests/containers $(ARGS)

release: $(READY)  ## Wheel, image and pipelines by digest in dist/ (REGISTRY=host/project to push the image)
	@TORCH_VERSION=$(TORCH_VERSION) $(BIN)/python infra/release.py $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(IMAGE),--image $(IMAGE))

audit: $(READY)  ## Ask the Python packaging advisory database about every locked library (needs pypi.org)
	@$(UV) tool run --quiet pip-audit==2.10.1 --strict --disable-pip --require-hashes -r requirements.lock

bench: $(READY)  ## Measure ingestion, store and metrics against plain code (RAW=folder of raw patients)
	@test "$(RAW)" != data/openkbp || $(BIN)/dvc pull --quiet data/openkbp
	@$(BIN)/python benchmarks/ingestion.py $(RAW)
	@$(BIN)/python benchmarks/store.py $(RAW)
	@$(BIN)/python benchmarks/metrics.py --raw $(RAW)
	@$(BIN)/python benchmarks/versions.py
	@$(BIN)/python benchmarks/memory.py $(RAW)
	@$(BIN)/python benchmarks/train_step.py
	@$(BIN)/python benchmarks/busy_cores.py

ui: $(READY)  ## Show training runs, models and the registry in a browser
	@$(BIN)/ctan ui

clean:  ## Remove caches and build outputs; .venv, data and workspace stay
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
