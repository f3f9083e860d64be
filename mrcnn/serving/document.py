"""The page as one document: style and scripts are inlined, and nothing else may run or load."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

_LINK = re.compile(r'<link rel="stylesheet" href="(\w+\.css)">|<script src="(\w+\.js)"></script>')


def document() -> tuple[str, str]:
    """Return the document and its Content-Security-Policy.

    The policy names the hashes of the inlined parts, so no name in a model or a file can become a
    script. It allows requests only to the server that sent the page.
    """
    folder, hashes = Path(__file__).parent, {"style": "", "script": ""}

    def inline(match: re.Match[str]) -> str:
        name = "style" if match[1] else "script"
        content = "\n" + (folder / (match[1] or match[2])).read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        hashes[name] += f" 'sha256-{digest}'"
        return f"<{name}>{content}</{name}>"

    page = _LINK.sub(inline, (folder / "page.html").read_text(encoding="utf-8"))
    return page, (
        f"default-src 'none'; style-src{hashes['style']}; script-src{hashes['script']}; "
        "connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
