# The few commands that people type. All of them set up what they need in $(VENV) first.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
WORKERS ?= auto
SECONDS ?= 60

.PHONY: help install demo test lint types format fuzz baselines benchmark coding-benchmark claim-benchmark healing-benchmark sharing-benchmark clean

help:
	@echo "make demo        compress the built-in model with recipes/prune+seed+int8.yaml"
	@echo "make test        lint, types, tests and docstring examples"
	@echo "make fuzz        mutants of good files against the decoder: make fuzz SECONDS=600"
	@echo "make format      rewrite the code in the house style"
	@echo "make baselines   every recipe of the README's table, one after another"
	@echo "make benchmark   time and memory on a larger model: make benchmark MODEL=folder DATA=file.tsv"
	@echo "make coding-benchmark   the peers side by side: make coding-benchmark MINILM=folder BERT_TINY=folder DATA=file.tsv TRAIN=file.tsv"
	@echo "make healing-benchmark   hours of training: make healing-benchmark MODEL=folder TEACHER=folder DATA=file.tsv TRAIN=file.tsv"
	@echo "make sharing-benchmark   planes that tensors share: make sharing-benchmark MODEL=folder DATA=file.tsv TRAIN=file.tsv"
	@echo "make claim-benchmark   the claim's table, replayed: make claim-benchmark MODEL=folder DATA=file.tsv TRAIN=file.tsv"
	@echo "make clean       remove the environment and caches"

install: $(INSTALLED)

# torch first and alone: its version decides which build is taken.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25'
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(INSTALLED)
	$(BIN)/stackc run recipes/prune+seed+int8.yaml --overwrite

test: lint types
	$(BIN)/python -m pytest -n $(WORKERS) --doctest-modules stackc transforms tests

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: $(INSTALLED)
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The time is by the clock; one process for each processor. Findings land in tests/fuzz/corpus and make the tests fail.
fuzz: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --seconds $(SECONDS)

baselines: $(INSTALLED)
	$(BIN)/python benchmarks/baselines/run.py

benchmark: $(INSTALLED)
	$(BIN)/python benchmarks/speed/run.py --model $(MODEL) --data $(DATA)

# nncodec asks for an older numpy and for image libraries that its coder does not use.
coding-benchmark: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[coding-benchmark]'
	$(BIN)/python -m pip install --quiet --no-deps nncodec==2.1.3
	$(BIN)/python benchmarks/coding/planes.py --minilm $(MINILM) --bert-tiny $(BERT_TINY)
	$(BIN)/python benchmarks/coding/limit.py --minilm $(MINILM) --bert-tiny $(BERT_TINY)
	$(BIN)/python benchmarks/coding/speed.py --model $(MINILM)
	$(BIN)/python benchmarks/coding/accuracy.py --model minilm=$(MINILM) --model bert-tiny=$(BERT_TINY) --data $(DATA) --train $(TRAIN)
	$(BIN)/python benchmarks/coding/plot.py

healing-benchmark: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/healing/run.py --model $(MODEL) --teacher $(TEACHER) --data $(DATA) --train $(TRAIN)
	$(BIN)/python benchmarks/healing/report.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/healing/step_time.py --model $(MODEL) --train $(TRAIN)

sharing-benchmark: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/sharing/run.py --model $(MODEL) --data $(DATA) --train $(TRAIN)
	$(BIN)/python benchmarks/sharing/report.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/sharing/step_time.py --model $(MODEL) --train $(TRAIN)

claim-benchmark: $(INSTALLED)
	$(BIN)/python benchmarks/claim/run.py --model $(MODEL) --data $(DATA) --train $(TRAIN)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
