"""Django's settings. Everything that differs between installations comes from `kasbah.common.env`."""

from __future__ import annotations

import sys
from urllib.parse import parse_qsl, unquote, urlsplit

from django.utils.translation import gettext_lazy as _
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from redis.connection import parse_url

from kasbah.common import env
from kasbah.common.session_settings import pinned

HOST_NAME = r"\*|\.?[A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]"
ORIGIN = r"https?://(\*\.)?[A-Za-z0-9_.\[\]:-]{1,260}"
DATABASE_POOL = env.integer("DATABASE_POOL", 8, least=1, most=1000)  # connections, a process
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def database(url: str) -> dict[str, object]:
    """Django's settings of a postgresql:// URL; `?host=/folder` names a Unix socket's folder."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": options.pop("host", parts.hostname or ""),
        "PORT": options.pop("port", str(parts.port or "")),
        "CONN_MAX_AGE": 0,
        "CONN_HEALTH_CHECKS": True,
        # The pool is psycopg's own: connections are lent for a request, never kept by a thread.
        "OPTIONS": {
            "pool": {"min_size": 1, "max_size": DATABASE_POOL, "timeout": 5},
            **options,
        },
        "TEST": {"NAME": unquote(parts.path.lstrip("/"))},
    }


def database_url(name: str) -> str:
    """A PostgreSQL address that libpq reads too. Raises SettingError, which does not repeat it."""
    found = env.address(name, "postgresql:///kasbah", ("postgresql", "postgres"))
    try:
        conninfo_to_dict(found)
    except ProgrammingError:  # its text quotes the part that libpq could not read
        raise env.SettingInvalid(f"KASBAH_{name} has a part that PostgreSQL's client library cannot read") from None
    return found


def _database_url() -> str:
    # Only `migrate` and its kin own tables; a running server must never hold the owner's credentials.
    owner_commands = {"migrate", "makemigrations", "sqlmigrate"}
    if len(sys.argv) > 1 and sys.argv[1] in owner_commands:
        return pinned(database_url("OWNER_DATABASE_URL"))
    return pinned(database_url("DATABASE_URL"))


def redis_url() -> str:
    """The address of the control plane's own store. Raises SettingError, which does not repeat it."""
    found = env.address("REDIS_URL", "redis://127.0.0.1:6379/0", ("redis", "rediss", "unix"))
    try:
        parse_url(found)  # type: ignore[no-untyped-call]
    except ValueError:
        raise env.SettingInvalid("KASBAH_REDIS_URL has a parameter that the client library cannot read") from None
    return found


DATABASE_URL = _database_url()
DATABASES = {"default": database(DATABASE_URL)}
REDIS_URL = redis_url()
INSTALLATION = env.matching("INSTALLATION", "kasbah", r"[^\s+]{1,100}", "a name without blanks and +")
AUDIT_DIR = env.value("AUDIT_DIR", "audit-log")  # tiles, and the signer's memory; not in the database's backup
WITNESSES = env.value("WITNESSES", "")  # "VKEY URL" of each, separated by commas
# Private enterprise number; the default is that of RFC 5612
SYSLOG_PEN = env.integer("SYSLOG_PEN", 32473, least=1, most=2**32 - 1)
MODELS_DIR = env.value("MODELS_DIR", "models")
# Until a request nobody approves expires
POLICY_REQUEST_DAYS = env.integer("POLICY_REQUEST_DAYS", 7, least=1, most=3650)
# Hours in which nobody answers a request who stands behind the other person's account (identity/services/standing)
REVIEW_WAIT_HOURS = env.integer("REVIEW_WAIT_HOURS", 24, least=1, most=720)
IMPORT_DIR = env.value("IMPORT_DIR", "")  # folders of it may be registered over the management API; empty: none

SECRET_KEY = env.value("SECRET_KEY")
DEBUG = False
ALLOWED_HOSTS = env.entries("ALLOWED_HOSTS", "127.0.0.1,localhost", HOST_NAME, "names of hosts, such as example.org")
CSRF_TRUSTED_ORIGINS = env.entries("TRUSTED_ORIGINS", "", ORIGIN, "origins, such as https://kasbah.example.org")
ROOT_URLCONF = "kasbah.config.urls"
ASGI_APPLICATION = "kasbah.config.asgi.application"
AUTH_USER_MODEL = "identity.User"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "kasbah.audit",
    "kasbah.identity",
    "kasbah.registry",
    "kasbah.residency",
    "kasbah.metering",
    "kasbah.serving",
    "kasbah.config",
]
MIDDLEWARE = [
    "kasbah.common.csp.ContentSecurityPolicyMiddleware",
    "kasbah.common.requestid.RequestIdMiddleware",
    "kasbah.common.requestid.OptionalSlashMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
            ]
        },
    }
]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.ScryptPasswordHasher"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
]

LANGUAGE_CODE = "en"
LANGUAGES = [("en", _("English")), ("fr", _("French")), ("ar", _("Arabic")), ("ja", _("Japanese"))]
USE_I18N = True
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "/static/"
WHITENOISE_USE_FINDERS = True

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "kasbah.identity.api.access.KeyAuthentication",
        "kasbah.identity.api.access.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["kasbah.identity.api.access.Permitted"],
    "DEFAULT_PARSER_CLASSES": ["kasbah.common.parsing.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": [
        "rest_framework.renderers.JSONRenderer",
        "kasbah.common.browsable.StrictBrowsableAPIRenderer",
    ],
    "DEFAULT_SCHEMA_CLASS": "kasbah.common.openapi.ManagementSchema",
    "DEFAULT_METADATA_CLASS": None,
    "EXCEPTION_HANDLER": "kasbah.common.api_errors.exception_handler",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Kasbah management API",
    "DESCRIPTION": "Tenants, keys, sites, residency policies, models, deployments, limits, usage and the audit log.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.1",
    "SCHEMA_PATH_PREFIX": "/api/",
    "SERVE_INCLUDE_SCHEMA": False,
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_NAME_OVERRIDES": {
        "AskedState": "kasbah.audit.asked.AskedState",
        "DataClass": "kasbah.identity.models.DataClass",
        "Role": "kasbah.identity.models.Role",
        "Scope": "kasbah.identity.models.Scope",
        "ForwarderKind": "kasbah.audit.forwarding.models.Kind",
        "LimitScope": "kasbah.metering.models.LimitScope",
        "Period": "kasbah.metering.models.Period",
        "PolicyState": "kasbah.residency.models.PolicyState",
        "SiteState": "kasbah.residency.models.SiteState",
        "Stage": "kasbah.registry.models.Stage",
        "WorkerState": "kasbah.serving.models.WorkerState",
        "JobState": "kasbah.serving.models.JobState",
    },
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "kasbah.common.openapi.document_errors",
    ],
    # Files of the documentation page come from drf_spectacular_sidecar: there is no internet.
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
}
CSRF_FAILURE_VIEW = "kasbah.common.api_errors.csrf_failure"

SECURE_TLS = env.switch("TLS", "0")  # behind a proxy that speaks TLS
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_TLS
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_AGE = 12 * 3600  # seconds: a working day
SESSION_COOKIE_SAMESITE = "Lax"
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if SECURE_TLS else None
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
DATA_UPLOAD_MAX_MEMORY_SIZE = 4 * 1024 * 1024

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "()": "inference_worker.contract.printable.LineFormatter",
            "format": "%(asctime)s %(levelname)s %(name)s %(message)s",
        }
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": env.choice("LOG_LEVEL", "INFO", LOG_LEVELS)},
    # httpx and kombu would write addresses with their query or password at INFO
    "loggers": {"httpx": {"level": "WARNING"}, "kombu": {"level": "WARNING"}},
}
