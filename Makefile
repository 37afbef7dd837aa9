# Satellite modules keep the root module at one dependency. Those without Go files only pin tools.
SATELLITES = $(shell find . -mindepth 2 -name go.mod -exec dirname {} \; 2>/dev/null)
TESTED = $(foreach dir,$(SATELLITES),$(if $(shell find $(dir) -name '*.go' | head -n 1),$(dir)))

.PHONY: demo test test-library test-others lint bench stress portable oldest sanitize gcstress interop deps

demo: deps
	@echo "building the demo; the first time this takes half a minute"
	go run ./examples/rolling-restart

# Most tests wait most of the time, so the library's run beside all others. What is to be compiled is compiled before.
test: deps
	@set -e; for dir in . $(TESTED); do \
		echo "cd $$dir; go vet ./..."; (cd $$dir && go vet ./... && go list -race -test -deps -export ./... >/dev/null); \
	done
	@$(MAKE) -j 2 test-library test-others

test-library:
	go test -race .

test-others:
	go test -race -p 1 $$(go list ./... | grep -v 'zmqgrace$$')
	@set -e; for dir in $(TESTED); do \
		echo "cd $$dir; go test -race ./..."; (cd $$dir && go test -race ./...); \
	done

lint: deps
	@files=$$(gofmt -l .); [ -z "$$files" ] || { echo "gofmt: run gofmt -w on:" >&2; echo "$$files" >&2; exit 1; }
	go vet ./...
	@set -e; staticcheck=$$(cd internal/tools && go tool -n staticcheck); \
	echo staticcheck ./...; $$staticcheck ./...; \
	for dir in $(TESTED); do \
		echo "cd $$dir"; (cd $$dir && go vet ./... && $$staticcheck ./...); \
	done

bench: deps
	cd internal/bench && go run .

COUNT = 3

stress: deps
	go test -race -shuffle=on -count=$(COUNT) ./...

# How the suites below run: make portable SUITE=.
SUITE = -race

# The Runner by pebbe's calls alone, as where the C handle of a socket can't be found.
portable: deps
	go test $(SUITE) -ldflags '-X github.com/zmqgrace/zmqgrace.portable=yes' .

# The oldest version of pebbe/zmq4 that will do, by a go.mod elsewhere.
OLDEST = v1.2.9

oldest: deps
	@set -e; dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; cp go.mod go.sum "$$dir"; \
	go mod edit -require=github.com/pebbe/zmq4@$(OLDEST) "$$dir/go.mod"; \
	echo "pebbe/zmq4 $(OLDEST): go test $(SUITE) . ./internal/libzmq"; \
	go test -mod=mod -modfile="$$dir/go.mod" $(SUITE) . ./internal/libzmq

# The address sanitizer, with a look for leaks at the end, over the C part and its use. libzmq itself is not built with it, may ask for
# memory of any size that a stranger names, and loses the first parts of a message whose peer goes away.
ASAN = ASAN_OPTIONS=allocator_may_return_null=1:fast_unwind_on_malloc=0
SANITIZED = Proxy|Outbox|Reply|Send|Router|ROUTER|Frame|Batch|Idle

sanitize: deps
	$(ASAN) go test -asan -skip SpoilsNone ./internal/libzmq
	$(ASAN):detect_leaks=0 go test -asan -run SpoilsNone ./internal/libzmq
	$(ASAN) go test -asan -run '$(SANITIZED)' .

# A minute of load on a server whose garbage collector hardly ever rests and checks its own marks, without and with the race
# detector.
gcstress: deps
	go test -count=1 -v -run Eager . -eager 1m
	go test -count=1 -v -race -run Eager . -eager 1m

# Restarts under clients that no one here wrote. RESTARTS=50 prints the figures of fifty.
RESTARTS = 3

interop: deps
	@sh internal/deps/deps.sh extras
	cd internal/interop && ZMQGRACE_NO_SKIP=1 go test -race -count=1 -v -timeout 30m . -restarts $(RESTARTS)

deps:
	@sh internal/deps/deps.sh
