"""The request log: from the engine to the store, and what is asked of it."""
