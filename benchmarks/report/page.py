"""The measured part of docs/performance.md: where it is from, plots, losses, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.load.stage import OURS
from benchmarks.parts.samples import Sample, figure, subjects_of
from benchmarks.report import model, svg
from benchmarks.report.glance import budgets, glance
from benchmarks.report.losses import Loss, causes
from benchmarks.report.tables import losses_table, scenario_sections, table
from benchmarks.scenarios import BY_NAME, Scenario
from benchmarks.targets import load as targets

MODELLED = (10_000, 100_000)
Result = Mapping[str, Any]


def provenance(results: Sequence[Result]) -> str:
    """Commit, machine, versions and the very commands; loudly, where the machine was busy."""
    first = results[0]
    machine, versions = first["machine"], first["versions"]
    dirty = ", with uncommitted changes" if versions.get("uncommitted") == "yes" else ""
    lines = [
        f"Measured {first['started'][:10]} at commit `{versions.get('commit', '?')[:9]}`{dirty}, on"
        f" {machine['cpu']}, {machine['cpus']} CPUs, {machine['memory_mib'] >> 10} GiB, Linux"
        f" {machine['kernel']}, TCP congestion control {machine['tcp_congestion_control']}."
        " Client, proxies and origin share these CPUs, over loopback.",
        "",
        ", ".join(
            f"{name} {value}"
            for name, value in versions.items()
            if name not in ("commit", "uncommitted", "argv")
        )
        + ".",
        "",
    ]
    # The first is what else ran; those after it also see the load of the run itself.
    if (before := machine.get("busy_cpus", 0.0)) > machine["cpus"] / 4:
        lines += [
            f"**The machine was busy** ({before:.1f} of its CPUs before the run): rates"
            " and latencies below say how the scheduler felt. Ratios in the same round and counts"
            " hold.",
            "",
        ]
    lines.append("```")
    commands: dict[str, float] = {}
    for each in results:
        argv = each["versions"]["argv"]
        commands[argv] = commands.get(argv, 0.0) + each.get("took_seconds", 0)
    for argv, seconds in commands.items():
        lines.append(f"{argv}   # {seconds / 60:.0f} minutes")
    rounds = sorted({each["settings"]["rounds"] for each in results if "settings" in each})
    count = f"{rounds[0]} rounds" if len(rounds) == 1 else "the rounds"
    lines += ["```", "", f"Figures are medians of {count}, least and most in brackets."]
    if not all(each.get("complete", True) for each in results):
        lines += ["", "**The run was interrupted**: what is missing below was not measured."]
    skipped: dict[str, None] = {}
    for each in results:
        for name, why in {**each.get("skipped", {}), **each.get("failed", {})}.items():
            skipped[f"- {name.partition(': ')[2] or name}: {why}"] = None
    if skipped:
        lines += ["", "Not measured:", "", *skipped]
    return "\n".join(lines) + "\n"


def bar_plot(samples: Sequence[Sample], title: str, names: Sequence[str], key: str) -> str | None:
    """Latencies of few clients and of many have no scale in common."""
    groups = {}
    for name in names:
        group = []
        for subject in subjects_of(samples, name):
            found = figure(samples, name, subject, key)
            if found is not None:
                group.append(svg.Bar(subject, found, subject.startswith(OURS)))
        if group:
            groups[name] = group
    is_one_scale = key not in ("p50_us", "p99_us")
    return svg.bars(title, groups, is_one_scale=is_one_scale) if groups else None


def connections_plot(samples: Sequence[Sample]) -> tuple[str | None, str]:
    """CPU a request by connections, 1 to 100,000: measured, and drawn on by the model."""
    series, rows = [], {}
    for subject in ("nginx-chain", OURS):
        points = []
        for name, scenario in BY_NAME.items():
            if name.startswith("http-1k-c") and isinstance(scenario, Scenario):
                found = figure(samples, name, subject, "cost")
                if found is not None:
                    points.append((float(name.removeprefix("http-1k-c")), found.median))
        points.sort()
        for x, y in points:
            rows[x, subject] = svg.number(y)
        if len(points) >= 2:
            series.append(svg.Line(subject, points))
            beyond = [x for x in MODELLED if x > points[-1][0]]
            drawn = model.by_logarithm(points, beyond)
            modelled = [points[-1], *zip(map(float, beyond), drawn, strict=True)]
            series.append(svg.Line(f"{subject}, model", modelled, is_model=True))
            for x, y in modelled[1:]:
                rows[x, subject] = f"{svg.number(y)} (model)"
    if not series:
        return None, ""
    title = "CPU us a request of 1 KiB, by kept-alive connections"
    heads = ["connections, all asking", "two nginx, CPU us a request", OURS]
    found_rows = [
        [f"{x:,.0f}", *(rows.get((x, subject), "-") for subject in ("nginx-chain", OURS))]
        for x in sorted({x for x, _ in rows})
    ]
    return svg.lines(title, "connections", series), table(heads, found_rows)


def links_table(samples: Sequence[Sample]) -> str:
    """Resident memory by idle links: measured, and the straight line on to 100,000."""
    points = []
    for name in ("idle-links", "idle-links-many"):
        links = figure(samples, name, OURS, "links")
        memory = figure(samples, name, OURS, "rss_mib")
        if links is not None and memory is not None:
            points.append((links.median, memory.median))
    rows = [[f"{x:,.0f}", svg.number(y)] for x, y in sorted(points)]
    if len(points) >= 2:
        line = model.fit(points)
        rows.append(["100,000", f"{svg.number(line.at(100_000))} (model: a straight line)"])
    return table(["idle links, a device each", "MiB of the server"], rows) if rows else ""


def plots(samples: Sequence[Sample]) -> dict[str, str]:
    """File name -> SVG; only of what was measured."""
    web = [f"http-1k-c{clients}" for clients in (1, 8, 64, 512)]
    bulk = ["http-64k-c64", "http-10m-c64", "upload-64k-c64"]
    tunnels = ["peers-http-1k-c64", "peers-http-new-c64"]
    tcp = ["tcp-up", "tcp-down", "tcp-up-8", "tcp-down-8"]
    peers_tcp = ["peers-tcp-up", "peers-tcp-down-8"]
    workers = ["workers-c64", "workers-c512"]
    idle = ["idle-visitors"]
    bars = {
        "peers-rate": ("Tunnels: requests a second, more is better", tunnels, "rate"),
        "peers-cpu": ("Tunnels: CPU us a request", tunnels, "cost"),
        "peers-p99": ("Tunnels: p99 latency, us", tunnels, "p99_us"),
        "peers-tcp": ("Tunnels: CPU s a GB", peers_tcp, "cost"),
        "requests-a-second": ("Requests a second, 1 KiB, more is better", web, "rate"),
        "cpu-a-request": ("CPU us a request, 1 KiB", web, "cost"),
        "p50": ("p50 latency, us, 1 KiB; each group has a scale of its own", web, "p50_us"),
        "p99": ("p99 latency, us, 1 KiB; each group has a scale of its own", web, "p99_us"),
        "cpu-a-gb-http": ("CPU s a GB, HTTP bodies", bulk, "cost"),
        "cpu-a-gb-tcp": ("CPU s a GB, TCP tunnels", tcp, "cost"),
        "memory-a-visitor": ("KiB of an idle visitor", idle, "kib_a_connection"),
        "workers": ("CPU us a request, by workers", workers, "cost"),
        "workers-rate": ("Requests a second, by workers, more is better", workers, "rate"),
    }
    found = {name: bar_plot(samples, *what) for name, what in bars.items()}
    found["connections"] = connections_plot(samples)[0]
    return {name: text for name, text in found.items() if text is not None}


# Heading -> the plots below it, and a line about them.
GALLERY = {
    "Beside other tunnels": (
        ("peers-rate", "peers-cpu", "peers-p99", "peers-tcp"),
        "64 visitors with kept connections, then one stream of bytes; `-w1` has one thread.",
    ),
    "HTTP": (
        ("requests-a-second", "cpu-a-request", "p50", "p99", "cpu-a-gb-http"),
        "Latency is that of clients that never pause: how long a request waits on a full machine."
        " With one client it is how long one takes.",
    ),
    "TCP": (
        ("cpu-a-gb-tcp",),
        "`-direct` is what a TCP tunnel does by itself, connections of its own for bulk; `-link` is"
        " everything over the one link, `-link-ws` that link in WebSocket.",
    ),
    "Memory": (("memory-a-visitor",), "Both proxies, for each visitor who has asked and stays."),
    "Workers": (
        ("workers-rate", "workers"),
        "Client, origin and agent have the same CPUs: one worker more has what they leave.",
    ),
}


def gallery(names: Sequence[str]) -> list[str]:
    parts = []
    for heading, (wanted, about) in GALLERY.items():
        there = [name for name in wanted if name in names]
        if there:
            parts += [f"### {heading}\n", f"{about}\n"]
            parts += [f"![{name.replace('-', ' ')}](plots/{name}.svg)\n" for name in there]
    return parts


def page(results: Sequence[Result], samples: Sequence[Sample], losses: Sequence[Loss]) -> str:
    drawn = plots(samples)
    growth = connections_plot(samples)[1]
    links = links_table(samples)
    parts = ["## Measured\n", provenance(results)]
    rows = glance(samples)
    if len(rows) > 1:
        parts += [
            "### At a glance\n",
            "Everything is two hops, a server and an agent; the best of each row is bold. Of ours"
            " it is what comes without any option, of the others the better of how they come and"
            " with one thread. Two nginx, two HAProxy and two bare relays are no tunnels: nothing"
            " dials out, nothing is shared.\n",
            table(rows[0], rows[1:]),
        ]
    held = budgets(samples, causes())
    if held:
        by_tests = [f"{each.what} (`{each.held_by}`)" for each in targets() if each.held_by]
        parts += [
            "### Against our budgets\n",
            "Of `benchmarks/targets.toml`, where this run says something about them; the gate holds"
            " them all, in every change. Beside others, a budget is a share of what they spend.\n",
            table(["what", "budget", "measured", "", "why"], held),
            "Held by tests: " + "; ".join(by_tests) + ".\n",
        ]
    parts += [
        "### Where we lose\n",
        "Each figure in which anything measured in the same run was better than the best of ours by"
        " more than 5 %, the worst first; bulk over the link counts for itself. `direct`, single"
        " hops, bare C servers and the floor bound us and are no rivals. Memory and latency less,"
        " rates more are better.\n",
        losses_table(losses),
        *gallery(list(drawn)),
    ]
    if growth or links:
        parts += [
            "### From 1 to 100,000 connections\n",
            "What the machine allows is measured, within its limit of descriptors a process. What"
            " is beyond is a **model**: memory a straight line, CPU a request a straight line in"
            " the logarithm of the connections, through the two largest that were measured.\n",
            "![connections](plots/connections.svg)\n" if "connections" in drawn else "",
            growth,
            links,
        ]
    parts += [
        "### Every scenario\n",
        "¹ The client had 95 % of a CPU or more: the rate is a lower bound. MiB is memory of both"
        " processes after the load, shared pages divided among their users.\n",
        scenario_sections(samples),
    ]
    return "\n".join(part for part in parts if part)
