# Postern. `make run` and `make test` need nothing before them.

SHELL      := /bin/bash
GO         ?= go
VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS    := -X main.version=$(VERSION)
PROGRAMS   := keyd filterd postern trial
STATE      ?= state
FUZZTIME   ?= 60s
BENCHTIME  ?= 2s
IMAGE      ?= bin/image

# A Go that is older than go.mod asks for fetches the right one.
export GOTOOLCHAIN := auto

.PHONY: all deps deps-run deps-test deps-deb deps-image build run demo lab deb deb-test image image-test test race fuzz oracle bench reissue lint docs anchors clean
all: build

# ---- set-up ----------------------------------------------------------------

deps: deps-test
deps-run deps-test deps-deb deps-image:
	@appliance/deps $(@:deps-%=%)

# ---- programs --------------------------------------------------------------

# filterd, postern and trial have no cgo: the parser of hostile mail shares no
# process with the PKCS#11 module.
build: deps-run
	@mkdir -p bin
	CGO_ENABLED=1 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/keyd ./cmd/keyd
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/filterd ./cmd/postern ./cmd/trial

# The gateway on loopback with a SoftHSM token of its own and a sink as next hop.
run: build
	bin/trial --dir $(STATE)

# Mails in both formats, before and after; then it stops.
demo: build
	bin/trial --dir $$(mktemp -d) --demo

# Two companies with all that they have, and what passes between them. As root.
lab: deps-test
	$(GO) test -count=1 -v -run '^TestTwoCompanies$$' ./appliance/e2e/lab -tell

# The Debian package of the programs, for a machine of one's own: bin/postern_VERSION_ARCH.deb
deb: deps-run
	@appliance/deb/build

# The package on both Debians as systemd runs them, with mail that passes. As root; minutes.
deb-test: deps-deb
	appliance/deb/boot-test bookworm
	appliance/deb/boot-test trixie

# The disk of the box, its parts for updates, and the formats of hypervisors. As
# root; options and keys are explained at the top of image/build.
image: deps-image
	image/build --out $(IMAGE)

# Five hundred certificates made anew by an EST server, with keys in a real token: minutes.
reissue: deps-test
	$(GO) test -count=1 -v -timeout 90m ./appliance/e2e -run '^TestReissue$$' -enrolled 250

# ---- judgement -------------------------------------------------------------

# The tests of the house take their time: one sends 10,000 mails (1,000 with -short).
test: deps-test build
	$(GO) test -timeout 40m ./...

race: deps-test build
	$(GO) test -race -short -timeout 60m ./...

# The whole life of a box in a virtual machine, with every image that it takes:
# an hour and more where there is no KVM. As root.
image-test: deps-image deps-test build
	$(GO) test -count=1 -v -timeout 5h ./image/imagetest -run '^TestBox$$' -build $(IMAGE)

# Every fuzz target for FUZZTIME each.
fuzz: deps-run
	@set -e; for p in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
	    echo "== $$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$p; done; done

# Does the time to refuse a mail tell why? Minutes, on a machine that does nothing else.
oracle: deps-test
	$(GO) test -count=1 -timeout 30m ./filter/openpgp -run '^TestOracle$$' -oracle -update

bench: deps-test build
	$(GO) test -run '^$$' -bench . -benchtime $(BENCHTIME) ./...

lint: deps-run
	@out=$$(gofmt -l cmd hsm filter provisioning appliance image); if [ -n "$$out" ]; then echo "gofmt would change:"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

# Pages and examples that are printed from the code.
docs: build
	$(GO) test ./filter ./appliance/e2e -run TestPage -update

# The e-mail roots of NSS, out of this machine's libnss3, or of another:
# make anchors NSS='…/libnssckbi.so "libnss3 VERSION"'
anchors: deps-test
	filter/chain/anchors/generate $(NSS)

clean:
	rm -rf bin $(STATE)
