# `make demo` draws samples from trained weights and trains the tutorial's model, `make test` checks everything.
# Both need only Python, make and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-lowest docs soak bench results clean

demo: $(VENV)/.weights
	$(BIN)/zoo sample mlp-vae-2d@mnist
	$(BIN)/zoo train mlp-vae

test: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2 --dist worksteal

# The tests again, with the oldest packages that pyproject.toml admits.
test-lowest:
	test -x build/lowest/bin/python || $(PYTHON) -m venv build/lowest
	PIP_CONSTRAINT=constraints-lowest.txt build/lowest/bin/python -m pip install --quiet --editable '.[dev]'
	build/lowest/bin/pytest -n 2 --dist worksteal

# The documentation, in build/site.
docs: $(VENV)/.installed-dev
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Two hundred kills while checkpoints are saved; prints how many of them a valid one survived.
soak: $(VENV)/.installed
	$(BIN)/python tests/soak_kill.py

# Time training and the log-likelihood against other implementations, on the MNIST in $ZOO_DATA; writes build/bench.md,
# from which the tables in benchmarks/RESULTS.md are copied.
bench: $(VENV)/.installed benchmarks/.venv
	mkdir -p build
	$(BIN)/python benchmarks/epoch.py --out build/bench.md
	$(BIN)/python benchmarks/overheads.py --out build/bench.md
	OMP_NUM_THREADS=1 benchmarks/.venv/bin/python benchmarks/families.py --out build/bench.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/stacked.py --out build/bench.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/precision.py --out build/bench.md
	$(BIN)/zoo train mlp-vae binarize=dynamic --data mnist --out build/bench-runs
	benchmarks/.venv/bin/python benchmarks/likelihood.py build/bench-runs/mlp-vae --out build/bench.md

# The table of docs/results.md: every model with three seeds on MNIST. It takes about six hours on one core, and
# continues if interrupted.
results: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/models.py --out build/models

# pythae is no dependency of the zoo: it gets an environment of its own, which borrows torch from the other.
benchmarks/.venv: benchmarks/requirements.txt $(VENV)/.installed
	$(PYTHON) -m venv $@
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
		> "$$($@/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
	PIP_CONSTRAINT=constraints.txt $@/bin/python -m pip install --quiet -r benchmarks/requirements.txt
	touch $@

# The environment variable takes the place of any constraint that pip is configured with.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --editable .
	touch $@

# Trained weights are a distribution of their own.
$(VENV)/.weights: $(VENV)/.installed weights/vae-zoo-mnist/pyproject.toml
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --editable ./weights/vae-zoo-mnist
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache
