"""A self-contained HTML page: it loads nothing from the network, and supports light mode, dark mode and print."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from vitctl.io.atomic import write_bytes

STYLE = """
:root { color-scheme: light dark; --ink: #181a1e; --quiet: #5c636d; --paper: #fff; --line: #d9dde2; --card: #f6f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --quiet: #9aa2ad; --paper: #14161a; --line: #31363d; --card: #1c1f25; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { overflow-wrap: anywhere; font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { overflow-wrap: anywhere; font-size: 1.2rem; margin: 2.6rem 0 .4rem; }
p { max-width: 46rem; overflow-wrap: anywhere; margin: .4rem 0 .9rem; color: var(--quiet); }
p.lead { color: var(--ink); }
figure { margin: 0; padding: .9rem; background: #fff; border: 1px solid var(--line); border-radius: .6rem;
  overflow-x: auto; text-align: center; }
figure + figure { margin-top: 1rem; }
figure img { max-width: 100%; max-height: 46rem; height: auto; display: inline-block; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
td, th { padding: .28rem 1.1rem .28rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: 500; }
code, pre { font: .88rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .7rem .9rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
footer { overflow-wrap: anywhere; margin-top: 3rem; color: var(--quiet); font-size: .88rem; }
@media print { body { max-width: none; padding: 0; } figure { border: 0; break-inside: avoid; } }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # the browser blocks all requests


@dataclass(frozen=True)
class Section:
    title: str
    text: str = ""
    figures: Sequence[Path] = ()
    table: Sequence[Sequence[str]] = ()  # the first row is the header
    command: str = ""


def write_page(path: Path, title: str, lead: str, facts: Mapping[str, str], sections: Sequence[Section],
               foot: str) -> None:  # fmt: skip
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts.items())
    body = "\n".join(render_section(section) for section in sections)
    text = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p class="lead">{escape(lead)}</p>
<div class="table"><table>{rows}</table></div>
{body}
<footer>{escape(foot)}</footer>
</body>
</html>
"""
    write_bytes(path, text.encode("utf-8", "replace"))


def render_section(section: Section) -> str:
    parts = [f"<h2>{escape(section.title)}</h2>"]
    if section.text:
        parts.append(f"<p>{escape(section.text)}</p>")
    if section.command:
        parts.append(f"<pre>{escape(section.command)}</pre>")
    for figure in section.figures:
        image = base64.b64encode(figure.read_bytes()).decode()
        parts.append(f'<figure><img alt="{escape(section.title)}" src="data:image/png;base64,{image}"></figure>')
    if section.table:
        parts.append(render_table(section.table))
    return "\n".join(parts)


def render_table(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = rows
    lines = ["<tr>" + "".join(f"<th>{escape(each)}</th>" for each in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{escape(each)}</td>" for each in row) + "</tr>" for row in rest]
    return f'<div class="table"><table>{"".join(lines)}</table></div>'
