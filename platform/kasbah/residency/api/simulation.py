"""The simulator over the API: what a version of the policy would have decided about the requests of a period."""

from __future__ import annotations

import io
from itertools import count
from typing import Any, ClassVar
from uuid import UUID

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from kasbah.common import csvs
from kasbah.common.api import ManagementViewSet, StrictBody
from kasbah.common.errors import Invalid
from kasbah.common.times import TimeField
from kasbah.residency.models import Policy
from kasbah.residency.services.simulation import Period, facts, simulate_policy
from kasbah.residency.simulation import CHANGE_COLUMNS, Change

MOST_ROWS = 50_000  # of a table that is answered; the command writes any number into a file


class SimulationBody(StrictBody):
    """The period: `since` <= time < `until`; the last seven days unless it is said otherwise."""

    since = TimeField(required=False)
    until = TimeField(required=False)


class Counts(serializers.Serializer[Any]):
    """Numbers of requests."""

    newly_denied = serializers.IntegerField()
    newly_allowed = serializers.IntegerField()
    moved = serializers.IntegerField(help_text="Allowed as before, but not at the same sites.")
    unchanged_allowed = serializers.IntegerField()
    unchanged_denied = serializers.IntegerField()


class AllCounts(Counts):
    """Numbers of requests."""

    not_comparable = serializers.IntegerField(help_text="What was asked is not on record in full; see below.")


class Group(Counts):
    """Numbers of requests that have something in common."""

    by = serializers.CharField(help_text="data_class, model, project (an id) or rule (of the simulated policy).")
    value = serializers.CharField(allow_blank=True)


class SiteMoves(serializers.Serializer[Any]):
    """How many requests a site would lose and gain; `site` is its slug."""

    site = serializers.CharField()
    lost = serializers.IntegerField(help_text="The site was compliant for them and would not be.")
    gained = serializers.IntegerField()


class Unknown(serializers.Serializer[Any]):
    """Why requests could not be compared."""

    reason = serializers.CharField()
    requests = serializers.IntegerField()


class Examples(serializers.Serializer[Any]):
    """Up to twenty request ids of each kind."""

    newly_denied = serializers.ListField(child=serializers.CharField())
    newly_allowed = serializers.ListField(child=serializers.CharField())
    moved = serializers.ListField(child=serializers.CharField())
    not_comparable = serializers.ListField(child=serializers.CharField())


class SimulationShown(serializers.Serializer[Any]):
    """What would change. Nothing has changed: the policy's state is as it was."""

    summary = serializers.CharField(help_text="One line for the person who decides.")
    policy = serializers.UUIDField(allow_null=True)
    policy_version = serializers.IntegerField(allow_null=True)
    baseline_version = serializers.IntegerField(allow_null=True)
    since = serializers.DateTimeField()
    until = serializers.DateTimeField()
    requests = serializers.IntegerField()
    pruned = serializers.IntegerField(help_text="Events of the period that were pruned from the log; not counted.")
    counts = AllCounts()
    groups = Group(many=True)
    sites = SiteMoves(many=True)
    not_comparable = Unknown(many=True)
    examples = Examples()


class SimulationViewSet(csvs.CsvMixin, ManagementViewSet):
    """A version of the policy against the past."""

    queryset = Policy.objects.all()
    serializer_class = SimulationShown
    access: ClassVar = {"simulate": "audit.read"}
    long: ClassVar = frozenset({"simulate"})

    @extend_schema(
        request=SimulationBody,
        responses={(200, "application/json"): SimulationShown, (200, "text/csv"): OpenApiTypes.STR},
    )
    def simulate(self, request: Request, tenant: str, pk: UUID) -> Response:
        """Decide the requests of a period again with this version, as a table of changed requests when asked for CSV.

        It reads the audit log, and is recorded as policy.simulated.
        """
        policy, body = self.find(), self.body(SimulationBody)
        period = Period.of(body.get("since"), body.get("until"))
        if not self.wants_csv():
            return Response(SimulationShown(facts(simulate_policy(self.actor, self.tenant, policy, period))).data)
        file, rows = io.StringIO(newline=""), count()
        table = csvs.Table(file, CHANGE_COLUMNS)

        def write(change: Change) -> None:
            if next(rows) >= MOST_ROWS:
                raise Invalid(
                    f"More than {MOST_ROWS} requests would change; give a shorter period, or run "
                    "manage.py simulatepolicy with --csv.",
                    param="since",
                    code="too_many_changes",
                )
            table.write(change.row())

        simulate_policy(self.actor, self.tenant, policy, period, on_change=write)
        return self.as_file(f"simulation-version-{policy.version}", file.getvalue())
