"""What a running agent tells of itself, where it is asked to: probes, metrics and /debug/."""
