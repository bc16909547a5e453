from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxy_engine.errors import UsageError
from proxy_engine.settings import config
from proxy_engine.values import Address, HttpTarget, Listen


def write(tmp_path: Path, text: str) -> str:
    file = tmp_path / "proxy.toml"
    file.write_text(text)
    return str(file)


def test_nothing_given_means_defaults() -> None:
    settings = config.load({}, {"HOME": "/nowhere"})
    assert settings.listen == (Listen(Address("0.0.0.0", 8080)),)
    assert settings.admin == Address("127.0.0.1", 8081)
    assert settings.keep_requests == 1_000_000
    assert settings.grace == 30.0


def test_flags_beat_variables_beat_the_file_beats_defaults(tmp_path: Path) -> None:
    file = write(tmp_path, 'keep_requests = 2\ndomain = "file.example"\ngrace = "1m"\n')
    environ = {"PROXY_ENGINE_WORKERS": "3", "PROXY_ENGINE_DOMAIN": "env.example"}
    settings = config.load({"keep_requests": "4"}, environ, file=file)
    assert (settings.keep_requests, settings.domain, settings.grace) == (4, "env.example", 60.0)
    assert settings.transport == "auto"


def test_the_file_may_be_named_by_a_variable(tmp_path: Path) -> None:
    file = write(tmp_path, "keep_requests = 7\n")
    assert config.load({}, {"PROXY_ENGINE_CONFIG": file}).keep_requests == 7


def test_every_setting_has_its_three_spellings(tmp_path: Path) -> None:
    samples = {
        "listen": "127.0.0.1:1,https://127.0.0.1:3",
        "admin": "127.0.0.1:2",
        "admin_hosts": "a.example,b.example",
        "domain": "example.com",
        "data_dir": "/data",
        "grace": "5s",
        "default_tunnel": "web",
        "default_profile": "latency",
        "default_server_timing": "true",
        "traces": "join",
        "trace_sample": "0.25",
        "trusted_proxy": "10.0.0.0/8,2001:db8::1",
        "keep_requests": "10",
        "keep_requests_age": "30d",
        "keep_requests_size": "10GiB",
        "request_sample": "0.1",
        "request_redact": "pin,card",
        "request_journal_max": "2GiB",
        "mongodb_uri": "mongodb://a",
        "mongodb_uri_file": "f",
        "mongodb_driver": "pymongo",
        "otlp_endpoint": "http://collector:4318",
        "otlp_metrics_endpoint": "http://m/v1/metrics",
        "otlp_traces_endpoint": "https://t/v1/traces",
        "otlp_signals": "traces",
        "otlp_headers": "authorization=Bearer%20x",
        "otlp_headers_file": "f",
        "otlp_interval": "15s",
        "otlp_sampler": "always_on",
        "otlp_sample": "0.1",
        "otlp_service_name": "edge",
        "otlp_attributes": "deployment.environment.name=prod",
        "otlp_timeout": "5s",
        "otlp_compression": "gzip",
        "otlp_queue": "1MiB",
        "otlp_ca": "ca.pem",
        "otlp_cert": "cert.pem",
        "otlp_key": "key.pem",
        "redis_url": "rediss://a:6380/1",
        "redis_url_file": "f",
        "redis_password": "s",
        "redis_password_file": "f",
        "metrics_public": "true",
        "metrics_tunnels": "50",
        "webhook_url": "https://x.example/hook",
        "webhook_secret": "s",
        "webhook_secret_file": "f",
        "hooks": "logger,my.module:Audit",
        "hook_options": '{"logger": {"sample": 10}}',
        "hook_timeout": "2s",
        "hook_interval": "10s",
        "login_failures": "5",
        "links_per_agent": "3",
        "tcp_ports": "2000-2010",
        "pool": "16",
        "debug": "true",
        "watchdog": "5s",
        "udp": "5353=127.0.0.1:53",
        "link_busy_share": "50",
        "tls_cert": "a.pem,b.pem",
        "tls_key": "a.key,b.key",
        "tls_min_version": "1.2",
        "tls_ticket_age": "2h",
        "tls_client_ca": "ca.pem",
        "tls_client_crl": "crl.pem",
        "tls_client_required": "devices",
        "https_redirect": "true",
        "admin_tls_cert": "a.pem",
        "admin_tls_key": "a.key",
        "server": "http://x,http://y",
        "proxy": "http://p:3128",
        "allow_target": "10.0.0.0/8:80-90,[fd00::/8]:443",
        "allow_remote_config": "true",
        "token": "t",
        "token_file": "f",
        "device": "pi",
        "http": "web=127.0.0.1:3000",
        "tcp": "15432=127.0.0.1:5432",
        "tunnels": '[{"name": "web", "target": "127.0.0.1:3000"}]',
        "domains": "www.example.com",
        "allow": "web=10.0.0.0/8",
        "deny": "10.0.0.1",
        "basic_auth": "ann:secret",
        "basic_auth_file": "f",
        "strip_prefix": "/api",
        "host_header": "rewrite",
        "profile": "web=latency",
        "server_timing": "web=yes",
        "request_header": "X-A: b, c",
        "response_header": "web=X-A:",
        "proxy_protocol": "15432",
        "transport": "tcp",
        "links": "2",
        "ca": "ca.pem",
        "crl": "crl.pem",
        "pin": f"sha256/{'A' * 43}=",
        "server_name": "proxy.example.com",
        "cert": "a.pem",
        "key": "a.key",
        "target_ca": "web=ca.pem",
        "target_server_name": "web=app.internal",
        "target_insecure": "web",
        "agent_admin": "127.0.0.1:8082",
        "agent_admin_token": "t",
        "agent_admin_token_file": "f",
        "admin_url": "http://127.0.0.1:8081",
        "admin_token": "t",
        "admin_token_file": "f",
        "workers": "2",
        "log_format": "json",
        "log_level": "debug",
        "access_log": "true",
        "engine": "a=1",
    }
    assert set(samples) == set(config.KEYS)
    default = config.load({}, {})
    for key, text in samples.items():
        from_flag = getattr(config.load({key: text}, {}), key)
        from_variable = getattr(config.load({}, {"PROXY_ENGINE_" + key.upper(): text}), key)
        from_file = getattr(config.load({}, {}, file=write(tmp_path, f"{key} = {text!r}\n")), key)
        assert from_flag == from_variable == from_file != getattr(default, key), key


def test_tables_of_the_file_are_read_too(tmp_path: Path) -> None:
    text = '[http]\nweb = "127.0.0.1:3000"\napi = "localhost:4000"\n[engine]\nwindow = 5\n'
    settings = config.load({}, {}, file=write(tmp_path, text))
    assert settings.http == {
        "web": HttpTarget(Address("127.0.0.1", 3000)),
        "api": HttpTarget(Address("localhost", 4000)),
    }
    assert settings.engine == {"window": 5}


def test_an_unknown_key_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    file = write(tmp_path, 'listn = "0.0.0.0:80"\n')
    with pytest.raises(UsageError, match=re.escape('unknown key "listn", did you mean "listen"?')):
        config.load({}, {}, file=file)


def test_a_mistyped_variable_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match='did you mean "PROXY_ENGINE_LISTEN"'):
        config.load({}, {"PROXY_ENGINE_LISTN": "x"})
    with pytest.raises(UsageError, match='DOMIAN, did you mean "PROXY_ENGINE_DOMAIN"'):
        config.load({}, {"PROXY_ENGINE_DOMIAN": "example.com"})


def test_variables_that_kubernetes_sets_for_a_service_of_our_name_are_ignored() -> None:
    config.load(
        {},
        {
            "PROXY_ENGINE_SERVICE_HOST": "10.0.0.1",
            "PROXY_ENGINE_SERVICE_PORT": "80",
            "PROXY_ENGINE_PORT": "tcp://10.0.0.1:80",
            "PROXY_ENGINE_PORT_80_TCP_ADDR": "10.0.0.1",
            "PROXY_ENGINE_TESTING": "1",
        },
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("keep_requests", ""),
        ("keep_requests", "-1"),
        ("keep_requests", "two"),
        ("keep_requests", True),
        ("keep_requests_age", "soon"),
        ("mongodb_uri", "http://a"),
        ("mongodb_driver", "mongoose"),
        ("keep_requests_size", "10 elephants"),
        ("keep_requests_size", True),
        ("request_sample", "1.5"),
        ("request_sample", "some"),
        ("request_sample", True),
        ("request_sample", float("nan")),
        ("request_journal_max", "much"),
        ("listen", "8080"),
        ("listen", "host:99999"),
        ("listen", 8080),
        ("domain", "a b"),
        ("grace", "soon"),
        ("grace", "-1s"),
        ("transport", "quic"),
        ("log_format", "xml"),
        ("default_tunnel", "-web"),
        ("http", "web"),
        ("http", "Web=127.0.0.1:1"),
        ("http", "web=127.0.0.1:0"),
        ("http", ["web=127.0.0.1:1", "web=127.0.0.1:2"]),
        ("http", ",".join(f"t{n}=127.0.0.1:1" for n in range(2049))),
        ("engine", "a=b"),
        ("admin_hosts", 3),
        ("trusted_proxy", "10.0.0.1/8"),
        ("trusted_proxy", "all"),
    ],
)
def test_a_wrong_value_names_the_place_it_came_from(key: str, value: object) -> None:
    flag = "--" + key.replace("_", "-")
    with pytest.raises(UsageError, match=f"^{flag}: "):
        config.load({key: value}, {})


def test_a_token_of_a_nearer_layer_beats_a_token_file_of_a_farther_one() -> None:
    settings = config.load({"token": "a"}, {"PROXY_ENGINE_TOKEN_FILE": "f"})
    assert (settings.token, settings.token_file) == ("a", "")
    settings = config.load({"token_file": "f"}, {"PROXY_ENGINE_TOKEN": "a"})
    assert (settings.token, settings.token_file) == ("", "f")


def test_a_token_and_a_token_file_together_are_refused() -> None:
    with pytest.raises(UsageError, match="both token and token_file"):
        config.load({"token": "a", "token_file": "f"}, {})


@pytest.mark.parametrize("text", ["listen = ", "\udcff", "[http]\nweb = 3\n"])
def test_a_broken_file_is_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError) as caught:
        config.load({}, {}, file=str(file))
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        config.load({}, {}, file=str(tmp_path / "none.toml"))


def test_the_data_dir_follows_xdg() -> None:
    assert config.load({}, {"XDG_DATA_HOME": "/x"}).data_dir == Path("/x/proxy-engine")
    relative = config.load({}, {"XDG_DATA_HOME": "x"}).data_dir
    assert relative == Path("~/.local/share/proxy-engine").expanduser()


def test_tcp_tunnels_are_ports_names_or_both() -> None:
    text = "15432=127.0.0.1:5432, db:0=[::1]:5432, ssh=localhost:22, 0=10.0.0.1:1"
    tunnels = config.load({"tcp": [text]}, {}).tcp
    assert {key: tuple(tunnel) for key, tunnel in tunnels.items()} == {
        "15432": ("tcp-15432", 15432, ("127.0.0.1", 5432)),
        "db:0": ("db", 0, ("::1", 5432)),
        "ssh": ("ssh", None, ("localhost", 22)),
        "0": ("", 0, ("10.0.0.1", 1)),
    }


def test_udp_tunnels_are_ports_perhaps_with_a_name() -> None:
    tunnels = config.load({"udp": ["5353=127.0.0.1:53, dns:0=[::1]:53, 0=a:1"]}, {}).udp
    assert {key: tuple(tunnel) for key, tunnel in tunnels.items()} == {
        "5353": ("udp-5353", 5353, ("127.0.0.1", 53)),
        "dns:0": ("dns", 0, ("::1", 53)),
        "0": ("", 0, ("a", 1)),
    }
    for text in ("dns=127.0.0.1:53", "65536=a:1", "dns:=a:1"):
        with pytest.raises(UsageError, match="--udp"):
            config.load({"udp": [text]}, {})


@pytest.mark.parametrize(
    "text", ["65536=a:1", "db:=a:1", ":1=a:1", "Db=a:1", "db:x=a:1", "db:-1=a:1", "db=a", "db=a:0"]
)
def test_what_is_no_tcp_tunnel_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--tcp"):
        config.load({"tcp": [text]}, {})


def test_ports_of_tcp_tunnels_are_ranges() -> None:
    assert config.load({"tcp_ports": "2000-2010, 22"}, {}).tcp_ports == ((2000, 2010), (22, 22))
    assert config.load({"tcp_ports": ""}, {}).tcp_ports == ()
    for text in ("0-10", "10-9", "x", "1-65536", "1-2-3"):
        with pytest.raises(UsageError, match="--tcp-ports"):
            config.load({"tcp_ports": text}, {})


def test_where_each_setting_came_from_is_known(tmp_path: Path) -> None:
    file = write(tmp_path, 'keep_requests = 2\ndomain = "file.example"\n')
    loaded = config.load_with_sources(
        {"keep_requests": "4"}, {"PROXY_ENGINE_GRACE": "3s", "HOME": "/nowhere"}, file=file
    )
    assert loaded.sources == {
        "keep_requests": "--keep-requests",
        "grace": "PROXY_ENGINE_GRACE",
        "domain": f"{file}: domain",
    }
    assert loaded.source("listen") == "default"


def test_settings_are_shown_as_the_file_would_have_them(tmp_path: Path) -> None:
    text = """
        listen = "[::1]:80"
        admin_hosts = ["a.example"]
        http = { web = "127.0.0.1:3000" }
        tcp = { "db:15432" = "127.0.0.1:5432" }
        tcp_ports = ["2000-2010", "22"]
        token = "pe_secret"
        grace = 1.5
    """
    settings = config.load({}, {}, file=write(tmp_path, text))
    shown = {key: config.plain(settings, key) for key in config.KEYS}
    assert (shown["listen"], shown["admin_hosts"], shown["grace"]) == (
        ["[::1]:80"],
        ["a.example"],
        1.5,
    )
    assert shown["http"] == {"web": "127.0.0.1:3000"}
    assert shown["tcp"] == {"db:15432": "127.0.0.1:5432"}
    assert shown["tcp_ports"] == ["2000-2010", "22"]
    assert (shown["token"], shown["admin_token"]) == ("[redacted]", "")


def test_a_secret_may_be_in_a_file_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("pe_x\nsecond line\n")
    environ = {"PROXY_ENGINE_ADMIN_TOKEN_FILE": str(file)}
    assert config.secret(config.load({}, environ), "admin_token") == "pe_x"
    both = {**environ, "PROXY_ENGINE_ADMIN_TOKEN": "pe_y"}
    with pytest.raises(UsageError, match="both admin_token and admin_token_file"):
        config.load({}, both)
    nearer = config.load({"admin_token": "pe_z"}, environ)
    assert config.secret(nearer, "admin_token") == "pe_z"
    file.unlink()
    with pytest.raises(UsageError, match=r"admin token file .*No such file"):
        config.secret(config.load({}, environ), "admin_token")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('hook_interval = "11s"', "11 s is not in 1..10 s"),
        ("hook_timeout = 0", "0 s is not in 0.1..60 s"),
        ('hook_options = "{"', "not JSON"),
        ("hook_options = [1]", "expected tables by name"),
        ("hook_options = { logger = 1 }", "expected tables by name"),
    ],
)
def test_settings_of_hooks_that_make_no_sense(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "a.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=said):
        config.load({}, {}, file=str(file))


def test_secrets_in_options_of_hooks_are_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(
        '[hook_options."a:B"]\nurl = "http://x"\nsecret = "s"\napi_key = "k"\ndepth = 1\n'
    )
    settings = config.load({}, {}, file=str(file))
    hidden = config.REDACTED
    assert config.plain(settings, "hook_options") == {
        "a:B": {"url": hidden, "secret": hidden, "api_key": hidden, "depth": 1}
    }
