# make aldp       alanine dipeptide: train, sample, analyse; results in runs/aldp/
# make test       the test suite, on all cores; tests marked slow or gpu are skipped by name. ARGS="-n 0" for one process
# make test-slow  all of it (gpu tests where there is a CUDA device)
# make docs       writes the pages of docs/ that are made from the package: settings, columns, figures
# make venv       the environment alone, in .venv, as pinned in requirements.lock
# make lock       writes requirements.lock from the packages in .venv
#
# PYTHON=python3.12 chooses the interpreter, VENV=/some/where another place for the environment.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
STAMP := $(VENV)/.molsampler-installed
RUN := $(VENV)/bin/python

.PHONY: aldp test test-slow docs venv lock
.DELETE_ON_ERROR:

aldp: $(STAMP)
	$(RUN) scripts/run_aldp.py $(ARGS)

test: $(STAMP)
	$(RUN) -m pytest $(ARGS)

test-slow: $(STAMP)
	$(RUN) -m pytest --slow --gpu $(ARGS)

docs: $(STAMP)
	$(RUN) scripts/make_docs.py

venv: $(STAMP)

# The stamp is written last, so an installation that was interrupted is begun again.
$(STAMP): requirements.lock pyproject.toml setup.py
	@command -v $(PYTHON) >/dev/null || { \
	  echo "molsampler needs Python 3.11 or later; '$(PYTHON)' was not found: install it, or name one with make PYTHON=..."; exit 2; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"molsampler needs Python 3.11 or later; $(PYTHON) is {v[0]}.{v[1]}: name a newer one with make PYTHON=python3.12")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments: install its venv module (Debian, Ubuntu: apt install python3-venv)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check -r requirements.lock
	$(RUN) -m pip install --disable-pip-version-check --no-deps -e .
	@touch $@

# A local build's tag (torch 2.13.0+cpu) is cut off, so that the lock is good for any platform's build.
lock:
	@{ echo "# Every package of a working environment, pinned; made by \`make lock\`, installed by \`make venv\`."; \
	   $(RUN) -m pip freeze --all --exclude pip --exclude-editable | grep -v -i '^molsampler' | sed -E 's/^([A-Za-z0-9_.-]+==[0-9][^+]*)\+.*/\1/'; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock
	@echo "requirements.lock: $$(grep -c == requirements.lock) packages"
