"""The parts of `proxy-engine demo`: a service, its checks, and the scene they play in."""
