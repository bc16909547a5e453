"""Settings of the export to a collector, and OpenTelemetry's own variables for them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from proxy_engine import reload
from proxy_engine.errors import UsageError
from proxy_engine.otlp import service
from proxy_engine.settings import config, otlp
from proxy_engine.settings.config import Loaded, Settings

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def load(environ: dict[str, str], **flags: str) -> Loaded:
    return config.load_with_sources(flags, environ, standard=True)


def test_the_variables_of_opentelemetry_are_honoured() -> None:
    environ = {
        ENDPOINT: "http://collector:4318",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://tempo/otlp",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Basic%20QQ%3D%3D, x-scope=a",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2500",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": "ca.pem",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_METRIC_EXPORT_INTERVAL": "15000",
        "OTEL_SERVICE_NAME": "edge",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=prod,team=a%2Cb",
        "OTEL_TRACES_SAMPLER": "traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.25",
        "OTEL_SOMETHING_ELSE": "x",
    }
    settings, sources = load(environ)
    assert service.urls(settings) == {
        "metrics": "http://collector:4318/v1/metrics",
        "traces": "https://tempo/otlp",
    }
    assert otlp.headers(settings.otlp_headers) == {"authorization": "Basic QQ==", "x-scope": "a"}
    assert (settings.otlp_timeout, settings.otlp_interval) == (2.5, 15.0)
    assert (settings.otlp_compression, settings.otlp_ca) == ("gzip", "ca.pem")
    assert settings.otlp_service_name == "edge"
    assert settings.otlp_attributes == {"deployment.environment.name": "prod", "team": "a,b"}
    assert (settings.otlp_sampler, settings.otlp_sample) == ("traceidratio", 0.25)
    assert sources["otlp_endpoint"] == ENDPOINT
    assert config.plain(settings, "otlp_headers") == config.REDACTED


def test_flags_our_variables_and_the_file_win_over_them(tmp_path: Path) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text('otlp_service_name = "file"\n[otlp_attributes]\nteam = "b"\n')
    environ = {
        ENDPOINT: "http://a:1",
        "PROXY_ENGINE_OTLP_ENDPOINT": "http://b:2",
        "OTEL_SERVICE_NAME": "standard",
    }
    found = config.load_with_sources({}, environ, file=str(file), standard=True).settings
    assert found.otlp_endpoint == "http://b:2"
    assert (found.otlp_service_name, found.otlp_attributes) == ("file", {"team": "b"})
    assert load(environ, otlp_endpoint="http://c:3").settings.otlp_endpoint == "http://c:3"


def test_a_file_of_headers_wins_over_the_variable(tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text("authorization=Bearer%20fresh\n")
    environ = {
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=old",
        "PROXY_ENGINE_OTLP_HEADERS_FILE": str(file),
    }
    settings = load(environ).settings
    assert config.secret(settings, "otlp_headers") == "authorization=Bearer%20fresh"


def test_programs_other_than_the_server_do_not_hear_of_them() -> None:
    environ = {ENDPOINT: "nonsense", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    assert config.load({}, environ) == config.load({}, {})


@pytest.mark.parametrize(
    ("environ", "signals"),
    [
        ({"OTEL_TRACES_EXPORTER": "none"}, ["metrics"]),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, ["traces"]),
        ({"OTEL_METRICS_EXPORTER": "console, otlp"}, ["metrics", "traces"]),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}, []),
        ({"OTEL_TRACES_EXPORTER": ""}, ["metrics", "traces"]),
        ({"OTEL_SDK_DISABLED": "true"}, []),
    ],
)
def test_signals_can_be_turned_off(environ: dict[str, str], signals: list[str]) -> None:
    assert [*service.urls(load({ENDPOINT: "http://a", **environ}).settings)] == signals


def test_one_endpoint_of_its_own_is_enough() -> None:
    settings = load({}, otlp_traces_endpoint="http://jaeger:4318/v1/traces").settings
    assert service.urls(settings) == {"traces": "http://jaeger:4318/v1/traces"}
    assert service.urls(Settings()) == {}


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({ENDPOINT: "collector:4317"}, "OTEL_EXPORTER_OTLP_ENDPOINT: .*http"),
        ({ENDPOINT: "http://u:p@a"}, "otlp_headers"),
        ({ENDPOINT: "http://a/?api-key=1"}, "otlp_headers"),
        ({ENDPOINT: "http://a", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "only http/protobuf"),
        (
            {ENDPOINT: "http://a", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        ),
        ({"OTEL_TRACES_SAMPLER": "xray"}, "OTEL_TRACES_SAMPLER: .*none of: always_on"),
        ({"OTEL_TRACES_SAMPLER_ARG": "2"}, "OTEL_TRACES_SAMPLER_ARG: .*0..1"),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "soon"}, "OTEL_METRIC_EXPORT_INTERVAL"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "team"}, "NAME=VALUE"),
    ],
)
def test_what_is_wrong_is_said_with_the_name_of_the_variable(
    environ: dict[str, str], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        load(environ)


@pytest.mark.parametrize("headers", ["s3cret", "a b=s3cret", "a=s3cret%0d%0aevil: 1"])
def test_wrong_headers_are_not_shown(headers: str) -> None:
    with pytest.raises(UsageError) as caught:
        load({"OTEL_EXPORTER_OTLP_HEADERS": headers})
    assert "s3cret" not in str(caught.value)


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "opentelemetry.proto.collector.trace.v1.trace_service_pb2"
    monkeypatch.setitem(sys.modules, name, None)
    reload.check(Settings())
    with pytest.raises(UsageError, match=r"pip install 'proxy-engine\[otlp\]'") as caught:
        reload.check(Settings(otlp_endpoint="http://a"))
    assert "\n" not in str(caught.value)


def test_files_are_looked_at_before_anything_starts(tmp_path: Path) -> None:
    missing = str(tmp_path / "no.pem")
    for wrong in (
        {"otlp_ca": missing},
        {"otlp_cert": missing},
        {"otlp_key": missing},
        {"otlp_headers_file": missing},
    ):
        with pytest.raises(UsageError, match=r"otlp"):
            service.check(config.from_values({"otlp_endpoint": "https://a", **wrong}))
