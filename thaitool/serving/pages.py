"""The page for people, as the files a browser asks for: nothing from elsewhere, nothing inline. Renders nothing."""

from __future__ import annotations

from importlib.resources import files

#: Where the page may load from and send to: this server. `blob:` is the recording that is played back.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src blob:; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
#: Path to file and media type.
FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}


def page_file(path: str) -> tuple[bytes, str]:
    """Content and media type of what is at a path of `FILES`."""
    name, media_type = FILES[path]
    return files("thaitool.serving").joinpath(name).read_bytes(), media_type
