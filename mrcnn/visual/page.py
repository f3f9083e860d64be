"""HTML by small functions that escape whatever is not markup already, and one style sheet."""

from __future__ import annotations

import base64
import html
import io
import unicodedata
from collections.abc import Iterable, Sequence

from PIL import Image

LONGEST_TEXT = 1000  # characters of a piece of text; more is cut
LONGEST_SIDE = 800  # pixels of a picture
LARGEST_PICTURE = 260_000  # bytes of a JPEG; more is compressed harder


class Html(str):
    """Markup. Any other text is escaped where it enters the page."""

    __slots__ = ()


def text(value: object, longest: int = LONGEST_TEXT) -> Html:
    """A value as escaped text; markup as it is.

    Control characters and lone surrogates, which no page can hold, become U+FFFD.
    """
    if isinstance(value, Html):
        return value
    words = str(value)
    if len(words) > longest:
        words = words[: longest - 1] + "…"
    clean = ("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in words)
    return Html(html.escape("".join(clean)))


def tag(name: str, *content: object, **attributes: object) -> Html:
    """An element. `class_` is written class, `a_b` a-b; an attribute that is None is left out."""
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = join(content)
    return Html(
        f"<{name}{pairs}>" if name in ("img", "meta") else f"<{name}{pairs}>{inner}</{name}>"
    )


def join(parts: Iterable[object]) -> Html:
    """Parts one after the other."""
    return Html("".join(text(part) for part in parts))


def table(
    header: Sequence[object], rows: Iterable[Sequence[object]], *, class_: str | None = None
) -> Html:
    """A table whose first column names the row; it scrolls in its own frame."""
    head = tag("tr", *(tag("th", cell, scope="col") for cell in header))
    body = (
        tag("tr", tag("th", first, scope="row"), *(tag("td", _counted(cell)) for cell in rest))
        for first, *rest in rows
    )
    inner = tag("table", tag("thead", head), tag("tbody", *body), class_=class_)
    return tag("div", inner, class_="scroll", tabindex=0)


def _counted(cell: object) -> object:
    return f"{cell:,}" if isinstance(cell, int) else cell


def bar(share: float, colour: int = 0) -> Html:
    """A bar that fills a part of its cell."""
    width = f"{100 * min(max(share, 0.0), 1.0):.1f}%"
    return tag("span", tag("i", style=f"width:{width};background:var(--c{colour})"), class_="bar")


def tiles(values: Iterable[tuple[str, str, str]]) -> Html:
    """Headline figures: (name, figure, note)."""
    return tag(
        "dl",
        *(
            tag("div", tag("dt", name), tag("dd", tag("b", figure), tag("small", note)))
            for name, figure, note in values
        ),
        class_="tiles",
    )


def picture(image: Image.Image, caption: object, alternative: str) -> Html:
    """A picture inside the page: JPEG, its sides and bytes bounded."""
    image = image.convert("RGB")
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    for quality in (85, 70, 50, 30, 15):
        buffer = io.BytesIO()
        image.save(buffer, "jpeg", quality=quality, optimize=True)
        if buffer.tell() <= LARGEST_PICTURE:
            break
    data = base64.b64encode(buffer.getvalue()).decode()
    source = Html(f"data:image/jpeg;base64,{data}")
    size = {"width": image.width, "height": image.height}
    return tag(
        "figure",
        tag("img", src=source, alt=alternative, loading="lazy", **size),
        tag("figcaption", caption),
    )


def page(title: str, summary: Html, sections: Sequence[tuple[str, Html]]) -> str:
    """A whole document; sections are (heading, content), those without content left out."""
    shown = [
        (f"s{number}", heading, body) for number, (heading, body) in enumerate(sections) if body
    ]
    content = join(
        [
            tag("header", tag("h1", title), summary),
            tag("nav", *(tag("a", heading, href=f"#{id}") for id, heading, _ in shown)),
            *(tag("section", tag("h2", heading), body, id=id) for id, heading, body in shown),
        ]
    )
    # The policy forbids scripts and every request, whatever the names in the data try.
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{text(title)}</title>
<style>{STYLE}</style>
</head>
<body><main>{content}</main></body>
</html>
"""


POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root{color-scheme:light dark;--ground:#f6f7f8;--panel:#fff;--ink:#1b1e23;--soft:#5b6470;
--line:#dfe2e6;--right:36 86 199;--wrong:209 73 12;
--c0:#2456c7;--c1:#d1490c;--c2:#0b7a53;--c3:#8239e0;--c4:#946400;--c5:#0e7490;--c6:#c2185b;
--c7:#5b6470;--c8:#5d7a14;--c9:#7b4b2a}
@media (prefers-color-scheme:dark){:root{--ground:#121418;--panel:#1b1e24;--ink:#e6e8eb;
--soft:#a0a9b4;--line:#323842;--right:94 140 255;--wrong:240 120 50;
--c0:#7aa2ff;--c1:#ff9455;--c2:#4fd1a1;--c3:#c39bff;--c4:#e3b341;--c5:#56c7dd;--c6:#ff7eb0;
--c7:#a9b3bf;--c8:#b5d25a;--c9:#d2a27c}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1160px;margin:0 auto;padding:20px 16px 56px}
h1{font-size:1.6rem;line-height:1.25;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:36px 0 10px}
h3{font-size:.95rem;margin:0 0 8px}
p{margin:0 0 12px;max-width:80ch}
header p,.note,small,figcaption{color:var(--soft)}
.note,small,figcaption{font-size:.85rem}
p,th,td,li,dd,dt,code,h1,figcaption{unicode-bidi:isolate}
nav{margin:20px 0 0;display:flex;flex-wrap:wrap;gap:4px 16px;font-size:.9rem}
a{color:var(--c0);text-decoration:none}
a:hover{text-decoration:underline}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(155px,1fr));gap:12px;
margin:16px 0 0}
.tiles div,.panel,.chart{background:var(--panel);border:1px solid var(--line);border-radius:8px}
.tiles div{padding:12px 14px}
.tiles dt{color:var(--soft);font-size:.85rem}
.tiles dd{margin:0}
.tiles b{display:block;font-size:1.5rem;line-height:1.25;font-variant-numeric:tabular-nums}
.tiles small{display:block;line-height:1.35;margin-top:2px}
.warn{border-left:4px solid var(--c1);background:var(--panel);padding:8px 12px;margin:12px 0}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,320px),1fr));gap:12px}
@media (min-width:900px){.two{grid-template-columns:370px 1fr;align-items:start}}
.panel{padding:14px;min-width:0;margin:0 0 12px}
.grid>.panel{margin:0}
.chart{margin:0;padding:12px 12px 8px;min-width:0;display:flex;flex-direction:column}
.chart h3{margin:0 0 2px}
.chart ul{list-style:none;display:flex;flex-wrap:wrap;gap:0 12px;margin:0;padding:0;
font-size:.8rem;color:var(--soft);min-height:1.5em}
.chart li{overflow-wrap:anywhere}
.chart li i{display:inline-block;width:14px;height:3px;border-radius:2px;margin-right:5px;
vertical-align:middle}
.chart li b{font-weight:600;color:var(--ink);font-variant-numeric:tabular-nums}
.chart svg{display:block;width:100%;height:auto;margin-top:auto}
svg text{fill:var(--soft);font-size:11px;font-family:inherit}
svg .axis{stroke:var(--line);stroke-width:1}
svg .mark{stroke:var(--soft);stroke-dasharray:3 3}
svg .line{fill:none;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}
svg .hover{fill:transparent}
svg .hover:hover{fill:var(--soft);fill-opacity:.12}
.scroll{overflow:auto}
.scroll:has(tbody tr:nth-child(20)){max-height:600px}
table{border-collapse:collapse;font-size:.88rem;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:5px 8px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
thead th{position:sticky;top:0;background:var(--panel);color:var(--soft);font-weight:600;z-index:1}
tr>:first-child{text-align:left}
tbody th{font-weight:500;white-space:normal;overflow-wrap:anywhere;min-width:100px;max-width:260px}
tbody tr:last-child>*{border-bottom:0}
.words td{text-align:left;white-space:normal;overflow-wrap:anywhere}
.counts td:last-child,.counts th:last-child{text-align:left}
.counts td:last-child:not(:first-child){white-space:normal;color:var(--soft);min-width:130px;
width:60%}
.counts tbody th{min-width:0;overflow-wrap:normal}
@media (max-width:600px){.kinds tr>:nth-child(4){display:none}
.counts td:last-child:not(:first-child){min-width:100px;font-size:.8rem}}
.scroll+.note{margin:10px 0 0}
.bar{display:inline-block;width:64px;height:9px;border-radius:3px;background:var(--line);
vertical-align:middle;overflow:hidden}
.bar i{display:block;height:100%}
.matrix{width:auto}
.matrix td{text-align:center;min-width:38px;border:1px solid var(--line)}
.matrix thead th{vertical-align:bottom;text-align:center}
.matrix thead th:not(:first-child) span{writing-mode:vertical-rl;transform:rotate(180deg)}
.matrix th:first-child{position:sticky;left:0;background:var(--panel);max-width:130px;z-index:1}
.beside{display:flex;flex-wrap:wrap;gap:8px 28px}
.beside>.scroll{max-width:100%}
.beside>p{flex:1 1 280px}
figure{margin:0}
figure img{display:block;max-width:100%;height:auto;border-radius:6px}
figcaption{margin-top:4px;overflow-wrap:anywhere}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr));gap:12px}
.panel>h3{overflow-wrap:anywhere}
details{margin:0 0 10px}
summary{cursor:pointer;font-weight:600}
pre{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:12px;
overflow:auto;font-size:.85rem;margin:4px 0 16px;white-space:pre-wrap;overflow-wrap:anywhere}
@media print{.scroll{max-height:none}section{break-inside:avoid-page}}
"""
