# `make help` lists the targets.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# Tools are built at the versions of tools/go.mod.
TOOL := GOWORK=off go tool -modfile=$(CURDIR)/tools/go.mod
PACKAGES := ./... ./bench/... ./examples/...
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
lint: ## Vet and lint Go and protobuf
	go vet work
	$(TOOL) golangci-lint run $(PACKAGES)
	$(TOOL) buf lint
	$(TOOL) buf format --diff --exit-code

.PHONY: fix
fix: ## Format, and fix what linters can fix
	$(TOOL) golangci-lint run --fix $(PACKAGES)
	$(TOOL) buf format --write

.PHONY: generate
generate: ## Generate code from protobuf
	GOWORK=off GOBIN=$(CURDIR)/.tmp/bin go install -modfile=$(CURDIR)/tools/go.mod \
		google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
	PATH="$(CURDIR)/.tmp/bin:$$PATH" $(TOOL) buf generate

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME
	go list $(PACKAGES) | while read -r package; do \
		go test -list '^Fuzz' "$$package" | { grep '^Fuzz' || true; } | while read -r target; do \
			echo "$$package $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$package"; \
		done; \
	done

.PHONY: bench
bench: ## Measure, and write docs/benchmarks.md
	go run ./bench/overhead -out docs/benchmarks.md
