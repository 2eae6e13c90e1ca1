# Every task of development. Each target first makes the virtual environment that it needs.

.DEFAULT_GOAL := help
.PHONY: help venv run run-flask run-django run-lambda run-function demo test check lint conformance proof proof-long format bench bench-check bench-docs bench-unkeyed bench-direct architecture dist clean
.NOTPARALLEL:

# Versions to test with, in an environment of their own: make test WITH="redis==5.0.* starlette==0.46.0"
WITH ?=
EMPTY :=
SPACE := $(EMPTY) $(EMPTY)
VENV := .venv$(if $(WITH),-with-$(subst *,x,$(subst ==,-,$(subst $(SPACE),-,$(strip $(WITH))))))
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(foreach pin,$(WITH),'$(pin)')

# By default the newest of python3.14 to python3.11 that can make a virtual environment. To choose one:
# make test PYTHON=/path/to/python
PYTHON ?=
SUITABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))

ARGS ?=
RUNS ?=
# Three processes, also on two cores, because tests mostly wait: for servers and for leases to end. With `worksteal`, a
# process without tests takes some from another, so that all of them end at the same time.
PYTEST := $(BIN)/python -m pytest --numprocesses 3 --dist worksteal
REDIS ?=
PORT ?= 8000

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-22s %s\n", $$1, $$2 }'

venv: $(VENV)/.test $(VENV)/.lint $(VENV)/.redis-7.0 ## Make .venv with everything that development needs

run: $(VENV)/.demo ## Serve examples/fastapi_app.py (PORT=8000, REDIS_URL=...)
	@sed 's/PORT/$(PORT)/' examples/curl.txt
	@$(BIN)/python -m uvicorn fastapi_app:app --app-dir examples --port $(PORT)

run-flask: $(VENV)/.test ## Serve examples/flask_app.py with two workers (PORT=8000, REDIS_URL=...)
	@$(BIN)/python -m gunicorn flask_app:app --pythonpath examples --workers 2 --bind localhost:$(PORT)

run-django: $(VENV)/.test ## Serve examples/django_app.py with two workers (PORT=8000, REDIS_URL=...)
	@$(BIN)/python -m gunicorn django_app:application --pythonpath examples --workers 2 --bind localhost:$(PORT)

demo: $(VENV)/.demo ## Run examples/fastapi_app.py on two real workers and check every promise (REDIS=1: on Valkey)
	@$(BIN)/python tools/demo.py $(if $(REDIS),--redis)

run-lambda: $(VENV)/.demo ## Run examples/lambda_mangum.py in processes that are frozen and killed as on Lambda
	@$(BIN)/python tools/run_lambda.py

run-function: $(VENV)/.demo ## Run examples/plain_function.py and examples/async_function.py
	@$(BIN)/python examples/plain_function.py
	@$(BIN)/python examples/async_function.py

test: $(VENV)/.test $(VENV)/.redis-7.0 ## Run the tests, on real servers too (ARGS="-k replay")
	$(PYTEST) $(ARGS)

check: lint ## Lint, check types and imports, and run the tests with branch coverage
	$(MAKE) --no-print-directory test ARGS="--cov $(ARGS)"

lint: $(VENV)/.test $(VENV)/.lint ## Only lint, and check types and imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

conformance: $(VENV)/.test $(VENV)/.redis-7.0 ## Run the tests, and show each conformance row with its tests
	$(PYTEST) --quiet --conformance $(ARGS)

proof: $(VENV)/.test ## Check the promises through crashes, pauses, failovers and fuzz; takes minutes (RUNS="explorer fuzz")
	@$(BIN)/python -m proof $(RUNS)

proof-long: $(VENV)/.fuzz ## The same in a larger size; takes hours
	@$(BIN)/python -m proof --size long $(RUNS)

format: $(VENV)/.lint ## Format the code, and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.test ## Measure the costs beside those of peers, and write docs/performance.md; takes minutes
	@$(BIN)/python -m benchmarks

bench-check: $(VENV)/.test ## Check the budgets of round trips, bytes and instructions (these need valgrind)
	@$(BIN)/python -m benchmarks check

bench-docs: $(VENV)/.test ## Write docs/performance.md again, from benchmarks/results.json
	@$(BIN)/python -m benchmarks docs

bench-unkeyed: $(VENV)/.test ## Count the instructions of a request without a key (needs valgrind)
	PYTHONHASHSEED=0 $(BIN)/python -m benchmarks.unkeyed

bench-direct: $(VENV)/.test ## Compare ways to talk to a standalone Redis (instructions need valgrind)
	@$(BIN)/python -m benchmarks.direct_path

architecture: | $(BIN)/python ## Draw docs/pictures/architecture.svg anew, from the imports of the code
	@$(BIN)/python tools/architecture.py

dist: $(VENV)/.test ## Build the sdist and the wheel into dist/, and import what the wheel installs
	rm -rf build dist
	$(BIN)/python -m hatchling build -d dist
	$(BIN)/python -m venv build/venv
	build/venv/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	build/venv/bin/python -c 'import idempotency_mw.asgi, idempotency_mw.wsgi, idempotency_mw.persistence.redis'

clean: ## Remove whatever the other targets made
	rm -rf $(VENV) .venv-bench .venv-with-* build dist .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	rm -f *.sqlite3 *.sqlite3-*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp stands for an installed dependency group. When pyproject.toml changes, the group is installed again.
$(VENV)/.demo $(VENV)/.test $(VENV)/.fuzz $(VENV)/.lint: $(VENV)/.%: pyproject.toml | $(BIN)/python
	$(PIP) --editable . --group $*
	@touch $@

# The oldest server that is supported. A stamp also where there is none to be had: it is looked for once.
$(VENV)/.redis-7.0: tools/unpack_redis_7_0.sh | $(BIN)/python
	@tools/unpack_redis_7_0.sh $(VENV)/redis-7.0
	@touch $@

# Dependency groups need pip 25.1.
$(BIN)/python:
	@python=; \
	for candidate in $(or $(PYTHON),python3.14 python3.13 python3.12 python3.11 python3); do \
		if $$candidate -c '$(SUITABLE)' 2>/dev/null; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "Needed: Python 3.11 or later, with venv and ensurepip. Not so: $(or $(PYTHON),any python3 on PATH)." >&2; \
		echo "Name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; \
		exit 1; \
	fi; \
	echo "$(VENV): $$($$python --version), $$(command -v $$python)"; \
	$$python -m venv $(VENV)
	@$(PIP) --upgrade 'pip>=25.1' || { rm -rf $(VENV); exit 1; }
