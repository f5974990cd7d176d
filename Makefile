# All development tasks; `make` lists them.

# An interpreter that is named has a virtual environment of its own: `make test-fast PYTHON=python3.12`.
VENV := .venv$(if $(PYTHON),-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
# Tests in Node.js and their packages.
NODE_TESTS := tests/chart/crds tests/sdk
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"$$/\1/p' app/starling/__init__.py)
# Where it is set, each of the hundreds of processes of a test run would compile all code again.
export PYTHONDONTWRITEBYTECODE :=
PIP_INSTALL := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet
UV_COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command "make lock" --no-emit-index-url $(LOCK_OPTIONS)

ENGINE ?= $(if $(shell command -v podman),podman,docker)
IMAGE ?= starling:$(VERSION)
# Behind a private index or certificate: IMAGE_OPTIONS="--secret id=pip.conf,src=… --secret id=ca.pem,src=…" (see Dockerfile).
IMAGE_OPTIONS ?=

# Processes that run tests side by side, most of which wait for something; and the seconds after which a run ends.
TEST_WORKERS ?= 4
TEST_FAST_WORKERS ?= 2
TEST_BOUND ?= 1800

.DEFAULT_GOAL := help
.PHONY: help run test test-under-load test-fast test-in-process coverage test-portable test-interpreters check check-types check-style bench soak conformance durable-streams fuzz fmt docs docs-site asyncapi-check typescript-check diagrams protobuf dashboard-preview lock image chart test-cluster release capacity clean node-packages

help:  ## List the targets
	@awk -F ':.*##' '/^[a-z-]+:.*##/ {printf "  make %-18s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.runtime  ## Start the service in developer mode on http://localhost:8000
	@STARLING_DEV=$${STARLING_DEV:-true} exec $(BIN)/starling serve

test: $(VENV)/.dev  ## Run all checks and every test
	@tools/setup/system-packages.sh
	@$(MAKE) --no-print-directory node-packages check
	$(BIN)/pytest --numprocesses=$(TEST_WORKERS) --bound=$(TEST_BOUND) -m "not long"
	@$(MAKE) --no-print-directory test-interpreters

test-under-load:  ## Run all checks and every test while a busy loop takes each core (ROUNDS=3)
	@tools/setup/test-under-load.sh $(ROUNDS)

test-fast: check test-in-process  ## Run all checks and every test that starts no process (PYTHON=python3.12)

test-in-process: $(VENV)/.dev  ## Run every test that starts no process, and print what they cover
	$(BIN)/pytest --numprocesses=$(TEST_FAST_WORKERS) --bound=$(TEST_BOUND) -m "not processes" \
		--cov --cov-report=term:skip-covered

# Workers of `starling serve` are not measured: see docs/decisions/0037-a-supervisor-for-test-runs.md.
COVERAGE_TESTS := tests/auth tests/brokers tests/client tests/engine tests/protocol tests/telemetry tests/web tests/test_pod_in_process.py
coverage: $(VENV)/.dev  ## Print what no test in this process reaches in auth, brokers, engine and protocol, over Redis and PostgreSQL too
	@tools/setup/system-packages.sh
	$(BIN)/pytest --numprocesses=$(TEST_WORKERS) --bound=$(TEST_BOUND) -m "not long" $(COVERAGE_TESTS) --cov --cov-report= --cov-fail-under=0
	$(BIN)/coverage report --show-missing --skip-covered --fail-under=0 --include='*/auth/*,*/brokers/*,*/engine/*,*/protocol/*'

# What depends most on the interpreter and takes seconds: a whole second run would not fit into the minutes of `make test`.
PORTABLE_TESTS := tests/auth tests/client tests/engine tests/protocol tests/test_package.py tests/test_settings.py
test-portable: $(VENV)/.dev  ## Run the portable part of these tests (PYTHON=python3.12)
	$(BIN)/pytest --numprocesses=$(TEST_FAST_WORKERS) --bound=$(TEST_BOUND) -m "not processes" $(PORTABLE_TESTS)

test-interpreters:  ## Run portable tests on each supported Python that is here, and name those that are not
	@tools/setup/test-interpreters.sh $(BIN)/python

check: $(VENV)/.dev  ## Check format, lint, types, import layering and words
	@$(MAKE) --no-print-directory --jobs=2 --output-sync check-types check-style

check-types: $(VENV)/.dev
	$(BIN)/mypy

check-style: $(VENV)/.dev
	$(BIN)/ruff format --check --quiet
	$(BIN)/ruff check --quiet
	$(BIN)/lint-imports
	$(BIN)/python -m tools.words
	$(BIN)/shellcheck .ci/run tools/setup/*.sh

# ONLY, SERVERS (names, comma separated), ROUNDS, SECONDS of a window, COUNTS of receivers, SIZES in bytes,
# MOST connections in the other scenarios, MINUTES in all.
BENCH_VARIABLES := ONLY SERVERS ROUNDS SECONDS COUNTS SIZES MOST MINUTES
bench: $(VENV)/.dev  ## Benchmark against other servers (ONLY=fanout,burst SERVERS=starling,ws ROUNDS=1 COUNTS=100,1000)
	@tools/setup/system-packages.sh bench
	$(BIN)/python -m tests.bench $(foreach name,$(BENCH_VARIABLES),\
		$(if $($(name)),--$(shell echo $(name) | tr A-Z a-z)=$($(name))))

soak: $(VENV)/.dev  ## The long tests, then random faults over two pods and one Redis with a record of every publication (MINUTES=10 SEED=1)
	@tools/setup/system-packages.sh
	@$(MAKE) --no-print-directory node-packages
	$(BIN)/pytest --numprocesses=$(TEST_WORKERS) --bound=$(TEST_BOUND) -m long
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

fuzz: $(VENV)/.dev  ## Random and mutated frames, HTTP heads and API bodies against a running service (INPUTS=1000000 SEED=1)
	@tools/setup/system-packages.sh
	$(BIN)/python -m tests.fuzz --inputs $(or $(INPUTS),1000000) $(if $(SEED),--seed $(SEED))

# WSTEST: an installed wstest; without it the suite is installed into build/autobahn, for which PYTHON2 is a CPython 2.7.
conformance: $(VENV)/.dev  ## RFC 6455 and 7692 by the Autobahn test suite (WSTEST=wstest SETS=standard,compression)
	@$(if $(WSTEST),,tools/setup/autobahn.sh build/autobahn)
	@$(BIN)/python -m tests.conformance --wstest=$(or $(WSTEST),build/autobahn/bin/wstest) \
		$(if $(SETS),--sets=$(SETS)) $(if $(PROFILES),--profiles=$(PROFILES))

durable-streams: $(VENV)/.dev  ## Durable Streams by its public conformance suite from npm, on memory and on Redis (SERVICES=memory)
	@tools/setup/system-packages.sh
	@$(BIN)/python -m tests.conformance.durable_suite $(if $(SERVICES),--services=$(SERVICES))

capacity: $(VENV)/.dev  ## Measure the constants of `starling size` on a quiet machine and store them
	@tools/setup/system-packages.sh bench
	$(BIN)/python -m tests.bench.size --write; status=$$?; $(MAKE) --no-print-directory docs; exit $$status

fmt: $(VENV)/.dev  ## Format and auto-fix
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

docs: $(VENV)/.dev  ## Generate from the code: settings, values, schema, dashboard
	$(BIN)/python -m tools.docs

docs-site: $(VENV)/.dev  ## Build the documentation as a site in build/site/VERSION (PROJECT_URL=… for links to code, SITE=… keeps other versions)
	$(BIN)/python -m tools.site $(if $(PROJECT_URL),--project-url $(PROJECT_URL)) $(if $(SITE),--site $(SITE))

# Node.js looks for packages from the script's place upwards.
asyncapi-check:  ## Check docs/asyncapi.json with AsyncAPI's own parser from npm
	@mkdir -p build/asyncapi && cp tools/setup/check-asyncapi.mjs build/asyncapi/
	@npm install --prefix build/asyncapi --silent --no-audit --no-fund @asyncapi/parser@3.6.6
	@node build/asyncapi/check-asyncapi.mjs docs/asyncapi.json

typescript-check: $(VENV)/.dev  ## Check the TypeScript of docs/ with the types of React Native from npm (190 MB)
	$(BIN)/python -m tools.site.typescript

diagrams: $(VENV)/.dev  ## Draw docs/diagrams into docs/pictures, in Chromium by mermaid from npm
	$(BIN)/python -m tools.site.diagrams

protobuf: $(VENV)/.dev  ## Write the Python of starling/protocol/client.proto
	$(BIN)/python -m grpc_tools.protoc --proto_path=app --python_out=app --pyi_out=app starling/protocol/client.proto

dashboard-preview: $(VENV)/.dev  ## Draw the dashboard's panels from a service under load, into docs/pictures/
	@tools/setup/system-packages.sh
	$(BIN)/python -m tests.chart.dashboard_preview

lock: $(VENV)/.dev  ## Lock the dependencies of pyproject.toml (LOCK_OPTIONS=--upgrade: to today's versions)
	$(UV_COMPILE) pyproject.toml -o requirements/runtime.txt
	$(UV_COMPILE) pyproject.toml --extra otel -c requirements/runtime.txt -o requirements/otel.txt
	$(UV_COMPILE) pyproject.toml --extra otel --extra dev -c requirements/otel.txt -o requirements/dev.txt
	$(UV_COMPILE) --group build -c requirements/dev.txt -o requirements/build.txt

image:  ## Build the container image with podman or docker
	$(ENGINE) build $(if $(filter podman,$(notdir $(ENGINE))),--format docker) \
		--build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD) \
		--build-arg CREATED=$$(git log -1 --format=%cI) --build-arg PROJECT_URL=$(PROJECT_URL) $(IMAGE_OPTIONS) --tag $(IMAGE) .

chart: $(VENV)/.dev  ## Pack the Helm chart into dist/
	$(BIN)/helm lint --strict --quiet helm/starling
	$(BIN)/helm package --destination dist helm/starling

# REGISTRY (registry.example.com/team) and PROJECT_URL must be given. SIGN: cosign's key, or keyless. BUILDER: who builds.
RELEASE_VARIABLES := REGISTRY PROJECT_URL PLATFORMS BASE_IMAGE SIGN BUILDER
release: $(VENV)/.dev  ## Build, push, describe and sign a release (REGISTRY=… PROJECT_URL=… SIGN=cosign.key PLAIN_HTTP=1)
	$(BIN)/python -m tools.release $(foreach name,$(RELEASE_VARIABLES),\
		$(if $($(name)),--$(shell echo $(name) | tr A-Z_ a-z-)=$($(name)))) $(if $(PLAIN_HTTP),--plain-http) \
		$(foreach option,$(IMAGE_OPTIONS),--image-option=$(option))

test-cluster: $(VENV)/.dev  ## Test the chart on the cluster of KUBECONFIG (STARLING_IMAGE=…), or on one by kind, k3d or minikube
	@ENGINE=$(ENGINE) tools/setup/test-cluster.sh $(BIN)/pytest -v -n 0 tests/chart/test_cluster.py

clean:  ## Remove the virtual environment and every cache
	rm -rf .venv .venv-* .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find app tests tools -name __pycache__ -prune -exec rm -rf {} +

node-packages: $(if $(shell command -v npm),$(NODE_TESTS:%=%/node_modules/.package-lock.json))

%/node_modules/.package-lock.json: %/package-lock.json
	npm ci --prefix $* --silent --no-audit --no-fund

$(BIN)/python:
	@tools/setup/make-venv.sh $(VENV)

$(VENV)/.runtime: requirements/runtime.txt requirements/build.txt pyproject.toml | $(BIN)/python
	@echo "Installing Starling into $(VENV)"
	@$(PIP_INSTALL) --require-hashes -r requirements/runtime.txt -r requirements/build.txt
	@$(PIP_INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	@echo "Installing the development tools into $(VENV)"
	@$(PIP_INSTALL) --require-hashes -r requirements/dev.txt
	@touch $@
