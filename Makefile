# `make run` makes a picture, `make test` tests everything, `make help` lists the rest.
PYTHON ?= python3
PROMPT ?= a dog to the left of a cat
SEED   ?= 42
STEPS  ?= 30
OUT    ?= out/picture.png

# What is typed travels in the environment: neither make nor the shell reads anything into it.
override PROMPT := $(value PROMPT)
override OUT := $(value OUT)
export PROMPT OUT

# Bytecode is kept, whatever the environment says: many processes import the same libraries.
export PYTHONDONTWRITEBYTECODE :=

metadata := settings.ini setup.py pyproject.toml constraints.txt

pytest := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q
parallel := -n auto --dist worksteal

.PHONY: run test test-all test-more test-other-machine test-browser slow-test lab export docs quarto nbdev2-test clean help

run: .venv/.run  ## make a picture: make run PROMPT="a dog to the left of a cat"
	@mkdir -p "$$(dirname "$$OUT")"
	@.venv/bin/miniai --seed $(SEED) --num-inference-steps $(STEPS) --out "$$OUT" -- "$$PROMPT"
	@echo 'Next: `make lab` opens the notebooks that made it; start with 01_pipeline.'

test: .venv/.dev $(if $(CI),.venv/.browser)  ## run every notebook, as a reader would, and every test
	$(pytest) $(parallel)

test-all: test test-more  ## everything: `make test` and `make test-more`

test-more: test-other-machine  ## run it all under nbdev, on a pretended other machine, on other code paths of this one, and in full width
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 .venv/bin/nbdev-test
	MKL_CBWR=COMPATIBLE ATEN_CPU_CAPABILITY=default $(pytest) $(parallel)
	ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=2 HF_HUB_OFFLINE=1 .venv/bin/python -m pytest -q
	$(pytest) -m slow

test-other-machine: .venv/.dev  ## run it all where every sum comes out a little different, as on another processor
	OTHER_MACHINE=1 $(pytest) $(parallel)

test-browser: .venv/.browser  ## run a notebook in JupyterLab in a real browser; installs Chromium where there is none
	$(pytest) tests/test_browser.py

slow-test: .venv/.dev  ## run what takes minutes and 12 GB of memory: the full width of Stable Diffusion 1.5
	$(pytest) -m slow

lab: .venv/.dev  ## open the notebooks in JupyterLab, on one thread, which suits the embedded model
	$(if $(MINIAI_MODEL),,OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1}) .venv/bin/jupyter lab nbs $(if $(filter 0,$(shell id -u)),--allow-root)

export: .venv/.dev  ## after editing a notebook: write the modules, badges and README.md, clean the notebooks
	.venv/bin/python tools/notebooks.py
	.venv/bin/nbdev-export
	.venv/bin/nbdev-clean
	.venv/bin/python tools/readme.py

nbdev2-test: .venv-nbdev2/.nbdev2  ## run every notebook with nbdev 2.4, and see that it exports and documents the same
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 .venv-nbdev2/bin/nbdev_test
	.venv-nbdev2/bin/python -m pytest -q tests/test_generated.py tests/test_docs.py

docs: quarto .venv-nbdev2/.nbdev2  ## make the documentation in _docs (needs Quarto)
	@touch README.md && cp -p miniai/_modidx.py build/
	PYTHONPATH="$(CURDIR)" PATH="$(CURDIR)/.venv-nbdev2/bin:$$PATH" nbdev_docs; code=$$?; cp -p build/_modidx.py miniai/; exit $$code

quarto:
	@command -v quarto >/dev/null || { echo 'miniai: there is no "quarto" here; install it from https://quarto.org/docs/get-started and run the command again.' >&2; exit 1; }

clean:  ## remove all that make has made
	rm -rf .venv .venv-nbdev2 build out *.egg-info _docs _proc .pytest_cache .hypothesis

help:  ## show this list
	@sed -nE 's/^([a-z0-9-]+):.*##(.*)/\1\t\2/p' Makefile | expand -t 20

.venv/.run: $(metadata)
	$(call install,.venv,constraints.txt,)
.venv/.dev: $(metadata)
	$(call install,.venv,constraints.txt,dev)
.venv/.browser: .venv/.dev tools/browser.py
	.venv/bin/python tools/browser.py
	@touch $@
.venv-nbdev2/.nbdev2: $(metadata)
	@mkdir -p build && grep -vE '^(nbdev|fastcore|execnb|ghapi)==' constraints.txt > build/constraints.txt
	$(call install,.venv-nbdev2,build/constraints.txt,nbdev2)

define install
	@command -v $(PYTHON) >/dev/null || { echo 'miniai: there is no "$(PYTHON)" here; install Python 3.10 or newer, or name one, as in `make run PYTHON=python3.12`.' >&2; exit 1; }
	@$(PYTHON) tools/install.py $(1) $(2) $(3)
	@touch $@
endef
