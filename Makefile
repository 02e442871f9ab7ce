# Everything a checkout needs, on Debian 12. `make` alone says what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
PYTHON := $(VENV)/bin/python
CAAS := $(VENV)/bin/caas
ROOT := $(filter 0,$(shell id -u))
CODE := proto agent natbox coordinator tests
IMAGES := nova-controller nova-compute base

# A checkout that belongs to somebody else: nothing is cached in it.
ifneq ($(shell test -w . && echo yes),yes)
export RUFF_NO_CACHE := true
export MYPY_CACHE_DIR := /dev/null
export PYTEST_ADDOPTS := -p no:cacheprovider
export PYTHONDONTWRITEBYTECODE := 1
endif

# What each is for is in docs/dependencies.md; tests/unit/test_dependencies.py compares the two.
PACKAGES := python3 python3-venv lxc python3-lxc mmdebstrap debian-archive-keyring ca-certificates \
	nftables iproute2 kmod procps util-linux btrfs-progs \
	clang llvm libbpf1 libbpf-dev linux-libc-dev \
	iputils-ping tcpdump openssh-client git busybox-static qemu-system-x86

.PHONY: help packages venv bpf proto images demo demo-down lint test bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

packages: ## install the Debian packages that are missing (root; otherwise it only says which)
	@missing=(); \
	for package in $(PACKAGES); do \
	  dpkg-query -W -f '$${db:Status-Abbrev}' $$package 2>/dev/null | grep -q '^.i' || missing+=($$package); \
	done; \
	if (( $${#missing[@]} == 0 )); then exit 0; fi; \
	if [[ -z "$(ROOT)" ]]; then \
	  echo "missing Debian packages; as root: apt-get install $${missing[*]}" >&2; exit 0; \
	fi; \
	echo "installing $${missing[*]}"; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get update -q; \
	apt-get install -q -y --no-install-recommends "$${missing[@]}"

venv: packages $(VENV)/.installed ## the Python environment, .venv

# From /usr/bin/python3, whose lxc binding is Debian's; the stamp comes last, so that a cut-off run begins again.
$(VENV)/.installed: setup.cfg pyproject.toml
	@test -x $(PYTHON) && $(PYTHON) -c 'import pip' 2>/dev/null \
	  || /usr/bin/python3 -m venv --clear --system-site-packages $(VENV)
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

bpf: packages ## compile the BPF programs
	@$(MAKE) -C agent/kernel/bpf

proto: venv ## write the generated stubs again
	$(PYTHON) -m proto.generate

images: venv ## build the container images that are not built yet (root)
	@$(if $(ROOT),,echo "make images needs root" >&2; exit 1)
	$(CAAS) image build $(IMAGES)

demo: venv bpf images ## the demonstration: two hosts, NATBox, nova, one compute more (root)
	@$(PYTHON) -m coordinator.lab.demo

demo-down: venv ## remove all of the demonstration (root)
	$(CAAS) lab down

lint: venv ## style, types, and whether the generated stubs are current
	$(VENV)/bin/ruff check $(CODE)
	$(VENV)/bin/ruff format --check $(CODE)
	$(VENV)/bin/mypy $(CODE)
	$(PYTHON) -m proto.generate --check

test: venv bpf $(if $(ROOT),images) lint ## every test that this machine can run
ifneq ($(ROOT),)
	@$(PYTHON) -m pytest --durations=40 --durations-min=2 tests
else
	@status=0; $(PYTHON) -m pytest $(wildcard tests/unit tests/golden) || status=$$?; \
	echo; \
	echo "NOT RUN, since it needs root: tests/netns, tests/kernel, tests/lxc, tests/e2e"; \
	echo "as root: make test"; \
	exit $$status
endif

bench: venv bpf images ## how fast it is: a table, and build/bench.json (root, half an hour); FIGURES="vlan-tcp …" for some
	@$(PYTHON) -m tests.bench $(FIGURES)

clean: ## remove what was compiled and cached in this folder; images and labs stay
	@$(MAKE) -C agent/kernel/bpf clean
	rm -rf dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
