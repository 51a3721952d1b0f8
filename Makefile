# make test            run the tests
# make test-fast       the lower floors and what keeps the house in order (about a minute), for daily work
# make test-processes  kill training processes and let several work together; longer tests (minutes)
# make demo            train a small hypernetwork on the digits of scikit-learn, then evaluate it
# make lint            check style and types
# make docs-check      run what README and docs show (minutes)
# make notebooks       run all notebooks with small sizes (minutes)
# make trace-models    trace and predict small public models of 16 packages, in an environment of its own (minutes)
# make docs            the documentation as pages, in site/
# make dist            source archive and wheel in dist/; the wheel is tried without the clone
#
# All use the active virtual environment, or make one in .venv, and install this package into it.

PYTHON3 ?= python3
VENV := $(or $(VIRTUAL_ENV),.venv)
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.ghn_jax_installed

# Of the packages of public models, which want older versions of others than the rest does.
MODELS_VENV ?= .venv-models

.PHONY: test test-fast test-processes demo lint docs-check notebooks trace-models docs dist

test: $(INSTALLED)
	$(PYTHON) -m pytest -n 2 --dist worksteal -q

test-fast: $(INSTALLED)
	$(PYTHON) -m pytest -n 2 -q tests/graphs tests/networks tests/ghn tests/deepnets tests/images \
	    tests/test_layers.py tests/test_docs.py tests/test_public_names.py

test-processes: $(INSTALLED)
	$(PYTHON) -m pytest -n 2 --dist loadgroup -q -m "processes or longer"

demo: $(INSTALLED)
	$(PYTHON) experiments/train.py --config=configs/digits.py --config.workdir=runs/digits
	$(PYTHON) experiments/evaluate.py --checkpoint=runs/digits --split=val --num=20 --predefined --num_images=256

lint: $(INSTALLED)
	$(PYTHON) -m pip install --quiet --editable '.[lint]'
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(VENV)/bin/basedpyright --pythonpath $(PYTHON)

docs-check: $(INSTALLED)
	$(PYTHON) benchmarks/check_docs.py

notebooks: $(INSTALLED)
	$(PYTHON) -m pip install --quiet --editable '.[notebooks]'
	$(PYTHON) notebooks/build.py

# KerasHub's models need none of its dependencies that are not here already; TensorFlow is one of them.  Models run
# once, so that compilers need not try hard.
trace-models: $(MODELS_VENV)/.installed
	XLA_FLAGS=--xla_backend_optimization_level=0 $(MODELS_VENV)/bin/python benchmarks/trace_models.py --all --small --check=results/public_models/small.jsonl

$(MODELS_VENV)/.installed: setup.cfg
	$(PYTHON3) -m venv $(MODELS_VENV)
	$(MODELS_VENV)/bin/python -m pip install --quiet --editable '.[public-models]'
	$(MODELS_VENV)/bin/python -m pip install --quiet --no-deps keras-hub==0.32.0
	touch $@

docs: $(INSTALLED)
	$(PYTHON) -m pip install --quiet --editable '.[docs]'
	$(PYTHON) -m mkdocs build --strict --quiet

dist: $(PYTHON)
	$(PYTHON) -m pip install --quiet build
	$(PYTHON) -m build --outdir dist .
	$(PYTHON) benchmarks/check_dist.py dist

$(INSTALLED): requirements.txt setup.cfg pyproject.toml | $(PYTHON)
	$(PYTHON) -m pip install --quiet --editable '.[test]'
	touch $@

$(PYTHON):
	$(PYTHON3) -m venv $(VENV)
