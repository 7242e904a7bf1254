"""docs/administrator/first-steps.md is run as it stands; docs/operator/commands.md says what `--help` says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kasbah.common import rls
from kasbah.common.errors import Unauthenticated
from kasbah.identity import services
from kasbah.identity.models import Tenant
from kasbah.residency.models import Policy
from tests import factories
from tests.api import commands_page
from tests.registry import folders

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "administrator" / "first-steps.md"
MARK = "<!-- run: tests/api/test_first_steps.py -->"


def script() -> str:
    """Every block that is marked, one after another."""
    blocks = re.findall(rf"{re.escape(MARK)}\n```sh\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(blocks) == GUIDE.read_text().count("```sh")
    return "set -e\n" + "".join(blocks)


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_the_guide_can_be_typed_as_it_stands(postgres_server, tmp_path):
    folders.model(tmp_path / "import" / "mixtral-8x7b")
    (tmp_path / "paris-broker.txt").write_text("redis://127.0.0.1:1/0\n")
    (tmp_path / "manage.py").symlink_to(ROOT / "manage.py")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script()],  # noqa: S607
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "KASBAH_MODELS_DIR": str(tmp_path / "models")},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    key = services.authenticate_key((tmp_path / "word-processor.key").read_text().strip())
    assert key.tenant_slug == "finance"
    with rls.platform_scope():
        tenant = Tenant.objects.get(slug="finance")
        assert Policy.objects.get(tenant=tenant).state == "active"
    assert re.search(r"allowed +True\nsites +paris\n", done.stdout)
    assert re.search(r"allowed +False\nsites +-\n", done.stdout)
    with pytest.raises(Unauthenticated, match="revoked"):
        services.authenticate_key(json.loads((tmp_path / "leaked.json").read_text())["key"])
    assert {event["actor"]["authentication"] for event in factories.events_of(tenant.id)} == {"command"}


def test_the_page_of_commands_says_what_help_says():
    page = ROOT / "docs" / "operator" / "commands.md"
    assert page.read_text() == commands_page.render(), (
        "write it anew: python -m tests.api.commands_page > docs/operator/commands.md"
    )
