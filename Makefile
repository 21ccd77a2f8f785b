# The commands of the project. All they need is Rust, make and a C compiler; tests install the rest themselves.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/dpone/target

.PHONY: help demo test lint docs bench bench-gate bench-routes
help: ## List the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: ## Build dpone and run the flights example
	cargo build --package dpone-cli
	DPONE=$(CARGO_TARGET_DIR)/debug/dpone examples/flights/run.sh

test: ## Run every test on servers of its own: make test ARGS="-p dpone-tests -- matrix"
	scripts/test $(ARGS)

lint: ## Check format, clippy and dependencies
	scripts/lint

docs: ## Build the API documentation, and the book where mdbook is installed
	cargo doc --workspace --no-deps
	@if command -v mdbook >/dev/null; then mdbook build docs; else echo "docs: mdbook is not installed: cargo install mdbook --locked"; fi

bench: ## Time the kernels; criterion's report goes to target/criterion
	cargo bench --package dpone-benches --bench kernels -- $(ARGS)

bench-gate: ## Count the kernels' instructions against benches/baseline (UPDATE=1 writes it)
	scripts/bench-gate

bench-routes: ## Compare routes with the raw protocol (ROUNDS=5, QUICK=1, ROUTE=parquet, GROWTH=1)
	scripts/bench-routes
