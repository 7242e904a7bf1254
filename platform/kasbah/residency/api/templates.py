"""Ready-made policies to start from."""

from __future__ import annotations

from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from kasbah.common.access import AUTHENTICATED
from kasbah.common.api import ManagementView
from kasbah.residency.services.templates import policy_template, policy_templates


class SeenShown(serializers.Serializer[Any]):
    """What was really read of a text."""

    text = serializers.CharField()
    official = serializers.BooleanField(help_text="Whether by who made the law, or who oversees it.")
    date = serializers.DateField(help_text="When it was read.")
    shows = serializers.CharField(help_text="What it confirms.")


class SourceShown(serializers.Serializer[Any]):
    """A text that a template is about."""

    title = serializers.CharField()
    articles = serializers.CharField()
    reference = serializers.CharField(help_text="What it is found under.")
    date = serializers.DateField(help_text="Of the text.")
    seen = SeenShown(many=True)


class TemplateLine(serializers.Serializer[Any]):
    """A policy to start from; a starting point, not legal advice."""

    name = serializers.CharField()
    title = serializers.CharField()
    summary = serializers.CharField()
    notice = serializers.CharField()
    reviewed = serializers.DateField(help_text="When it was written or last looked over.")
    review_by = serializers.DateField(help_text="When it is to be looked over again: laws are amended.")
    sources = SourceShown(many=True)


class TemplateShown(TemplateLine):
    """A policy to start from, with its text; a starting point, not legal advice."""

    text = serializers.CharField(help_text="YAML with comments, to be edited and added as a policy.")
    document = serializers.JSONField(help_text="The same without comments.")


class TemplateList(serializers.Serializer[Any]):
    """All of them: they are few, so there is one page."""

    data = TemplateLine(many=True)  # type: ignore[assignment]  # a field, as in every list; DRF takes it off the class
    has_more = serializers.BooleanField()
    next = serializers.CharField(allow_null=True)


class TemplatesView(ManagementView):
    """Policies to start from, by jurisdiction."""

    access: ClassVar = {"get": AUTHENTICATED}

    @extend_schema(operation_id="policy_templates_list", responses=TemplateList)
    def get(self, request: Request) -> Response:
        """List the policies to start from, each with its legal sources. None of them is legal advice."""
        page = {"data": policy_templates(), "has_more": False, "next": None}
        return Response(TemplateList(page).data)


class TemplateView(ManagementView):
    """One of them."""

    access: ClassVar = {"get": AUTHENTICATED}

    @extend_schema(operation_id="policy_templates_retrieve", responses=TemplateShown)
    def get(self, request: Request, name: str) -> Response:
        """Show a policy to start from: its text to edit and add, and its legal sources. It is not legal advice."""
        return Response(TemplateShown(policy_template(name)).data)
