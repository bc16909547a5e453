"""Tunnels as the server knows them: names, ports, options, and the engine's route table."""
