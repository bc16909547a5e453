"""The native data plane of proxy-engine. It imports nothing from `proxy_engine`."""
