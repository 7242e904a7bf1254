"""Sets one report as a PDF: JSON in on stdin, PDF out on stdout. Started by document.py, as a program of its own.

Typst keeps what it made of the last ten documents: some 80 MB each, for ever. A process that ends gives them back.
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

import typst

TEMPLATE = Path(__file__).with_name("report.typ")
FONTS = ("fontpkg_noto_sans", "fontpkg_ibm_plex_sans_arabic", "noto_cjk_sans_jp_regular", "noto_cjk_sans_jp_bold")


def fonts() -> typst.Fonts:
    """Those that are installed with Kasbah, and none of the system's."""
    return typst.Fonts(include_system_fonts=False, font_paths=[str(resources.files(one)) for one in FONTS])


def main() -> None:
    """The PDF of what stdin says."""
    made = typst.compile(
        TEMPLATE,
        root=TEMPLATE.parent,
        font_paths=fonts(),
        ignore_system_fonts=True,
        format="pdf",
        sys_inputs={"report": sys.stdin.read()},
    )
    sys.stdout.buffer.write(made)


if __name__ == "__main__":
    main()
