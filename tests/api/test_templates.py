"""Policies to start from: over the API, by command, and as docs/administrator/templates.md says."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from kasbah.common import rls
from kasbah.residency.models import Policy, Site
from kasbah.residency.services import create_site
from kasbah.residency.services.templates import policy_templates
from tests import factories

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "administrator" / "templates.md").read_text()
BLOCK = re.search(r"<!-- run: tests/api/test_templates.py -->\n```sh\n(.*?)```", GUIDE, re.DOTALL)
pytestmark = pytest.mark.django_db


def test_the_list_says_where_each_comes_from(admin):
    answer = admin.get("/api/policy-templates/").json()
    assert (answer["has_more"], answer["next"]) == (False, None)
    assert [line["name"] for line in answer["data"]] == [template.name for template in policy_templates()]
    [morocco] = [line for line in answer["data"] if line["name"] == "morocco"]
    assert "not legal advice" in morocco["notice"]
    assert morocco["sources"][0]["date"] == "2009-02-18"
    assert morocco["sources"][0]["articles"] == "1, 43 and 44"
    assert [seen["official"] for seen in morocco["sources"][0]["seen"]] == [True, False]
    assert morocco["review_by"] > morocco["reviewed"]
    assert "text" not in morocco


def test_one_can_be_added_as_a_policy_as_it_is(admin, home):
    shown = admin.get("/api/policy-templates/france/").json()
    added = admin.post(f"/api/tenants/{home.tenant.slug}/policies/", {"text": shown["text"]})
    assert added.status_code == 201, added.content
    assert added.json()["document"] == shown["document"]


def test_one_that_is_not_there(admin):
    answer = admin.get("/api/policy-templates/atlantis/")
    assert answer.status_code == 404
    assert "Known: european-union" in answer.json()["error"]["message"]


def typed(line, folder, known=None):
    """One line of the guide: a command, with its output into a file, or SEEN=$(...). Answers what it printed."""
    if line.startswith("SEEN=$("):
        found = subprocess.run(shlex.split(line[7:-1]), cwd=folder, capture_output=True, text=True, check=True)
        known["SEEN"] = found.stdout.strip()
        return ""
    line = line.replace("$SEEN", (known or {}).get("SEEN", ""))
    python, manage, name, *flags = shlex.split(line)
    assert (python, manage) == ("python", "manage.py")
    target = None
    if ">" in flags:
        flags, target = flags[:-2], folder / flags[-1]
    flags = [str(folder / flag) if flag.endswith(".yaml") else flag for flag in flags]
    out = io.StringIO()
    call_command(name, *flags, stdout=out)
    if target is not None:
        target.write_text(out.getvalue())
    return out.getvalue()


def test_the_guide_can_be_followed(tmp_path):
    factories.tenant("finance")
    for name in ("ada", "grace"):
        factories.user(f"{name}@example.org", is_platform_admin=True)
    create_site(factories.SYSTEM, "rabat", "Rabat", "MA", "redis://127.0.0.1:1/0")
    create_site(factories.SYSTEM, "paris", "Paris", "FR", "redis://127.0.0.1:1/0")
    assert BLOCK is not None
    known = {}
    *_, decided = [typed(line, tmp_path, known) for line in BLOCK[1].splitlines()]
    with rls.platform_scope():
        assert Policy.objects.get(tenant__slug="finance").state == "active"
        assert Site.objects.count() == 2
    assert re.search(r"allowed +True\nsites +rabat\n", decided)


def test_a_site_that_nobody_named_is_refused(tmp_path):
    factories.tenant("finance")
    text = typed("python manage.py policytemplates show morocco", tmp_path)
    (tmp_path / "policy.yaml").write_text(re.sub(r"(?m)^  # (- id|  [a-z_]+:)", r"  \1", text))
    with pytest.raises(CommandError, match="YOUR-SITE"):
        typed("python manage.py checkpolicy --file policy.yaml", tmp_path)


def test_the_command_answers_bad_input():
    with pytest.raises(CommandError, match="Name the template"):
        call_command("policytemplates", "show")
    with pytest.raises(CommandError, match="Known: european-union"):
        call_command("policytemplates", "show", "atlantis")
    out = io.StringIO()
    call_command("policytemplates", "show", "japan", "--json", stdout=out)
    assert '"notice": "A starting point, not legal advice.' in out.getvalue()


def test_the_guide_names_each_and_says_what_it_is_not():
    assert "not legal advice" in GUIDE
    for template in policy_templates():
        assert f"| `{template.name}` |" in GUIDE
