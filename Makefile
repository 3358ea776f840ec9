# make demo      judge sample photos under two opposite policies; writes demo/report.html
# make test      install what the tests need and run them all
# make fuzz      decode half a million mutants of small image files; takes minutes
# make lint      ruff
# make sanitize  run the tests of the compiled part under AddressSanitizer and UndefinedBehaviorSanitizer (GCC, Linux)
# make clean     remove the environment and all that was built
#
# Everything is installed into .venv; another Python: make test PYTHON=python3.13

PYTHON ?= python3
PIP := .venv/bin/python -m pip --disable-pip-version-check
# What an installation is made from; the rest is used in place. Without its compiled part it is made again.
SOURCES := pyproject.toml setup.py $(wildcard cpp_ext/*) $(if $(wildcard safeguard_sdk/_fast*.so),,missing)

.PHONY: demo test fuzz lint sanitize clean missing
.DELETE_ON_ERROR:

demo: .venv/installed-demo
	.venv/bin/python -m demo

# A file of tests stays in one process, so that what its tests share is made once.
test: .venv/installed-test
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile

fuzz: .venv/installed-test
	FUZZ_MUTANTS=20000 .venv/bin/python -m pytest tests/test_fuzz_decode.py

lint: .venv/installed-test
	.venv/bin/python -m ruff check .

# The SDK is copied, so that its own compiled part stays as it is. Leaks are those of Python itself.
SANITIZED := build/sanitized
# This test takes away the address space that AddressSanitizer lives in.
LIMITS_MEMORY := tests/test_pixels.py::test_a_failure_on_a_thread_is_a_python_exception_and_the_process_lives_on
sanitize: .venv/installed-test
	rm -rf $(SANITIZED)
	mkdir -p $(SANITIZED)/safeguard_sdk
	cp -r $(filter-out safeguard_sdk/nano $(wildcard safeguard_sdk/_fast*.so),$(wildcard safeguard_sdk/*)) \
		$(SANITIZED)/safeguard_sdk
	ln -s $(CURDIR)/safeguard_sdk/nano $(SANITIZED)/safeguard_sdk/nano
	CXXFLAGS='-g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined' \
		.venv/bin/python setup.py --quiet build_ext --build-lib $(SANITIZED) --build-temp $(SANITIZED)/objects
	nm -D $(SANITIZED)/safeguard_sdk/_fast*.so | grep --quiet __asan  # or nothing would be checked
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 .venv/bin/python -m pytest -o pythonpath=$(SANITIZED) -o addopts= -q \
		tests/test_pixels.py tests/test_patches.py tests/test_jpeg_baseline.py tests/test_answers.py \
		tests/test_verdict_logits.py \
		--deselect $(LIMITS_MEMORY)

clean:
	rm -rf .venv build dist *.egg-info safeguard_sdk/_fast*.so safeguard_sdk/_fast*.pyd demo/report.html \
		.pytest_cache .ruff_cache .hypothesis

.venv/installed-demo: $(SOURCES) | .venv/bin/pip
	@$(require_compiler)
	$(PIP) install --quiet --editable '.[cpu,demo]'
	@touch $@

.venv/installed-test: $(SOURCES) | .venv/bin/pip
	@$(require_compiler)
	$(PIP) install --quiet --editable '.[cpu,demo,dev,serve,train,export,tensorrt]'
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
