"""Commands do what they say through services, and answer bad input with one clear line."""

from __future__ import annotations

import io
import json
import stat

import pytest
from django.core.management import CommandError, call_command, get_commands, load_command_class

from kasbah.common import rls
from kasbah.common.commands import KasbahCommand
from kasbah.identity import services
from kasbah.identity.models import User
from kasbah.residency.models import Site
from tests import factories

OURS = sorted(name for name, app in get_commands().items() if app.startswith("kasbah."))
SITE = ("--slug", "a", "--name", "x", "--jurisdiction", "FR")
POLICY = {
    "version": 1,
    "rules": [{"id": "all", "effect": "allow", "data_classes": ["public"], "models": ["*"], "sites": ["*"]}],
}


def run(name, *arguments):
    """The command's JSON."""
    out = io.StringIO()
    call_command(name, *arguments, "--json", stdout=out, stderr=io.StringIO())
    return json.loads(out.getvalue())


def refused(name, *arguments):
    """The message of a command that fails."""
    with pytest.raises(CommandError) as caught:
        call_command(name, *arguments, stdout=io.StringIO(), stderr=io.StringIO())
    return str(caught.value)


def test_every_command_is_built_alike():
    assert len(OURS) >= 19
    for name in OURS:
        command = load_command_class(get_commands()[name], name)
        assert isinstance(command, KasbahCommand), name
        text = command.create_parser("manage.py", name).format_help()
        assert command.help[:30] in " ".join(text.split()), name
        assert f"Example: manage.py {name}" in " ".join(text.split()), name
        assert "--json" in text, name


@pytest.mark.django_db
class TestFirstSteps:
    """What an administrator types first, in order."""

    def test_from_nothing_to_a_key(self, tmp_path):
        tenant = run("createtenant", "--slug", "finance", "--name", "Finance")
        run("createproject", "--tenant", "finance", "--slug", "letters", "--name", "L", "--data-class", "internal")
        user = run("createuser", "--email", "Ada@example.org", "--platform-admin", "--generate-password")
        assert User.objects.get(pk=user["id"]).check_password(user["password"])
        run("addmember", "--tenant", "finance", "--email", "ada@example.org", "--role", "auditor")
        key = run("createkey", "--tenant", "finance", "--project", "letters", "--name", "n", "--expires-days", "90")
        assert services.authenticate_key(key["key"]).tenant_slug == "finance"
        assert run("revokekey", "--tenant", "finance", "--key", key["id"])["revoked_at"]
        types = [event["type"] for event in factories.events_of(_uuid(tenant["id"]))]
        assert types == ["tenant.created", "project.created", "membership.added", "key.created", "key.revoked"]
        actor = factories.events_of(_uuid(tenant["id"]))[0]["actor"]
        assert (actor["kind"], actor["authentication"]) == ("system", "command")

    def test_a_key_can_go_into_a_file_that_nobody_else_reads(self, home, tmp_path):
        file = tmp_path / "key"
        shown = run(*_createkey(home), "--key-file", str(file))
        assert "key" not in shown
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert services.authenticate_key(file.read_text().strip()).name == "n"
        before = _keys(home)
        assert "exists already" in refused(*_createkey(home), "--key-file", str(file))
        assert _keys(home) == before  # nothing was issued that nobody has

    def test_a_site_a_policy_and_what_it_decides(self, home, tmp_path):
        run("createsite", "--slug", "paris", "--name", "P", "--jurisdiction", "fr", "--broker", "redis://127.0.0.1:1/0")
        assert Site.objects.get(slug="paris").jurisdiction == "FR"
        document = tmp_path / "policy.json"
        document.write_text(json.dumps(POLICY))
        tenant, first = ("--tenant", home.tenant.slug), ("--tenant", home.tenant.slug, "--policy-version", "1")
        assert run("checkpolicy", "--file", str(document)) == {"valid": True}
        assert run("putpolicy", *tenant, "--file", str(document))["state"] == "draft"
        assert "--by" in refused("activatepolicy", *first)
        second = factories.user(is_platform_admin=True).email
        asked = run("activatepolicy", *first, "--by", home.admin.email)
        assert (asked["state"], len(asked["loosens"]) > 0) == ("requested", True)
        seen = ("--comparison", asked["comparison"])
        assert "second person" in refused("approvepolicy", *first, "--by", home.admin.email, *seen)
        assert "--comparison" in refused("approvepolicy", *first, "--by", second)
        assert "compared" in refused("approvepolicy", *first, "--by", second, "--comparison", "0" * 64)
        gone = factories.user(is_platform_admin=True)
        User.objects.filter(pk=gone.pk).update(is_active=False)
        assert "switched off" in refused("approvepolicy", *first, "--by", gone.email, *seen)
        assert run("approvepolicy", *first, "--by", second, *seen)["state"] == "active"
        allowed = run("decide", *tenant, "--data-class", "public", "--model", "m")
        assert (allowed["allowed"], allowed["sites"], allowed["policy_version"]) == (True, ["paris"], 1)
        assert run("decide", *tenant, "--data-class", "secret", "--model", "m")["allowed"] is False
        token = run("enroltoken", "--site", "paris")
        assert token["token"]
        assert run("workers") == []
        assert run("jobs", *tenant) == []

    def test_a_policy_in_yaml_and_the_line_of_what_is_wrong(self, home, tmp_path):
        file, tenant = tmp_path / "policy.yaml", ("--tenant", home.tenant.slug)
        file.write_text("# Nothing yet\nversion: 1\nrules:\n  - id: Wrong name\n    effect: deny\n")
        for arguments in (["checkpolicy"], ["putpolicy", *tenant]):
            assert "line 4: /rules/0/id" in refused(*arguments, "--file", str(file))
        file.write_text("# Nothing yet\nversion: 1\nrules: []\n")
        assert run("putpolicy", *tenant, "--file", str(file), "--activate")["state"] == "active"
        assert run("putpolicy", "--baseline", "--file", str(file))["version"] == 1
        assert [version["state"] for version in run("policies", *tenant)] == ["active"]
        file.write_text("version: 1\nrules:\n  - {id: a, effect: deny}\n")
        run("putpolicy", *tenant, "--file", str(file))
        found = run("diffpolicy", *tenant, "--from", "1", "--to", "2")
        assert (found["added"], found["removed"]) == ([{"id": "a", "effect": "deny"}], [])


@pytest.mark.django_db
def test_text_for_people_is_a_table_or_lines(home, capsys):
    call_command("workers")
    call_command("jobs", "--tenant", home.tenant.slug)
    call_command("createtenant", "--slug", "for-people", "--name", "Name")
    text = capsys.readouterr().out
    assert "No worker has enrolled" in text
    assert "No such job" in text
    assert "slug  for-people" in text


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["createtenant", "--slug", "UPPER", "--name", "x"], "slug: "),
        (["createtenant", "--name", "x"], "--slug"),
        (["createproject", "--tenant", "nobody", "--slug", "a", "--name", "x"], "no tenant 'nobody'"),
        (["createproject", "--tenant", "HOME", "--slug", "a", "--name", "x", "--data-class", "top"], "invalid choice"),
        (["createuser", "--email", "not-an-address", "--generate-password"], "email: "),
        (["createuser", "--email", "a@example.org", "--password-file", "/nonexistent"], "--password-file"),
        (["addmember", "--tenant", "HOME", "--email", "nobody@example.org", "--role", "auditor"], "createuser"),
        (["createkey", "--tenant", "HOME", "--project", "none", "--name", "x"], "no project 'none'"),
        (["createkey", "--tenant", "HOME", "--project", "PROJECT", "--name", ""], "name: "),
        (["createkey", "--tenant", "HOME", "--project", "PROJECT", "--name", "x", "--expires-days", "0"], "days"),
        (["revokekey", "--tenant", "HOME", "--key", "ksb_x"], "not an id"),
        (["revokekey", "--tenant", "HOME", "--key", "0199c1f2-7a3b-7c4d-8e5f-0123456789ab"], "no key"),
        (["createsite", "--slug", "a", "--name", "x", "--jurisdiction", "France", "--broker", "redis://h"], "ISO 3166"),
        (["createsite", "--slug", "a", "--name", "x", "--jurisdiction", "FR", "--broker", "http://h"], "broker_url: "),
        (["enroltoken", "--site", "nowhere"], "no site 'nowhere'"),
        (["checkpolicy", "--file", "/nonexistent"], "Cannot read /nonexistent"),
        (["activatepolicy", "--tenant", "HOME", "--policy-version", "9"], "no policy version 9"),
        (["activatepolicy", "--baseline", "--policy-version", "9"], "The baseline has no policy version 9"),
        (["activatepolicy", "--tenant", "HOME", "--policy-version", "9", "--at", "tomorrow"], "not a time such as"),
        (["activatepolicy", "--tenant", "HOME", "--policy-version", "9", "--at", "2027-01-01T00:00"], "no time zone"),
        (["policies"], "one of the arguments --tenant --baseline is required"),
        (["decide", "--tenant", "HOME", "--data-class", "top", "--model", "m"], "invalid choice"),
        (
            [
                "registermodel",
                *["--folder", "/nonexistent", "--name", "m", "--publisher", "p", "--licence", "l", "--family", "f"],
            ],
            "folder",
        ),
        (["approveversion", "--digest", "0" * 64, "--by", "nobody@example.org"], "no user"),
        (["createdeployment", "--name", "m", "--digest", "0" * 64, "--site", "s"], "digest"),
        (["createdeployment", "--name", "m", "--digest", "0", "--site", "s", "--engine", "[1]"], "JSON object"),
        (["grant", "--tenant", "HOME", "--deployment", "none"], "no deployment 'none'"),
        (["workers", "drain", "0199c1f2-7a3b-7c4d-8e5f-0123456789ab"], "no worker"),
        (["workers", "approve"], "workers approve ID"),
        (["sites", "cordon", "nowhere"], "no site 'nowhere'"),
        (["createsite", *SITE, "--broker", "amqp://h"], "store_url: "),
        (["createsite", *SITE, "--broker", "redis://h", "--store", "amqp://h"], "store_url: "),
        (["jobs", "--tenant", "HOME", "--limit", "100000"], "1 to 1000"),
        (["serve", "--port", "99999"], "not a port"),
        (["bootstrap_demo", "--jurisdiction", "France"], "ISO 3166"),
    ],
)
def test_bad_input_is_one_clear_line(home, arguments, says):
    replaced = {"HOME": home.tenant.slug, "PROJECT": home.project.slug}
    assert says in refused(*(replaced.get(argument, argument) for argument in arguments))


@pytest.mark.django_db
def test_every_problem_of_a_policy_is_listed(tmp_path):
    document = tmp_path / "policy.json"
    document.write_text('{"version": 2, "rules": [{"id": "x", "effect": "maybe"}]}')
    message = refused("checkpolicy", "--file", str(document))
    assert "/version" in message
    assert "/rules/0" in message


def _createkey(home):
    return "createkey", "--tenant", home.tenant.slug, "--project", home.project.slug, "--name", "n"


def _keys(home):
    with rls.tenant_scope(home.tenant.id):
        return home.tenant.api_keys.count()


def _uuid(text):
    from uuid import UUID

    return UUID(text)
