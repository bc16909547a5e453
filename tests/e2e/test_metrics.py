"""/metrics of a real server, under traffic, and what its counters say of it."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.harness import wait_until
from tests.e2e.processes import TIMEOUT
from tests.e2e.site import Site
from tests.e2e.target import Target
from tests.e2e.test_tcp import connect, echo
from tests.ports import free_port


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    args = ["--tcp-ports", "1024-65535", "--workers", "2", "--metrics-public"]
    site = Site(tmp_path / "data", server_args=args)
    yield site
    site.close()


Samples = dict[tuple[str, str], float]


def scrape(site: Site) -> Samples:
    """By the name of a sample and the tunnel, or any one label's value, that it is of."""
    url = f"http://127.0.0.1:{site.admin_port}/metrics"
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
        text = answer.read().decode()
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for found in text_string_to_metric_families(text)
        for sample in found.samples
    }


def of(site: Site, name: str, labels: str = "") -> float:
    return scrape(site)["proxy_engine_" + name, labels]


def test_what_visitors_do_is_seen_while_they_do_it(site: Site) -> None:
    with Target() as target, echo() as echo_port:
        tcp_port = free_port()
        site.connect({"web": target.port}, f"--tcp=db:{tcp_port}=127.0.0.1:{echo_port}")
        for _ in range(3):
            assert site.get("web", "/kib").status == 200
        assert site.get("nobody").status == 404
        wait_until(lambda: of(site, "tunnel_requests_total", "web,2xx") == 3)
        refused = "proxy_engine_tunnel_errors_total", "(none),refused"
        wait_until(lambda: scrape(site).get(refused) == 1)
        found = scrape(site)
        name = "proxy_engine_tunnel_request_duration_seconds"
        assert found[f"{name}_count", "web"] == 3
        assert found["proxy_engine_tunnel_online", "web"] == 1
        assert found["proxy_engine_links", ""] >= 1
        assert found["proxy_engine_link_streams", ""] >= 2  # the control stream, and an idle one
        assert found["process_resident_memory_bytes", ""] > 1 << 20
        assert any(key[0] == "proxy_engine_store_duration_seconds_count" for key in found)

        with site.begin_download("/endless")[0]:
            wait_until(lambda: of(site, "tunnel_sent_bytes_total", "web") > 60_000)
            assert of(site, "tunnel_open", "web") == 1
        wait_until(lambda: of(site, "tunnel_errors_total", "web,aborted") == 1)
        wait_until(lambda: of(site, "tunnel_open", "web") == 0)

        with connect(tcp_port) as visitor:
            visitor.sendall(bytes(10_000))
            wait_until(lambda: of(site, "tunnel_received_bytes_total", "db") == 10_000)
            wait_until(lambda: of(site, "tunnel_sent_bytes_total", "db") == 10_005)
            assert of(site, "tunnel_open", "db") == of(site, "tunnel_connections_total", "db") == 1
        wait_until(lambda: of(site, "tunnel_open", "db") == 0)


def test_scrapes_in_a_loop_disturb_nobody(site: Site) -> None:
    with Target() as target:
        site.connect({"web": target.port})
        assert site.get("web", "/kib").status == 200
        done = threading.Event()
        scrapes: list[Samples] = []

        def loop() -> None:
            while not done.is_set():
                scrapes.append(scrape(site))

        scraper = threading.Thread(target=loop)
        scraper.start()
        try:
            statuses = [site.get("web", "/kib").status for _ in range(300)]
        finally:
            done.set()
            scraper.join()
        assert statuses == [200] * 300
        seen = [each["proxy_engine_tunnel_requests_total", "web,2xx"] for each in scrapes]
        assert len(seen) > 3
        assert seen == sorted(seen)
        wait_until(lambda: of(site, "tunnel_requests_total", "web,2xx") == 301)
