# `make help` lists the targets.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

BIN := $(CURDIR)/.tmp/bin
export PATH := $(BIN):$(PATH)
MODULES := $(shell sed -n "s/^\t\.\/\(.*\)/.\/\1/p; s/^\t\.$$/./p" go.work)
PACKAGES := $(addsuffix /...,$(MODULES))
FUZZTIME ?= 10s

.PHONY: help
help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk 'BEGIN {FS = ":.*## "} {printf "%-12s %s\n", $$1, $$2}'

.PHONY: test
test: ## Run the tests of all modules
	go test work

.PHONY: race
race: ## Run them with the race detector
	go test -race work

.PHONY: lint
lint: $(BIN) ## Vet and lint Go and protobuf
	go vet work
	golangci-lint run $(PACKAGES)
	cd foreign && GOWORK=off golangci-lint run ./...
	buf lint
	buf format --diff --exit-code

.PHONY: fix
fix: $(BIN) ## Format, and fix what linters can fix
	golangci-lint run --fix $(PACKAGES)
	buf format --write

.PHONY: generate
generate: $(BIN) ## Generate code from protobuf
	buf generate

.PHONY: protofiles
protofiles: $(BIN) ## Do what docs/protofiles.md says, outside the repository
	.ci/protofiles/run

.PHONY: foreign
foreign: ## Run the tests of gRPC and go-grpc-middleware with Hopbound in them
	cd foreign && GOWORK=off go run .

.PHONY: breaking
breaking: $(BIN) ## Compare protobuf with the release BASE
	buf breaking --against ".git#tag=$(BASE)"

.PHONY: alone
alone: ## Build and vet each module without the workspace
	for module in $(MODULES) ./foreign; do (cd $$module && GOWORK=off go build -o /dev/null ./... && GOWORK=off go vet ./...); done

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME
	.ci/fuzz $(FUZZTIME) $(PACKAGES)

.PHONY: bench
bench: ## Measure, and write docs/benchmarks.md
	go run ./bench/overhead -out docs/benchmarks.md
	go run ./bench/hedging -out docs/benchmarks.md
	go run ./bench/stores -out docs/benchmarks.md
	go run ./bench/traffic

# The tools, at the versions that tools/go.mod pins.
$(BIN): tools/go.mod tools/go.sum
	cd tools && GOWORK=off GOBIN=$(BIN) go install tool
	touch $(BIN)
