"""Applications of this process as targets: aiohttp and ASGI, behind a private Unix socket."""
