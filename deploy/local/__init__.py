"""One machine: the whole key server on a laptop, for `make up`, `make demo` and the tests that need it running."""
