# make demo   sees the whole job done, with real images and real clients
# make test   runs every test
# make build  makes bin/waybill, bin/waybill-scanner and bin/waybill-kms
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GO      := go
# Nothing here speaks MessagePack, for which gin would bring six megabytes.
FLAGS   := -trimpath -tags nomsgpack -ldflags '-s -w -X main.version=$(VERSION)'
TOOLS   := internal/tools/bin
export CGO_ENABLED := 0

# Debian packages: the database that serve runs, and the clients that the demo and the tests drive.
RUN_PACKAGES  := postgresql
TEST_PACKAGES := strace docker.io podman buildah skopeo crun runc umoci mmdebstrap jq curl git ca-certificates chromium fonts-dejavu-core
# Where Node.js did not come from Debian, npm came with it, and Debian's would be in its way.
TEST_PACKAGES += $(if $(shell command -v npm),,nodejs npm)

.PHONY: build scanner kms deps deps-run tools test lint fuzz demo screenshots image clean

# Without Trivy the server compiles in half a minute; the scanner takes about five minutes the first time.
build: scanner kms
	$(GO) build $(FLAGS) -o bin/waybill ./cmd/waybill

# Trivy needs the json/v2 experiment; nothing else is compiled with it.
scanner:
	@[ -x bin/waybill-scanner ] || echo "compiling the scanner; the first time takes about five minutes"
	GOEXPERIMENT=jsonv2 $(GO) build $(FLAGS) -o bin/waybill-scanner ./cmd/waybill-scanner

# The clients of each KMS, which only servers run that sign with a key there.
kms:
	$(GO) build $(FLAGS) -o bin/waybill-kms ./cmd/waybill-kms

deps-run:
	internal/tools/apt.sh $(RUN_PACKAGES)

deps: deps-run
	internal/tools/apt.sh $(TEST_PACKAGES)

# Clients and a KMS that Debian does not package, from the Go module proxy, and from npm an OpenID provider and what checks that
# everybody can use the pages.
tools: $(TOOLS)/cosign $(TOOLS)/v3/cosign $(TOOLS)/crane $(TOOLS)/regctl $(TOOLS)/trivy $(TOOLS)/vault $(TOOLS)/buildkitd $(TOOLS)/oidc-provider/node_modules $(TOOLS)/axe/node_modules
$(TOOLS)/cosign:
	@echo "compiling cosign; the first time takes about three minutes"
	GOBIN=$(CURDIR)/$(TOOLS) $(GO) install github.com/sigstore/cosign/v2/cmd/cosign@v2.6.5
# What cosign 2 and what cosign 3 verify is not the same; what is signed here, both do.
$(TOOLS)/v3/cosign:
	@echo "compiling cosign 3; the first time takes some minutes"
	GOBIN=$(CURDIR)/$(TOOLS)/v3 $(GO) install github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3
$(TOOLS)/crane:
	GOBIN=$(CURDIR)/$(TOOLS) $(GO) install github.com/google/go-containerregistry/cmd/crane@v0.22.1
$(TOOLS)/regctl:
	GOBIN=$(CURDIR)/$(TOOLS) $(GO) install github.com/regclient/regclient/cmd/regctl@v0.11.7
# The command that findings are compared with: the scanner's version of Trivy, with the versions that the scanner is built
# of, so that most is compiled already.
$(TOOLS)/trivy: internal/tools/trivy/go.mod
	cd internal/tools/trivy && GOEXPERIMENT=jsonv2 $(GO) build -trimpath -ldflags '-s -w' -o ../bin/trivy github.com/aquasecurity/trivy/cmd/trivy
# What the tests of keys in a KMS sign with.
$(TOOLS)/vault: internal/tools/vault/go.mod internal/tools/vault/main.go
	@echo "compiling vault; the first time takes about four minutes"
	cd internal/tools/vault && $(GO) build -trimpath -ldflags '-s -w' -o ../bin/vault .
# The daemon that Dockerfiles with RUN are built with.
$(TOOLS)/buildkitd: internal/tools/buildkitd/go.mod
	@echo "compiling buildkitd; the first time takes about two minutes"
	cd internal/tools/buildkitd && $(GO) build -trimpath -ldflags '-s -w' -o ../bin/buildkitd github.com/moby/buildkit/cmd/buildkitd
$(TOOLS)/oidc-provider/node_modules:
	npm install --silent --no-audit --no-fund --no-save --ignore-scripts --prefix $(TOOLS)/oidc-provider oidc-provider@9.13.3
$(TOOLS)/axe/node_modules:
	npm install --silent --no-audit --no-fund --no-save --ignore-scripts --prefix $(TOOLS)/axe axe-core@4.14.1
$(TOOLS)/golangci-lint:
	@echo "compiling golangci-lint; the first time takes a few minutes"
	GOBIN=$(CURDIR)/$(TOOLS) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# The scanner's own packages are compiled with the experiment, and tested through the built program.
test: deps tools build examples/returns/returns examples/platforms/hello-amd64 examples/platforms/hello-arm64
	$(GO) vet ./...
	$(GO) test -timeout 30m ./...

lint: $(TOOLS)/golangci-lint
	test -z "$$(gofmt -l $$(git ls-files '*.go'))"
	$(TOOLS)/golangci-lint run ./...

examples/returns/returns: $(wildcard examples/returns/*.go)
	$(GO) build -trimpath -ldflags '-s -w' -o $@ ./examples/returns

examples/platforms/hello-%: examples/platforms/main.go
	GOOS=linux GOARCH=$* $(GO) build -trimpath -ldflags '-s -w' -o $@ ./examples/platforms

demo: deps tools build examples/returns/returns
	internal/demo/demo.sh

# Pictures of every page, from a server that is filled for it.
screenshots: deps tools build examples/returns/returns
	mkdir -p docs/screenshots
	WAYBILL_SCREENSHOTS=$(CURDIR)/docs/screenshots $(GO) test -count=1 -timeout 20m -run '^TestScreenshots$$' ./internal/e2e

image:
	docker build -t waybill:$(VERSION) --build-arg VERSION=$(VERSION) .

clean:
	rm -rf bin .demo examples/returns/returns examples/platforms/hello-*
