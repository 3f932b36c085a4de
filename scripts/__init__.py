"""Training, benchmarks and checks; a package, so that another one of this name can not stand in for it."""
