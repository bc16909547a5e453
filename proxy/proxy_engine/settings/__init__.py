"""One settings tree and what its values may be."""
