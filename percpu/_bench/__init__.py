"""The lines of `percpu.bench`, by what they are about."""
