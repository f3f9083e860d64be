"""The page as one document: style and scripts stand inside, and nothing else may run or load."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

_FOLDER = Path(__file__).parent
_STYLE = re.compile(r'<link rel="stylesheet" href="(\w+\.css)">')
_SCRIPT = re.compile(r'<script src="(\w+\.js)"></script>')


def document() -> tuple[bytes, str]:
    """The document, and its Content-Security-Policy.

    The policy names the hashes of what stands inside, so that no name in a model or a file becomes
    a script, and allows requests to the server that sent the page only.
    """
    page = (_FOLDER / "page.html").read_text(encoding="utf-8")
    hashes: dict[str, list[str]] = {"style": [], "script": []}

    def inside(match: re.Match[str]) -> str:
        name = "style" if match.re is _STYLE else "script"
        content = "\n" + (_FOLDER / match[1]).read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        hashes[name].append(f"'sha256-{digest}'")
        return f"<{name}>{content}</{name}>"

    page = _SCRIPT.sub(inside, _STYLE.sub(inside, page))
    policy = (
        f"default-src 'none'; style-src {' '.join(hashes['style'])}; "
        f"script-src {' '.join(hashes['script'])}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page.encode(), policy
