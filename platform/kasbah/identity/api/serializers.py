"""What the identity endpoints read and show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rest_framework import serializers

from kasbah.common.api import StrictBody, StrictSerializer
from kasbah.common.references import ReferenceField
from kasbah.common.times import TimeField
from kasbah.identity.models import (
    SLUG,
    AccountChange,
    ApiKey,
    DataClass,
    Invitation,
    Membership,
    Project,
    Role,
    Scope,
    Tenant,
    User,
)
from kasbah.identity.services import KeyChoice
from kasbah.identity.services.standing import maker

KEY_CHOICES = [choice.value for choice in KeyChoice]
NO_DEFAULT = "Of requests that name none, nor their key and project. Empty: the strictest of the policy."


class TenantShown(serializers.ModelSerializer[Tenant]):
    """A tenant."""

    class Meta:
        model = Tenant
        fields = ["id", "slug", "name", "active", "default_data_class", "created_at"]


class TenantCreate(StrictBody):
    """A new tenant."""

    slug = serializers.CharField(max_length=63, validators=[SLUG], help_text="Names it in paths; never changes.")
    name = serializers.CharField(max_length=200)
    default_data_class = serializers.ChoiceField(
        DataClass.choices, required=False, allow_blank=True, default="", help_text=NO_DEFAULT
    )


class TenantChange(StrictBody):
    """What may change."""

    name = serializers.CharField(max_length=200)
    active = serializers.BooleanField(help_text="False: its keys are refused within a second; nothing is removed.")
    default_data_class = serializers.ChoiceField(DataClass.choices, allow_blank=True, help_text=NO_DEFAULT)


class ProjectShown(serializers.ModelSerializer[Project]):
    """A project of a tenant."""

    class Meta:
        model = Project
        fields = ["id", "slug", "name", "default_data_class", "created_at"]


class ProjectCreate(StrictBody):
    """A new project."""

    slug = serializers.CharField(max_length=63, validators=[SLUG])
    name = serializers.CharField(max_length=200)
    default_data_class = serializers.ChoiceField(
        DataClass.choices, required=False, allow_blank=True, default="", help_text="Empty: the tenant's."
    )


class ProjectChange(StrictBody):
    """What may change."""

    name = serializers.CharField(max_length=200)
    default_data_class = serializers.ChoiceField(DataClass.choices, allow_blank=True)


class UserShown(serializers.ModelSerializer[User]):
    """A person."""

    class Meta:
        model = User
        fields = ["id", "email", "name", "is_active", "is_platform_admin", "last_login", "created_at"]


class UserCreate(StrictBody):
    """A new person. What he may do in a tenant is said by a membership."""

    email = serializers.EmailField(max_length=254)
    password = serializers.CharField(max_length=200, trim_whitespace=False, style={"input_type": "password"})
    name = serializers.CharField(max_length=200, required=False, allow_blank=True, default="")
    is_platform_admin = serializers.BooleanField(default=False)


class UserChange(StrictBody):
    """What may change."""

    name = serializers.CharField(max_length=200, allow_blank=True)
    is_active = serializers.BooleanField()
    is_platform_admin = serializers.BooleanField()
    password = serializers.CharField(max_length=200, trim_whitespace=False, style={"input_type": "password"})
    keys = serializers.ChoiceField(
        KEY_CHOICES,
        help_text="With is_active false: what becomes of the API keys that he made. Left out: 409 with their list.",
    )


class MemberShown(serializers.ModelSerializer[Membership]):
    """A person's role in the tenant."""

    email = serializers.EmailField(source="user.email", read_only=True)
    name = serializers.CharField(source="user.name", read_only=True)

    class Meta:
        model = Membership
        fields = ["id", "user", "email", "name", "role", "created_at"]


class InvitationShown(serializers.ModelSerializer[Invitation]):
    """A role for whoever has an e-mail address, once he agrees. It does not tell whether anybody has it."""

    role = serializers.ChoiceField(Role.choices, read_only=True)

    class Meta:
        model = Invitation
        fields = ["id", "email", "role", "state", "created_at", "expires_at", "answered_at"]


class MyInvitation(serializers.ModelSerializer[Invitation]):
    """What I am invited to."""

    tenant = serializers.CharField(source="tenant.slug", read_only=True, help_text="Its slug.")
    name = serializers.CharField(source="tenant.name", read_only=True)
    role = serializers.ChoiceField(Role.choices, read_only=True)

    class Meta:
        model = Invitation
        fields = ["id", "tenant", "name", "role", "created_at", "expires_at"]


class AccountChangeShown(serializers.ModelSerializer[AccountChange]):
    """Something that another person did to an account, and that a third one may confirm."""

    by = serializers.SerializerMethodField(help_text="user:ID or api_key:ID.")

    class Meta:
        model = AccountChange
        fields = ["id", "kind", "by", "changed_at"]

    def get_by(self, change: AccountChange) -> str:
        """As an event names him."""
        return maker(change)


class UnconfirmedShown(serializers.Serializer[Any]):
    """The changes of the waiting time that nobody has confirmed, newest first."""

    changes = AccountChangeShown(many=True)
    digest = serializers.CharField(help_text="What a confirmation is bound to.")


class Confirmation(StrictBody):
    """What was looked at."""

    digest = serializers.CharField(max_length=64, help_text="As the unconfirmed changes show it.")


class KeysQuery(StrictSerializer):
    """Query parameters of an end."""

    keys = serializers.ChoiceField(
        KEY_CHOICES, required=False, help_text="What becomes of the API keys that he made here."
    )


def key_choice(fields: Mapping[str, Any]) -> KeyChoice | None:
    """The field `keys` as the services take it."""
    return KeyChoice(fields["keys"]) if "keys" in fields else None


class MemberCreate(StrictBody):
    """A person who is to be a member."""

    email = serializers.EmailField(max_length=254)
    role = serializers.ChoiceField(Role.choices)


class MemberChange(StrictBody):
    """What may change."""

    role = serializers.ChoiceField(Role.choices)


class ApiKeyShown(serializers.ModelSerializer[ApiKey]):
    """A key, without its secret."""

    scopes = serializers.ListField(child=serializers.ChoiceField(Scope.choices), read_only=True)

    class Meta:
        model = ApiKey
        fields = [
            "id", "project", "name", "prefix", "scopes", "role", "default_data_class",
            "service_account", "created_by", "created_at", "expires_at", "revoked_at", "last_used_at",
        ]  # fmt: skip


class ApiKeyIssued(ApiKeyShown):
    """A new key with its secret."""

    key = serializers.CharField(read_only=True, help_text="The secret. It is shown this once and stored nowhere.")

    class Meta(ApiKeyShown.Meta):
        fields = [*ApiKeyShown.Meta.fields, "key"]


class ApiKeyCreate(StrictBody):
    """A new key."""

    project = ReferenceField("identity.Project")
    name = serializers.CharField(max_length=200)
    scopes = serializers.ListField(
        child=serializers.ChoiceField(Scope.choices), allow_empty=False, max_length=3, default=[Scope.INFERENCE.value]
    )
    role = serializers.ChoiceField(
        Role.choices, default=Role.DEVELOPER, help_text="What it may do with a management scope."
    )
    service_account = serializers.BooleanField(
        default=False, help_text="true: it does not go down with whoever makes it; takes who manages members."
    )
    default_data_class = serializers.ChoiceField(DataClass.choices, required=False, allow_blank=True, default="")
    expires_at = TimeField(required=False, allow_null=True, default=None)


class Login(StrictBody):
    """Who logs in."""

    email = serializers.CharField(max_length=254)
    password = serializers.CharField(max_length=200, trim_whitespace=False, style={"input_type": "password"})


class PasswordChange(StrictBody):
    """One's own password."""

    current_password = serializers.CharField(max_length=200, trim_whitespace=False, style={"input_type": "password"})
    new_password = serializers.CharField(max_length=200, trim_whitespace=False, style={"input_type": "password"})


class MembershipOfMe(serializers.Serializer[Any]):
    """What I may do in one tenant."""

    tenant = serializers.CharField(help_text="Its slug.")
    name = serializers.CharField()
    role = serializers.ChoiceField(Role.choices)


class Me(serializers.Serializer[Any]):
    """Who asks."""

    kind = serializers.ChoiceField(["user", "api_key"])
    id = serializers.UUIDField()
    name = serializers.CharField()
    is_platform_admin = serializers.BooleanField()
    scopes = serializers.ListField(child=serializers.ChoiceField(Scope.choices), help_text="Of a key; else empty.")
    must_change_password = serializers.BooleanField(help_text="true: nothing else is possible before that.")
    memberships = MembershipOfMe(many=True)
