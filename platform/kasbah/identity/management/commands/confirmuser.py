"""Confirm what others did to an account."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from kasbah.common.commands import Facts, KasbahCommand
from kasbah.identity import services
from kasbah.identity.commands import acting_person, command_actor, find_tenant, find_user
from kasbah.identity.services.standing import maker


class Command(KasbahCommand):
    """`manage.py confirmuser`."""

    help = (
        "Show what others did to a person's account, password or role within the waiting time, during which whoever "
        "did it stands behind the account; with --digest confirm it, in the name of a third person or, without --by, "
        "as the operator at this machine, which is on record as such."
    )
    epilog = "Example: manage.py confirmuser --email grace@example.org --digest 5f2c... --by linus@example.org"

    def arguments(self, parser: ArgumentParser) -> None:
        """Whose."""
        parser.add_argument("--email", required=True, help="Whose account it is.")
        parser.add_argument("--tenant", metavar="SLUG", help="His role in this tenant, instead of the account itself.")
        parser.add_argument("--digest", metavar="HEX", help="Confirm the changes that were shown with this digest.")
        parser.add_argument("--by", metavar="EMAIL", help="In whose name; without it the operator confirms.")

    def run(self, **options: Any) -> Facts:
        """Show or confirm."""
        user = find_user(options["email"])
        tenant_id = find_tenant(options["tenant"]).id if options["tenant"] else None
        if options["digest"]:
            actor = acting_person(options["by"]) if options["by"] else command_actor()
            found = services.confirm_changes(actor, user, tenant_id, options["digest"])
        else:
            found = services.unconfirmed(user.id, tenant_id)
        return {
            "email": user.email,
            "confirmed": bool(options["digest"]),
            "changes": [f"{row.kind} by {maker(row)} at {row.changed_at.isoformat()}" for row in found.changes],
            "digest": found.digest,
        }
