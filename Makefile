# make demo    judge sample photos under two opposite policies; writes demo/report.html
# make test    install what the tests need and run them all
# make lint    ruff
# make clean   remove the environment and all that was built
#
# Everything is installed into .venv; another Python: make test PYTHON=python3.13

PYTHON ?= python3
PIP := .venv/bin/python -m pip --disable-pip-version-check
# What an installation is made from; the rest is used in place. Without its compiled part it is made again.
SOURCES := pyproject.toml setup.py $(wildcard cpp_ext/*) $(if $(wildcard safeguard_sdk/_fast*.so),,missing)

.PHONY: demo test lint clean missing
.DELETE_ON_ERROR:

demo: .venv/installed-demo
	.venv/bin/python -m demo

test: .venv/installed-test
	.venv/bin/python -m pytest

lint: .venv/installed-test
	.venv/bin/python -m ruff check .

clean:
	rm -rf .venv build dist *.egg-info safeguard_sdk/_fast*.so safeguard_sdk/_fast*.pyd demo/report.html \
		.pytest_cache .ruff_cache .hypothesis

.venv/installed-demo: $(SOURCES) | .venv/bin/pip
	@$(require_compiler)
	$(PIP) install --quiet --editable '.[cpu,demo]'
	@touch $@

.venv/installed-test: $(SOURCES) | .venv/bin/pip
	@$(require_compiler)
	$(PIP) install --quiet --editable '.[cpu,demo,dev,train,export]'
	@touch $@ .venv/installed-demo

.venv/bin/pip:
	@$(require_python)
	$(PYTHON) -m venv .venv

define require_python
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	found=$$($(PYTHON) -V 2>/dev/null) || found="not found"; \
	echo "error: safeguard needs Python 3.11 or newer, '$(PYTHON)' is $$found;" \
		"name another: make PYTHON=/usr/bin/python3.13" >&2; exit 1; }
endef

define require_compiler
for compiler in $${CXX:-c++} g++ clang++; do command -v $$compiler >/dev/null && exit 0; done; \
	echo "error: safeguard needs a C++17 compiler, none of $${CXX:-c++}, g++, clang++ is here; install one" \
		"(Debian and Ubuntu: apt install g++ python3-dev; Fedora: dnf install gcc-c++ python3-devel;" \
		"macOS: xcode-select --install)" >&2; exit 1
endef
