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
# Tests that run anywhere, and those on this machine's kernel. As root both run, the first beside the second.
TIERS := tests/unit tests/golden
ROOT_TIERS := tests/e2e tests/lxc tests/netns tests/kernel
# Where `make install` puts things, below DESTDIR.
PREFIX := /usr/lib/caas
DESTDIR :=
UNITS := agent/systemd/caas-agent.service agent/systemd/caas-containers.service agent/systemd/caas-halt.service \
	natbox/systemd/caas-natbox.service coordinator/systemd/caas-coordinator.service
COMMANDS := caas caas-certificates

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

.PHONY: help packages venv bpf proto images demo demo-down lint test soak bench install uninstall clean

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
	@$(PYTHON) -m pytest -p tests.support.beside $(addprefix --beside=,$(TIERS)) --durations=40 --durations-min=2 $(ROOT_TIERS)
else
	@status=0; $(PYTHON) -m pytest $(TIERS) || status=$$?; \
	echo; \
	echo "NOT RUN, since it needs root: $(ROOT_TIERS)"; \
	echo "as root: make test"; \
	exit $$status
endif

SEEDS ?= 5000
FIRST ?= 1
KILLS ?= all
soak: venv bpf $(if $(ROOT),images) ## SEEDS=5000 seeds of the simulation from FIRST=1 on; KILLS=all|sample|none of a real lab (root)
	@$(PYTHON) -m tests.support.simulation --first $(FIRST) --seeds $(SEEDS)
ifneq ($(ROOT),)
	@$(if $(filter none,$(KILLS)),echo "KILLS=none: no lab was killed",$(PYTHON) -m tests.support.killing --kills $(KILLS))
else
	@echo "NOT RUN, since it needs root: the kills of a real lab"
endif

bench: venv bpf images ## how fast it is: a table, and build/bench.json (root, half an hour); FIGURES="vlan-tcp …" for some
	@$(PYTHON) -m tests.bench $(FIGURES)

install: bpf ## put agent, NATBox and coordinator under systemd (docs/install.md); DESTDIR= PREFIX=/usr/lib/caas
	@test -x "$(DESTDIR)$(PREFIX)/bin/pip" || /usr/bin/python3 -m venv --system-site-packages "$(DESTDIR)$(PREFIX)"
	@copy=$$(mktemp -d); trap 'rm -rf "$$copy"' EXIT; \
	cp -a --parents proto agent natbox coordinator setup.cfg pyproject.toml MANIFEST.in README.md "$$copy"; \
	"$(DESTDIR)$(PREFIX)/bin/python" -m pip install --quiet --disable-pip-version-check --no-warn-script-location \
	  --root-user-action ignore "$$copy"
	@sed -i "1s|^#!$(DESTDIR)$(PREFIX)/|#!$(PREFIX)/|" "$(DESTDIR)$(PREFIX)"/bin/caas*
	@install -D -m 0644 -t "$(DESTDIR)$(PREFIX)/docs" docs/install.md
	@for unit in $(UNITS); do \
	  sed "s|@PREFIX@|$(PREFIX)|g" $$unit | install -D -m 0644 /dev/stdin "$(DESTDIR)/usr/lib/systemd/system/$${unit##*/}"; \
	done
	@install -D -m 0644 coordinator/systemd/sysusers.conf "$(DESTDIR)/usr/lib/sysusers.d/caas.conf"
	@install -D -m 0644 coordinator/systemd/tmpfiles.conf "$(DESTDIR)/usr/lib/tmpfiles.d/caas.conf"
	@install -D -m 0644 -t "$(DESTDIR)/usr/share/caas" agent/systemd/agent.env natbox/systemd/natbox.env
	@install -d "$(DESTDIR)/etc/caas" "$(DESTDIR)/usr/bin"
	@for command in $(COMMANDS); do ln -sfn "$(PREFIX)/bin/$$command" "$(DESTDIR)/usr/bin/$$command"; done
	@if [[ -z "$(DESTDIR)" && -d /run/systemd/system ]]; then \
	  systemd-sysusers caas.conf; systemd-tmpfiles --create caas.conf; systemctl daemon-reload; \
	fi
	@echo "installed in $(DESTDIR)$(PREFIX); docs/install.md says how to go on"

uninstall: ## remove what `make install` has put there; /etc/caas, /var/lib/caas, links and containers stay
	@if [[ -z "$(DESTDIR)" && -d /run/systemd/system ]]; then \
	  systemctl disable --quiet --now caas-agent caas-natbox caas-coordinator caas-containers 2>/dev/null || :; \
	  systemctl disable --quiet caas-halt 2>/dev/null || :; \
	fi
	@rm -f $(foreach unit,$(UNITS),"$(DESTDIR)/usr/lib/systemd/system/$(notdir $(unit))") \
	  $(foreach command,$(COMMANDS),"$(DESTDIR)/usr/bin/$(command)") \
	  "$(DESTDIR)/usr/lib/sysusers.d/caas.conf" "$(DESTDIR)/usr/lib/tmpfiles.d/caas.conf"
	@rm -rf "$(DESTDIR)/usr/share/caas" "$(DESTDIR)$(PREFIX)"
	@if [[ -z "$(DESTDIR)" && -d /run/systemd/system ]]; then systemctl daemon-reload; fi

clean: ## remove what was compiled and cached in this folder; images and labs stay
	@$(MAKE) -C agent/kernel/bpf clean
	rm -rf dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
