PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
STOCK := .venv-s3prl-stock
JOBS ?= 2

.PHONY: venv demo test test-slow test-s3prl-stock lint format bench clean

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[demo,dev,s3prl,onnx]'
	touch $(STAMP)

demo: venv  ## the whole story on synthetic speech, into the folder demo/
	$(BIN)/distill demo --out demo

test: venv  ## every test that needs neither network nor GPU nor long, in JOBS processes
	$(BIN)/python -m pytest -m "not slow" --numprocesses $(JOBS) --dist loadfile

test-slow: venv  ## the others: whole trainings, several processes, killed runs, bombs
	$(BIN)/python -m pytest -m slow --numprocesses $(JOBS) --dist loadfile

test-s3prl-stock:  ## the upstream on torch and torchaudio 2.8, where s3prl works as it is; 5 GB, minutes
	test -x $(STOCK)/bin/python || $(PYTHON) -m venv $(STOCK)
	grep -vE '^(torch|torchaudio)==' constraints.txt > $(STOCK)/constraints.txt
	$(STOCK)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(STOCK)/constraints.txt \
		torch==2.8.0 torchaudio==2.8.0 --editable '.[s3prl]' pytest
	$(STOCK)/bin/python -m pytest tests/upstream

lint: venv  ## style, types, then who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: venv  ## every benchmark, on one thread: hours with the default of five or seven rounds
	$(BIN)/python -m bench all --rounds 3

clean:
	rm -rf $(VENV) $(STOCK) build dist *.egg-info
