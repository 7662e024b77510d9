# make test: fresh clone to green tests.   make demo: fresh clone to a finished `dvc repro` on the embedded sample.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
MEDIA ?= ../shared/media

.PHONY: setup test lint types unit test-faults demo repro notebook bench bench-learning clean

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

test: lint types unit

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

# Files of tests side by side on up to 4 cores: what a file prepares, it prepares once.
unit: $(INSTALLED)
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

# Kills, hangs, full disks and damaged files, in real runs: some twenty minutes on 2 cores.
test-faults: $(INSTALLED)
	$(BIN)/python -m pytest -m faults -n logical --maxprocesses 4 --dist worksteal

demo: repro
	$(BIN)/python -m pipeline.store verify data/store
	@echo
	@cat results/validation/evaluation/summary.txt
	@echo "scores of the unlabelled videos: results/test/submission.csv"

# `dvc repro` with the programs of the virtual environment.
repro: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc repro

# The notebook, executed, as docs/inspect-clips.md. It shows the demo's store, or what FACECLIPS_STORE, FACECLIPS_VIDEOS and
# FACECLIPS_SCORES name, so keep faces that may not be published out of the repository.
notebook: $(INSTALLED)
	$(BIN)/python -m notebooks.render

# Figures beside their goals, into docs/benchmarks.md: an hour on 2 cores that have nothing else to do. MEDIA: a folder
# with clips/ and bench_1080p/, or of your own videos. ONLY=extract_speed,detect_speed: these again, the others as before.
bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.all --media $(MEDIA) $(if $(ONLY),--only $(ONLY))

# An hour and a quarter on 2 cores: log loss on people never seen in training.
bench-learning: $(INSTALLED)
	$(BIN)/python -m benchmarks.learning
	$(BIN)/python -m benchmarks.face_label

clean:
	rm -rf data runs results .pytest_cache .mypy_cache .ruff_cache .hypothesis
