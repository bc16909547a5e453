"""The measured part of docs/performance.md: where it is from, plots, losses, tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.load.run import CLIENT_BUSY
from benchmarks.parts.samples import Sample, Spread, figure, ratio, subjects_of, summary
from benchmarks.report import model, svg
from benchmarks.report.losses import Loss, grouped
from benchmarks.scenarios import ALL, BY_NAME, Program, Scenario

MODELLED = (10_000, 100_000)
Result = Mapping[str, Any]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(heads), ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def cell(found: Spread | None) -> str:
    if found is None:
        return "-"
    median, least, most = map(svg.number, found)
    return median if least == most else f"{median} [{least}-{most}]"


def provenance(results: Sequence[Result]) -> str:
    """Commit, machine, versions and the very commands; loudly, where the machine was busy."""
    first = results[0]
    machine, versions = first["machine"], first["versions"]
    dirty = ", with uncommitted changes" if versions.get("uncommitted") == "yes" else ""
    busy = max(each["machine"]["load_average"] for each in results)
    lines = [
        f"Measured {first['started'][:10]} at commit `{versions.get('commit', '?')[:9]}`{dirty}, on"
        f" {machine['cpu']}, {machine['cpus']} CPUs, {machine['memory_mib'] >> 10} GiB, Linux"
        f" {machine['kernel']}, TCP congestion control {machine['tcp_congestion_control']}."
        " Client, proxies and origin share these CPUs.",
        "",
        ", ".join(
            f"{name} {value}"
            for name, value in versions.items()
            if name not in ("commit", "uncommitted", "argv")
        )
        + ".",
        "",
    ]
    if busy > machine["cpus"]:
        lines += [
            f"**The machine was busy** (load average {busy:.1f} at the start): rates and latencies"
            " below say how the scheduler felt. Ratios in the same round and counts hold.",
            "",
        ]
    lines.append("```")
    commands: dict[str, float] = {}
    for each in results:
        argv = each["versions"]["argv"]
        commands[argv] = commands.get(argv, 0.0) + each.get("took_seconds", 0)
    for argv, seconds in commands.items():
        lines.append(f"{argv}   # {seconds / 60:.0f} minutes")
    lines += ["```", "", "Medians over rounds, least and most in brackets."]
    skipped: dict[str, str] = {}
    for each in results:
        skipped |= {**each.get("skipped", {}), **each.get("failed", {})}
    if skipped:
        lines += ["", "Not measured:", ""]
        lines += [f"- {name.partition(': ')[2] or name}: {why}" for name, why in skipped.items()]
    return "\n".join(lines) + "\n"


def load_table(samples: Sequence[Sample], scenario: Scenario) -> str:
    is_bulk = scenario.unit == "GB"
    heads = ["", "Gbit/s" if is_bulk else f"{scenario.unit}s/s",
             "CPU s/GB" if is_bulk else f"CPU us/{scenario.unit}", f"of {scenario.reference}",
             "p50 us", "p99 us", "MiB"]  # fmt: skip
    rows = []
    for subject in subjects_of(samples, scenario.name):
        found = {
            name: figure(samples, scenario.name, subject, name)
            for name in ("rate", "cost", "p50_us", "p99_us", "pss_mib", "client_busy")
        }
        share = ratio(samples, scenario.name, subject, scenario.reference, "cost")
        busy = found["client_busy"]
        mark = " ¹" if busy is not None and busy.median >= CLIENT_BUSY else ""
        name = f"**{subject}**" if subject.startswith("proxy-engine") else subject
        rows.append(
            [name, cell(found["rate"]) + mark, cell(found["cost"]),
             "-" if share is None else f"{share.median:.2f}",
             *(("-" if found[key] is None else svg.number(found[key].median))  # type: ignore[union-attr]
               for key in ("p50_us", "p99_us", "pss_mib"))]
        )  # fmt: skip
    return table(heads, rows)


def plain_table(samples: Sequence[Sample], name: str) -> str:
    rows = []
    for subject, figures in summary(samples)[name].items():
        for called, found in figures.items():
            if not name.startswith("syscalls") or called.startswith("calls"):
                rows.append([subject, called.replace("_", " "), cell(found)])
    return table(["", "figure", ""], rows)


def bar_plot(samples: Sequence[Sample], title: str, names: Sequence[str], key: str) -> str | None:
    groups = {}
    for name in names:
        group = []
        for subject in subjects_of(samples, name):
            found = figure(samples, name, subject, key)
            if found is not None:
                group.append(svg.Bar(subject, found, subject.startswith("proxy-engine")))
        if group:
            groups[name] = group
    return svg.bars(title, groups) if groups else None


def connections_plot(samples: Sequence[Sample]) -> tuple[str | None, str]:
    """CPU a request by connections, 1 to 100,000: measured, and drawn on by the model."""
    series, rows = [], []
    for subject in ("nginx-chain", "proxy-engine"):
        points = []
        for name, scenario in BY_NAME.items():
            if name.startswith("http-1k-c") and isinstance(scenario, Scenario):
                found = figure(samples, name, subject, "cost")
                if found is not None:
                    points.append((float(name.removeprefix("http-1k-c")), found.median))
        points.sort()
        rows += [[subject, f"{x:,.0f}", svg.number(y), "measured"] for x, y in points]
        if len(points) >= 2:
            series.append(svg.Line(subject, points))
            beyond = [x for x in MODELLED if x > points[-1][0]]
            drawn = model.by_logarithm(points, beyond)
            modelled = [points[-1], *zip(map(float, beyond), drawn, strict=True)]
            series.append(svg.Line(f"{subject}, model", modelled, is_model=True))
            rows += [[subject, f"{x:,.0f}", svg.number(y), "model"] for x, y in modelled[1:]]
    if not series:
        return None, ""
    title = "CPU us a request of 1 KiB, by kept-alive connections"
    heads = ["", "connections", "CPU us a request", ""]
    return svg.lines(title, "connections", series), table(heads, rows)


def links_table(samples: Sequence[Sample]) -> str:
    """Resident memory by idle links: measured, and the straight line on to 100,000."""
    points = []
    for name in ("idle-links", "idle-links-many"):
        links = figure(samples, name, "proxy-engine", "links")
        memory = figure(samples, name, "proxy-engine", "rss_mib")
        if links is not None and memory is not None:
            points.append((links.median, memory.median))
    rows = [[f"{x:,.0f}", svg.number(y), "measured"] for x, y in sorted(points)]
    if len(points) >= 2:
        line = model.fit(points)
        rows.append(["100,000", svg.number(line.at(100_000)), "model: a straight line"])
    return table(["idle links", "MiB of the server", ""], rows) if rows else ""


def losses_table(losses: Sequence[Loss]) -> str:
    if not losses:
        return "Nowhere in what was measured.\n"
    rows = []
    for group in grouped(losses):
        where = ", ".join(f"{each.scenario} ({each.times:.2f})" for each in group.losses)
        rows.append([group.figure, group.to, where, group.cause])
    return table(["what", "to", "where, and how many times worse", "why"], rows)


def scenario_sections(samples: Sequence[Sample]) -> str:
    measured = set(dict.fromkeys(each.scenario for each in samples))
    parts = []
    for each in ALL:
        if each.name not in measured:
            continue
        parts.append(f"#### {each.name}: {each.what}\n")
        is_plain = isinstance(each, Program) or each.name.startswith("syscalls")
        parts.append(
            plain_table(samples, each.name) if is_plain or isinstance(each, Program)
            else load_table(samples, each)
        )  # fmt: skip
    for name in sorted(name for name in measured if name.startswith("micro-")):
        parts.append(f"#### {name}\n")
        parts.append(plain_table(samples, name))
    return "\n".join(parts)


def plots(samples: Sequence[Sample]) -> dict[str, str]:
    """File name -> SVG; only of what was measured."""
    web = [f"http-1k-c{clients}" for clients in (8, 64, 512)]
    bulk = ["http-64k-c64", "http-10m-c64", "upload-64k-c64"]
    tunnels = ["peers-http-1k-c64", "peers-http-new-c64"]
    tcp = ["tcp-up", "tcp-down", "tcp-up-8", "tcp-down-8"]
    found = {
        "cpu-a-request": bar_plot(samples, "CPU us a request, 1 KiB", web, "cost"),
        "requests-a-second": bar_plot(samples, "requests a second, 1 KiB", web, "rate"),
        "p99": bar_plot(samples, "p99 latency, us, 1 KiB", web, "p99_us"),
        "p50": bar_plot(samples, "p50 latency, us, 1 KiB", web, "p50_us"),
        "cpu-a-gb-http": bar_plot(samples, "CPU s a GB, HTTP bodies", bulk, "cost"),
        "cpu-a-gb-tcp": bar_plot(samples, "CPU s a GB, TCP tunnels", tcp, "cost"),
        "workers": bar_plot(
            samples, "CPU us a request by workers", ["workers-c64", "workers-c512"], "cost"
        ),
        "workers-rate": bar_plot(
            samples, "requests a second by workers", ["workers-c64", "workers-c512"], "rate"
        ),
        "peers-cpu": bar_plot(
            samples,
            "tunnels: CPU us a request",
            tunnels,
            "cost",
        ),
        "peers-rate": bar_plot(
            samples,
            "tunnels: requests a second",
            tunnels,
            "rate",
        ),
        "peers-tcp": bar_plot(
            samples, "tunnels: CPU s a GB", ["peers-tcp-up", "peers-tcp-down-8"], "cost"
        ),
        "memory-a-link": bar_plot(
            samples, "KiB of an idle link", ["idle-links", "idle-links-many"], "kib_a_link"
        ),
        "connections": connections_plot(samples)[0],
    }
    return {name: text for name, text in found.items() if text is not None}


def page(results: Sequence[Result], samples: Sequence[Sample], losses: Sequence[Loss]) -> str:
    drawn = plots(samples)
    pictures = "\n".join(f"![{name.replace('-', ' ')}](plots/{name}.svg)\n" for name in drawn)
    growth = connections_plot(samples)[1]
    links = links_table(samples)
    parts = [
        "## Measured\n",
        provenance(results),
        pictures,
        "### Where we lose\n",
        "Each figure in which anything measured in the same run was better than the best of ours by"
        " more than 5 %: `direct`, single hops and the floor bound us and are no rivals.\n",
        losses_table(losses),
    ]
    if growth or links:
        parts += [
            "### From 1 to 100,000 connections\n",
            "What the machine allows is measured, within its limit of descriptors a process. What"
            " is beyond is a **model**: memory a straight line, CPU a request a straight line in"
            " the logarithm of the connections, through the two largest that were measured.\n",
            growth,
            links,
        ]
    parts += [
        "### Every scenario\n",
        "¹ The client had 95 % of a CPU or more: the rate is a lower bound.\n",
        scenario_sections(samples),
    ]
    return "\n".join(part for part in parts if part)
