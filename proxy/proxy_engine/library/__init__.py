"""What programs embed: `proxy_engine.Server` and `proxy_engine.Client`. See docs/library.md."""
