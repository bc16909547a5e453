"""The server's side of device links: who may have one, and what is registered on it."""
