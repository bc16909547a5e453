"""Metrics and traces to an OpenTelemetry collector: OTLP over HTTP. The extra `otlp`."""
