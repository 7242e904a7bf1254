"""The published OpenAPI document is valid, complete, and needs no other machine to be read."""

from __future__ import annotations

from django.core.management import call_command


def test_the_document_is_valid_and_nothing_was_guessed(tmp_path):
    path = tmp_path / "schema.yaml"
    call_command("spectacular", "--validate", "--fail-on-warn", "--file", str(path))
    assert path.read_text().startswith("openapi: 3.1")
