# SPDX-License-Identifier: Apache-2.0

PREFIX   ?= /usr/local
FUZZTIME ?= 30s
# Of make test: packages, and -no-skips to fail on skipped tests.
PKG      ?= ./...
TESTSUM  ?=
# Of make bench: the layers, and flags of benchmark/core.
LAYERS   ?= out/layers
CORE     ?=

VERSION  := $(shell git describe --tags --match 'v*' 2>/dev/null | sed 's/^v//')
REVISION := $(shell git rev-parse HEAD 2>/dev/null)$(shell git diff --quiet HEAD 2>/dev/null || echo .m)
VPKG     := github.com/seekoci/seekoci/cmd/internal/version
LDFLAGS  := -s -w -X $(VPKG).revision=$(REVISION) $(if $(VERSION),-X $(VPKG).Version=$(VERSION))
# The containerd of the tests: no CRI, no file systems of which the tests have none.
C2TAGS   := no_cri no_btrfs no_zfs no_devmapper no_aufs no_tracing urfave_cli_no_docs osusergo netgo static_build
C2       := out/containerd2/containerd

.PHONY: help build deps demo test chaos lint fuzz bench generate install clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 12

build: ## bin/soci and bin/soci-snapshotter-grpc, static
	@CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/ ./cmd/soci ./cmd/soci-snapshotter-grpc

deps: ## what demo and tests run: installed by apt-get as root on Debian, named elsewhere
	@.ci/deps

demo: deps build ## pull and run an image lazily on this machine, compared with a full pull; leaves nothing behind
	@CGO_ENABLED=0 go build -trimpath -buildvcs=false -o bin/demo ./benchmark/demo && bin/demo -bin bin

test: deps lint $(C2) ## every test under the race detector, with a summary; PKG=./ztoc/... for some of them
	@go build -buildvcs=false -o out/testsum ./benchmark/internal/testsum
	@go test -race -count=1 -timeout 20m -json $(PKG) | out/testsum $(TESTSUM)

chaos: deps build ## faults of all kinds while containers check every byte, for a minute; CHAOS='-for 10m -seed 7' for longer, -h for more
	@CGO_ENABLED=0 go build -trimpath -buildvcs=false -o bin/ ./benchmark/chaos ./benchmark/chaos/checker ./benchmark/internal/probe
	@bin/chaos $(CHAOS)

lint: ## gofmt, go vet, staticcheck
	@bad=$$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l) && test -z "$$bad" || { echo "gofmt -w these: $$bad"; exit 1; }
	@go vet ./... && go tool staticcheck ./...

fuzz: ## every fuzz target for FUZZTIME each
	@FUZZTIME=$(FUZZTIME) .ci/fuzz

bench: deps build ## the Go benchmarks, then the core against its goals and peers, on the layers in LAYERS
	go test -run '^$$' -bench . -benchmem $(PKG)
	@CGO_ENABLED=0 go build -trimpath -buildvcs=false -o bin/core ./benchmark/core
	bin/core $(CORE) $(LAYERS)

generate: ## generated code, from its sources
	go generate ./...

install: build ## soci and soci-snapshotter-grpc into $(PREFIX)/bin
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/bin bin/soci bin/soci-snapshotter-grpc

clean: ## what make has made
	rm -rf bin out

$(C2): benchmark/containerd2/go.mod benchmark/containerd2/go.sum
	@echo "building containerd $$(sed -n 's/.*containerd\/v2 v\([0-9.]*\).*/\1/p' $<) for the tests, once (2 to 4 minutes)"
	@cd benchmark/containerd2 && CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w' -tags '$(C2TAGS)' -o $(CURDIR)/out/containerd2/ tool && touch $(CURDIR)/$@
