//! Benchmarks. Routes against the raw protocol are in `routes.py`: they time whole processes, dpone and psql alike.
