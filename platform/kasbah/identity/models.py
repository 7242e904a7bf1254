"""Tenants, projects, users, memberships and API keys."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager
from django.core.validators import RegexValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from kasbah.common.ids import uuid7
from kasbah.identity.accountmodels import AccountChange, AccountChangeKind, Invitation, InvitationState

__all__ = ["AccountChange", "AccountChangeKind", "Invitation", "InvitationState"]  # beside what is defined here

SLUG = RegexValidator(
    r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
    _("Use lower-case letters, digits and hyphens, at most 63, beginning and ending with a letter or digit."),
)


class DataClass(models.TextChoices):
    """How sensitive content is, from least to most."""

    PUBLIC = "public", _("public")
    INTERNAL = "internal", _("internal")
    CONFIDENTIAL = "confidential", _("confidential")
    SECRET = "secret", _("secret")


class Tenant(models.Model):
    """An organisation or department whose data is kept apart from all others."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    slug = models.CharField(max_length=63, unique=True, validators=[SLUG])
    name = models.CharField(max_length=200)
    active = models.BooleanField(default=True)
    default_data_class = models.CharField(max_length=20, choices=DataClass.choices, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.slug


class Project(models.Model):
    """A group of keys of one tenant, with its default data class."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="projects")
    slug = models.CharField(max_length=63, validators=[SLUG])
    name = models.CharField(max_length=200)
    default_data_class = models.CharField(max_length=20, choices=DataClass.choices, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant", "slug"], name="project_slug_once_a_tenant")]

    def __str__(self) -> str:
        return self.slug


class UserManager(BaseUserManager["User"]):
    """Creates users; e-mail addresses are compared without case."""

    def create_user(self, email: str, password: str | None = None, **fields: Any) -> User:
        """A user with a usable password when one is given (checked by the caller)."""
        user = self.model(email=self.normalize_email(email).lower(), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def get_by_natural_key(self, username: str | None) -> User:
        """By e-mail, without case."""
        return self.get(email=(username or "").lower())


class User(AbstractBaseUser):
    """A person. What he may do in a tenant is said by a Membership; `is_platform_admin` stands above tenants."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    email = models.EmailField(unique=True)
    name = models.CharField(max_length=200, blank=True, default="")
    is_active = models.BooleanField(default=True)
    is_platform_admin = models.BooleanField(default=False)
    must_change_password = models.BooleanField(default=False)  # somebody else knows it: he who made or reset it
    created_at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[UserManager] = UserManager()
    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    def __str__(self) -> str:
        return self.email


class Role(models.TextChoices):
    """What a member of a tenant may do."""

    TENANT_ADMIN = "tenant_admin", _("tenant administrator")
    DEVELOPER = "developer", _("developer")
    OPERATOR = "operator", _("operator")
    AUDITOR = "auditor", _("auditor")


class Membership(models.Model):
    """A user's role in a tenant; one role each."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="memberships")
    user = models.ForeignKey(User, on_delete=models.PROTECT, related_name="memberships")
    role = models.CharField(max_length=20, choices=Role.choices)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant", "user"], name="one_membership_a_tenant")]


class Scope(models.TextChoices):
    """What an API key may be used for."""

    INFERENCE = "inference", _("inference")
    MANAGEMENT_READ = "management:read", _("read the management API")
    MANAGEMENT = "management", _("use the management API")


class ApiKey(models.Model):
    """A key of a project. Only an HMAC of it is stored, and its first characters so that people recognise it."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="api_keys")
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="api_keys")
    name = models.CharField(max_length=200)
    prefix = models.CharField(max_length=12)
    pepper_id = models.CharField(max_length=16)
    digest = models.BinaryField(max_length=32, unique=True)  # HMAC-SHA256(pepper, key)
    scopes = models.JSONField(default=list)  # list of Scope
    role = models.CharField(max_length=20, choices=Role.choices, default=Role.DEVELOPER)
    default_data_class = models.CharField(max_length=20, choices=DataClass.choices, blank=True, default="")
    created_by = models.ForeignKey(User, null=True, on_delete=models.PROTECT, related_name="+")
    # A personal key can never do more than whoever made it can now; a service account's key stands by itself.
    service_account = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(service_account=True) | models.Q(created_by__isnull=False),
                name="api_key_has_a_maker_or_is_a_service_account",
            )
        ]
