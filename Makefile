# berth: build, run, test, check, bench. Each target sets up what it needs on Debian when run as root.

TARGET_DIR ?= target
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
RELEASE := $(TARGET_DIR)/$(HOST)/release/berth
IMAGES := $(TARGET_DIR)/test-images
LISTEN ?= 127.0.0.1:8080
DATA ?= $(CURDIR)/data
PROGRAM := $(TARGET_DIR)/$(HOST)/debug/berth

.PHONY: program openapi conformance console build install package package-arm64 run test test-vm test-kubernetes check checkers advisories bench images tools deps clean

build: deps console
	cargo build --release --locked -p berth
	mkdir -p dist
	install -m 0755 $(RELEASE) dist/berth.new && mv -f dist/berth.new dist/berth

# The bundle of the console, which becomes a part of the program.
console: console/dist/index.html

console/dist/index.html: Cargo.lock docs/openapi.json crates/berth-types/src/messages.zh.tsv console/build.mjs console/package-lock.json console/tsconfig.json $(wildcard console/src/* console/src/pages/*)
	@if ! command -v npm >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends nodejs npm; \
		else echo "missing: Node.js 18 or newer with npm, which builds the console (Debian: nodejs npm)" >&2; exit 1; fi; \
	fi
	cd console && npm ci --no-audit --no-fund --loglevel=error && npm run --silent build

# The service of this machine, of what is built here; a second time is an upgrade.
install: build
	dist/berth install

# dist/berth_VERSION_ARCH.deb and dist/berth-VERSION-linux-ARCH.tar.gz for this machine.
package: build
	@command -v cargo-deb >/dev/null || cargo install --debug --locked --quiet cargo-deb@3.8.0
	packaging/package $(HOST) $(RELEASE)

# The same for arm64, with Debian's cross compiler.
package-arm64: deps console
	@command -v cargo-deb >/dev/null || cargo install --debug --locked --quiet cargo-deb@3.8.0
	@command -v aarch64-linux-gnu-gcc >/dev/null || { apt-get update -q && apt-get install -yq --no-install-recommends gcc-aarch64-linux-gnu libc6-dev-arm64-cross; }
	rustup target add aarch64-unknown-linux-gnu
	CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc AR_aarch64_unknown_linux_gnu=aarch64-linux-gnu-ar \
		CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
		cargo build --release --locked -p berth --target aarch64-unknown-linux-gnu
	packaging/package aarch64-unknown-linux-gnu $(TARGET_DIR)/aarch64-unknown-linux-gnu/release/berth

# Ends its start-up by printing a curl line that builds a container; Ctrl-C ends the server, containers run on.
run: build
	@if [ "$$(id -u)" != 0 ]; then echo "make run: berth needs root (namespaces, cgroups, network): run it with sudo" >&2; exit 1; fi
	BERTH_GREETING=1 BERTH_LOG=$${BERTH_LOG:-warn} dist/berth serve --dev --listen $(LISTEN) --data-dir $(DATA) $(if $(CONFIG),--config $(CONFIG))

test: deps console images tools
	cargo test --workspace --locked --no-fail-fast

# The package, a story of reboots and the privileged suites in a Debian guest (systemd, cgroup v2), without KVM: half an hour.
# STAGES takes some of them: guest, service, reboot, suites.
test-vm: deps images
	@missing=; for pair in qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap strip:binutils mke2fs:e2fsprogs; do \
		PATH=$$PATH:/usr/sbin:/sbin command -v "$${pair%%:*}" >/dev/null || missing="$$missing $${pair##*:}"; \
	done; \
	if [ -n "$$missing" ]; then apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends $$missing; fi
	tests/vm/all $(TARGET_DIR) $(STAGES)

# The engine for Kubernetes on a real cluster: control plane, two kubelets with containerd, on this machine. The cluster is one program, built of
# Kubernetes' Go modules the first time (ten minutes) and kept in the user's cache.
test-kubernetes: deps images
	@command -v go >/dev/null || { echo "make test-kubernetes: needs Go 1.24 or newer (https://go.dev)" >&2; exit 1; }
	@missing=; for pair in containerd:containerd runc:runc iptables:iptables busybox:busybox-static ip:iproute2 pgrep:procps; do \
		PATH=$$PATH:/usr/sbin command -v "$${pair%%:*}" >/dev/null || missing="$$missing $${pair##*:}"; \
	done; \
	[ -x /usr/lib/cni/bridge ] || missing="$$missing containernetworking-plugins"; \
	if [ -n "$$missing" ]; then apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends $$missing; fi
	tests/kubernetes/build
	BERTH_TESTS_REQUIRE_ALL=1 cargo test --workspace --locked --test cluster --test kubernetes

# The oldest Rust that builds it, as Cargo.toml says.
MSRV := $(shell sed -n 's/^rust-version = "\(.*\)"/\1.0/p' Cargo.toml)
# Programs that look after the source, of these versions.
CHECKERS := cargo-deny@0.20.2 cargo-machete@0.9.2

check: deps checkers console openapi
	cargo fmt --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet
	cargo machete
	cargo deny --locked --all-features check bans licenses sources
	@if command -v rustup >/dev/null && rustup toolchain install $(MSRV) --profile minimal >/dev/null 2>&1; then \
		cargo +$(MSRV) check --workspace --locked --target-dir $(TARGET_DIR)/msrv; \
	else echo "not checked with Rust $(MSRV): rustup can't install it here"; fi

# The program as the tests have it. A selection of packages would be built with other features, with all dependencies once more.
program: deps console
	cargo test --workspace --locked --no-run

# The descriptions of the APIs are valid, a client is generated from the native one, in Python, that can be read, and a server's
# answers to requests of every kind are as described.
OPENAPI_TOOLS := $(TARGET_DIR)/openapi-tools
SCHEMATHESIS := $(TARGET_DIR)/schemathesis
openapi: program
	@python3 -c 'import venv, ensurepip' 2>/dev/null || { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends python3-venv; }
	@[ -x $(OPENAPI_TOOLS)/bin/openapi-python-client ] || { python3 -m venv $(OPENAPI_TOOLS) && \
		$(OPENAPI_TOOLS)/bin/pip -q install openapi-spec-validator==0.7.2 openapi-python-client==0.26.1; }
	$(PROGRAM) openapi > $(TARGET_DIR)/openapi.json
	$(OPENAPI_TOOLS)/bin/openapi-spec-validator $(TARGET_DIR)/openapi.json
	for dialect in standalone acs comb tingyu; do \
		$(PROGRAM) openapi $$dialect > $(TARGET_DIR)/openapi-$$dialect.json && \
		$(OPENAPI_TOOLS)/bin/openapi-spec-validator $(TARGET_DIR)/openapi-$$dialect.json || exit 1; \
	done
	rm -rf $(TARGET_DIR)/openapi-client
	PATH=$(abspath $(OPENAPI_TOOLS))/bin:$$PATH $(OPENAPI_TOOLS)/bin/openapi-python-client generate --path $(TARGET_DIR)/openapi.json --output-path $(TARGET_DIR)/openapi-client > $(TARGET_DIR)/openapi-client.log
	python3 -m compileall -q $(TARGET_DIR)/openapi-client
	@[ -x $(SCHEMATHESIS)/bin/st ] || { python3 -m venv $(SCHEMATHESIS) && $(SCHEMATHESIS)/bin/pip -q install schemathesis==4.32.5; }
	sh tests/openapi.sh $(PROGRAM) $(SCHEMATHESIS)/bin/st

# The suite of the OCI distribution specification, a Go module, against the registry at /v2/.
conformance: program
	@command -v go >/dev/null || { echo "make conformance: needs Go 1.24 or newer (https://go.dev)" >&2; exit 1; }
	tests/conformance.sh $(PROGRAM) $(TARGET_DIR)/conformance

# With the network: known weaknesses of dependencies, from https://github.com/rustsec/advisory-db.
advisories: checkers
	cargo deny --locked --all-features check advisories

checkers:
	@for checker in $(CHECKERS); do \
		command -v "$${checker%@*}" >/dev/null || cargo install --debug --locked --quiet "$$checker"; \
	done

# Timings, beside docker and podman where they are installed; writes docs/benchmarks.md.
bench: build images tools
	python3 bench/bench.py --berth dist/berth --image $(IMAGES)/busybox.tar --out docs/benchmarks.md
	python3 bench/daily.py --berth dist/berth --image $(IMAGES)/busybox.tar --python $(IMAGES)/python.tar --out docs/benchmarks.md
	python3 bench/services.py --berth dist/berth --image $(IMAGES)/busybox.tar --out docs/benchmarks.md
	python3 bench/cloud.py --berth dist/berth --image $(IMAGES)/busybox.tar --python $(IMAGES)/python.tar --out docs/benchmarks.md
	cargo bench --locked -p berth-api --bench fleet -- --out $(CURDIR)/docs/benchmarks.md

# Root file systems for test images, out of Debian packages. Kept between runs.
images: $(addprefix $(IMAGES)/,busybox.tar python.tar node.tar php.tar java.tar go.tar dropbear.tar)

$(IMAGES)/%.tar: tests/images/mkroot.sh
	@mkdir -p $(IMAGES)
	@if [ "$$(id -u)" != 0 ]; then \
		echo "test image $*: needs root to be made; the tests that use it are skipped"; \
	elif ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then \
		echo "test image $*: needs Debian's apt-get and dpkg-deb; the tests that use it are skipped"; \
	else \
		CACHE=$(CURDIR)/$(IMAGES)/cache sh tests/images/mkroot.sh $* $@; \
	fi

# What tests compare with: a registry, other tools for images, another runtime. Without them those tests are skipped.
tools:
	@missing=; for pair in docker-registry:docker-registry htpasswd:apache2-utils skopeo:skopeo umoci:umoci runc:runc crun:crun iptables:iptables python3:python3-minimal ssh:openssh-client curl:curl openssl:openssl nft:nftables ip:iproute2 pgrep:procps chromium:chromium; do \
		PATH=$$PATH:/usr/sbin command -v "$${pair%%:*}" >/dev/null || missing="$$missing $${pair##*:}"; \
	done; \
	python3 -c 'import requests' 2>/dev/null || missing="$$missing python3-requests"; \
	if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends $$missing; \
		else echo "not installed, tests that need it are skipped:$$missing"; fi; \
	fi

deps:
	@command -v cargo >/dev/null || { echo "missing: cargo and rustc 1.91 or newer (https://rustup.rs)" >&2; exit 1; }
	@if ! command -v cc >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -q && apt-get install -yq --no-install-recommends gcc libc6-dev; \
		else echo "missing: a C compiler (Debian: gcc libc6-dev)" >&2; exit 1; fi; \
	fi

clean:
	cargo clean
	rm -rf dist console/node_modules console/dist/index.html console/dist/assets
