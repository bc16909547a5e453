"""The agent's tunnels and their options, from files and flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy_engine.agent.tunnels import AgentTunnel, tunnels_of
from proxy_engine.errors import UsageError
from proxy_engine.settings import config
from proxy_engine.tunnels.option_texts import header_texts, parse_headers
from proxy_engine.tunnels.options import NONE, Headers, Options, digest_of
from proxy_engine.values import Address

HTTP = ["web=127.0.0.1:3000", "api=127.0.0.1:4000"]


def tunnels(file: Path | None = None, **flags: Any) -> dict[str, AgentTunnel]:
    chosen = config.load(flags, {}, file=None if file is None else str(file))
    return {tunnel.name: tunnel for tunnel in tunnels_of(chosen, "pe_x")}


def toml(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "agent.toml"
    file.write_text(text)
    return file


def test_without_options_there_is_only_the_name() -> None:
    found = tunnels(http=HTTP, tcp=["db:15432=127.0.0.1:5432", "0=127.0.0.1:22"])
    assert found["web"] == AgentTunnel("web", "http", None, Address("127.0.0.1", 3000))
    assert msgspec.to_builtins(found["web"].spec()) == {"name": "web"}
    assert found["db"].spec().port == 15432
    [made_up] = found.keys() - {"web", "api", "db"}
    assert made_up.startswith("tcp-")
    assert tunnels(tcp=["0=127.0.0.1:22"]).keys() == {made_up}


def test_an_option_is_for_all_http_tunnels_or_the_one_that_is_named() -> None:
    found = tunnels(
        http=HTTP, tcp=["db:15432=127.0.0.1:5432"], deny=["10.0.0.1/8"],
        allow=["api=192.0.2.0/24", "db=192.0.2.7"], strip_prefix=["web=/a/"],
        host_header=["rewrite"], request_header=["X-A: b=c", "api=Cookie:", "+X-B: d"],
    )  # fmt: skip
    assert found["db"].options == Options(allow=("192.0.2.7/32",))
    assert found["web"].options == Options(
        deny=("10.0.0.0/8",), strip_prefix="/a", host_header="127.0.0.1:3000",
        request_headers=Headers(set={"X-A": "b=c"}, add={"X-B": "d"}),
    )  # fmt: skip
    api = found["api"].options
    assert (api.allow, api.deny) == (("192.0.2.0/24",), ("10.0.0.0/8",))
    assert api.request_headers == Headers(remove=("Cookie",), set={"X-A": "b=c"}, add={"X-B": "d"})


def test_a_profile_is_for_all_tunnels_but_those_of_udp(tmp_path: Path) -> None:
    found = tunnels(
        http=HTTP, tcp=["db:15432=127.0.0.1:5432"], udp=["dns:1053=127.0.0.1:53"],
        profile=["latency", "db=throughput"],
    )  # fmt: skip
    assert {name: tunnel.options.profile for name, tunnel in found.items()} == {
        "web": "latency", "api": "latency", "db": "throughput", "dns": None,
    }  # fmt: skip
    assert tunnels(tcp=["db:15432=127.0.0.1:5432"], profile=["latency"])["db"].options == Options(
        profile="latency"
    )
    file = toml(
        tmp_path, '[[tunnels]]\nname = "db"\nkind = "tcp"\ntarget = "a:1"\nprofile = "latency"\n'
    )
    assert tunnels(file)["db"].options.profile == "latency"
    for profile, message in (
        ("web=fast", '--profile: there is no profile "fast", only balanced, throughput, latency'),
        ("dns=latency", "--profile: profile is an option of HTTP and TCP tunnels"),
    ):
        with pytest.raises(UsageError, match=message):
            tunnels(http=HTTP, udp=["dns:1053=127.0.0.1:53"], profile=[profile])
    with pytest.raises(UsageError, match=r"--profile: of which tunnel\? give NAME=latency"):
        tunnels(udp=["dns:1053=127.0.0.1:53"], profile=["latency"])


def test_a_domain_is_of_one_tunnel() -> None:
    found = tunnels(http=HTTP, domains=["web=www.example.com,api=*.example.com"])
    assert (found["web"].domains, found["api"].domains) == (
        ("www.example.com",),
        ("*.example.com",),
    )
    with pytest.raises(UsageError, match="--domain: of which tunnel"):
        tunnels(http=HTTP, domains=["www.example.com"])
    assert tunnels(http=HTTP[:1], domains=["a.b"])["web"].domains == ("a.b",)


def test_passwords_are_hashed_before_they_leave(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("ann:correct horse\n\nbob:a:b\nweb=eve:x=y\napi=joe:s3cret\n")
    found = tunnels(http=HTTP, basic_auth_file=str(users))
    web, api = found["web"].options.basic_auth, found["api"].options.basic_auth
    assert web is not None
    assert api is not None
    assert [user.name for user in web.users] == ["ann", "bob", "eve"]
    assert [user.name for user in api.users] == ["ann", "bob", "joe"]
    salt = bytes.fromhex(web.salt)
    assert web.users[0].digest == digest_of(salt, "ann", "correct horse")
    assert web.users[1].digest == digest_of(salt, "bob", "a:b")
    assert web.salt != api.salt
    sent = str([tunnel.spec() for tunnel in found.values()])
    assert not any(word in sent for word in ("horse", "x=y", "s3cret"))


def test_the_file_says_everything_of_a_tunnel(tmp_path: Path) -> None:
    file = toml(
        tmp_path,
        """
        [[tunnels]]
        name = "web"
        target = "localhost:3000"
        domains = ["www.example.com"]
        allow = ["192.0.2.0/24"]
        deny = []
        basic_auth = ["ann:secret"]
        realm = "Printers"
        strip_prefix = "/api"
        host_header = "rewrite"
        request_headers = ["X-A: b"]
        response_headers = ["Server:"]
        [[tunnels]]
        name = "db"
        kind = "tcp"
        target = "127.0.0.1:5432"
        port = 15432
        proxy_protocol = true
        """,
    )
    found = tunnels(
        file, http=["api=127.0.0.1:4000"], allow=["web=10.0.0.0/8"], domains=["web=a.b"]
    )
    web, db = found["web"], found["db"]
    assert web.domains == ("www.example.com", "a.b")
    assert (web.options.allow, web.options.deny) == (("10.0.0.0/8",), ())
    assert web.options.basic_auth is not None
    assert web.options.basic_auth.realm == "Printers"
    assert (web.options.strip_prefix, web.options.host_header) == ("/api", "localhost:3000")
    assert (db.kind, db.port, db.has_proxy_header, db.options) == ("tcp", 15432, True, NONE)
    shown = str(config.plain(config.load({}, {}, file=str(file)), "tunnels"))
    assert "secret" not in shown
    assert "www.example.com" in shown


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('name = "web"', "target"),
        ('name = "Web"\ntarget = "a:1"', "not a tunnel name"),
        ('name = "web"\ntarget = "a"', "HOST:PORT"),
        ('name = "web"\ntarget = "a:1"\ndomian = []', 'did you mean "domains"?'),
        ('name = "web"\ntarget = "a:1"\nport = 5', "TCP"),
        ('name = "web"\ntarget = "a:1"\nkind = "udp"', "public port"),
        ('name = "web"\ntarget = "a:1"\nkind = "sctp"', "sctp"),
        ('name = "web"\ntarget = "a:1"\nallow = ["x"]', "not an address or a network"),
        ('name = "web"\ntarget = "a:1"\nbasic_auth = ["secretword"]', "USER:PASSWORD"),
        ('name = "web"\ntarget = "a:1"\nbasic_auth_file = "/none"', "No such file"),
        ('name = "web"\ntarget = "a:1"\nrequest_headers = ["X"]', "Name: value"),
        ('name = "web"\ntarget = "a:1"\nkind = "tcp"\nstrip_prefix = "/a"', "HTTP tunnels"),
    ],
)
def test_what_is_wrong_in_the_file_says_where(tmp_path: Path, table: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        tunnels(toml(tmp_path, f"[[tunnels]]\n{table}\n"))
    assert said in str(caught.value)
    assert "secretword" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"deny": ["x"]}, "--deny: "),
        ({"basic_auth": ["secretword"]}, "--basic-auth: "),
        ({"request_header": ["Host: x"]}, "--request-header: "),
        ({"strip_prefix": ["a"]}, "--strip-prefix: "),
        ({"strip_prefix": ["db=/a"]}, "HTTP tunnels"),
        ({"domains": ["db=a.b"]}, "no HTTP tunnel"),
        ({"http": ["web=a:1"], "tunnels": [{"name": "web", "target": "b:1"}]}, "given twice"),
    ],
)
def test_what_is_wrong_in_a_flag_says_which(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        tunnels(**{"http": HTTP, "tcp": ["db:15432=127.0.0.1:5432"], **flags})
    assert said in str(caught.value)
    assert "secretword" not in str(caught.value)


def test_headers_are_written_as_they_are_read() -> None:
    texts = ["Cookie:", "X-A: b: c", "+X-B: d"]
    headers = parse_headers(texts)
    assert headers == Headers(remove=("Cookie",), set={"X-A": "b: c"}, add={"X-B": "d"})
    assert header_texts(headers) == texts
    for wrong in (["X"], [": x"], ["+X:"], ["X: a", "X:"]):
        with pytest.raises(ValueError, match=r"is not|twice"):
            parse_headers(wrong)
