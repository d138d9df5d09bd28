# make check: what a change must pass (.ci/run does the same in a new environment). make demo: the whole story. make clean.
PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)

.PHONY: check demo clean

check:
	$(PYTHON) -m ruff check
	$(PYTHON) -m pyright --pythonpath $$(command -v $(PYTHON))
	$(PYTHON) -m pytest

demo:
	$(PYTHON) -m omma.cli demo

clean:
	rm -rf build dist .pytest_cache .ruff_cache omma-demo
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
