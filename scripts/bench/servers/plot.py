"""The answers a second as a plot: SVG, written as text, for light and dark pages."""

from __future__ import annotations

from html import escape

from servers.contestants import CONTESTANTS
from servers.report import Results, fastest_first, middle, rate_of, ratio
from servers.scenarios import SCENARIOS

WIDTH, LEFT, RIGHT = 760, 120, 180  # what is left of the bars are names, what is right of them figures
BAR, GAP, TITLE = 16, 5, 34
# The bars can be seen on white and on black. The text follows what the reader's system prefers, which is
# all that an image can know of the page it is on.
STYLE = """
text { font: 12px sans-serif; fill: #333 }
.title { font-weight: bold; font-size: 13px }
.bar { fill: #8a94a3 }
.ours { fill: #d9730d }
@media (prefers-color-scheme: dark) { text { fill: #ddd } }
"""


def plot(results: Results) -> str:
    """A panel for each scenario, a bar for each server; as long as it has answers a second."""
    parts = []
    y = 0
    for scenario, rounds in results.items():
        y += TITLE
        parts.append(f'<text class="title" x="4" y="{y - 10}">{escape(SCENARIOS[scenario].title)}</text>')
        names = fastest_first(rounds)
        most = max((middle(rounds[name], rate_of) for name in names), default=1.0)
        for name in names:
            rate = middle(rounds[name], rate_of)
            length = max(1.0, rate / most * (WIDTH - LEFT - RIGHT))
            kind = "bar ours" if CONTESTANTS[name].is_ours else "bar"
            figure = f"{rate / 1000:,.1f} k/s"
            if "uvloop" in rounds:
                figure += f", {ratio(rounds, name, 'uvloop', rate_of)} x uvloop"
            base = y + BAR - 4
            parts += [
                f'<text x="{LEFT - 6}" y="{base}" text-anchor="end">{escape(name)}</text>',
                f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}"/>',
                f'<text x="{LEFT + length + 6:.1f}" y="{base}">{figure}</text>',
            ]
            y += BAR + GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 8}" role="img">'
    return "\n".join(
        [head, f"<style>{STYLE}</style>", "<title>Answers a second</title>", *parts, "</svg>", ""]
    )
