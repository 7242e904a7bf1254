"""The Content-Security-Policy of every answer (W3C CSP Level 3): data is no page, and a page loads its own files only.

No policy has an exception for inline scripts or styles, so that a text which finds its way into a page stays a text.
"""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest
from django.http.response import HttpResponseBase

HEADER = "content-security-policy"
DATA = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; object-src 'none'"
)


class ContentSecurityPolicyMiddleware:
    """Gives each answer its policy, by what it is. The gateway's answers are data (gateway.exchange)."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Serve `request`, then say what its answer may load."""
        response = self._get_response(request)
        page = response.headers.get("content-type", "").partition(";")[0].strip().lower() == "text/html"
        response.headers[HEADER] = PAGE if page else DATA
        return response
