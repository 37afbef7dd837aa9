# Satellite modules keep the root module at one dependency. Those without Go files only pin tools.
SATELLITES = $(shell find . -mindepth 2 -name go.mod -exec dirname {} \; 2>/dev/null)

.PHONY: demo test lint bench stress interop deps

demo: deps
	@echo "building the demo; the first time this takes half a minute"
	go run ./examples/rolling-restart

test: deps
	go vet ./...
	go test -race ./...
	@set -e; for dir in $(SATELLITES); do \
		[ -n "$$(find $$dir -name '*.go' | head -n 1)" ] || continue; \
		echo "cd $$dir"; (cd $$dir && go vet ./... && go test -race ./...); \
	done

lint: deps
	@files=$$(gofmt -l .); [ -z "$$files" ] || { echo "gofmt: run gofmt -w on:" >&2; echo "$$files" >&2; exit 1; }
	go vet ./...
	@set -e; staticcheck=$$(cd internal/tools && go tool -n staticcheck); \
	echo staticcheck ./...; $$staticcheck ./...; \
	for dir in $(SATELLITES); do \
		[ -n "$$(find $$dir -name '*.go' | head -n 1)" ] || continue; \
		echo "cd $$dir"; (cd $$dir && go vet ./... && $$staticcheck ./...); \
	done

bench: deps
	cd internal/bench && go run .

stress: deps
	go test -race -shuffle=on -count=3 ./...

# Restarts under clients that no one here wrote. RESTARTS=50 prints the figures of fifty.
RESTARTS = 3

interop: deps
	@sh internal/deps/deps.sh extras
	cd internal/interop && ZMQGRACE_NO_SKIP=1 go test -race -count=1 -v -timeout 30m . -restarts $(RESTARTS)

deps:
	@sh internal/deps/deps.sh
