"""What every management endpoint shares: authorise, then run inside the tenant's scope; pages; strict bodies.

The path of a request: `initial` authenticates (identity.access.*Authentication) and authorises
(identity.access.Permitted, which asks identity.services.require and leaves `view.tenant`); then the handler runs in
one transaction, which speaks for that tenant only. Handlers call services and never write models themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar
from uuid import UUID

from django.db import models, transaction
from django.utils import translation
from drf_spectacular.utils import OpenApiParameter
from rest_framework import exceptions, serializers
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter
from rest_framework.views import APIView
from rest_framework.viewsets import GenericViewSet, ViewSetMixin

from kasbah.common import rls
from kasbah.common.queries import NumberField, read_parameters
from kasbah.common.references import by_reference
from kasbah.common.shares import SharedPool

# Exports, simulations and their like in one process: each holds a connection to the database, of which others must
# find some free.
LONG_RUNS = SharedPool("long requests", 4)


class StrictSerializer(serializers.Serializer[Any]):
    """Refuses fields that it does not know: a misspelt field must not be a silent default."""

    def to_internal_value(self, data: Any) -> Any:
        """The validated values. Raises ValidationError."""
        if isinstance(data, Mapping) and (unknown := sorted(set(data) - set(self.fields))):
            known = ", ".join(name for name, field in self.fields.items() if not field.read_only)
            raise serializers.ValidationError({unknown[0]: f"There is no such field. Known: {known or 'none'}."})
        return super().to_internal_value(data)


class StrictBody(StrictSerializer):
    """Fields of a JSON body: each has its own JSON type, and nothing is taken for what it is not."""

    def to_internal_value(self, data: Any) -> Any:
        """The validated values. Raises ValidationError."""
        if isinstance(data, Mapping):
            for name, field in self.fields.items():
                if name in data:
                    _refuse_other_type(field, data[name], name)
        return super().to_internal_value(data)


JSON_TYPES: tuple[tuple[tuple[type, ...], type, str], ...] = (
    ((serializers.BooleanField,), bool, "true or false"),
    ((serializers.IntegerField,), int, "a whole number"),
    (
        (serializers.CharField, serializers.ChoiceField, serializers.UUIDField, serializers.DateTimeField),
        str,
        "a string",
    ),
)


def _refuse_other_type(field: serializers.Field[Any, Any, Any, Any], value: Any, name: str) -> None:
    if value is None:
        return  # the field itself says whether it may be
    if isinstance(field, serializers.ListField) and isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_other_type(field.child, item, f"{name}[{index}]")
    for kinds, wanted, called in JSON_TYPES:
        if isinstance(field, kinds) and (not isinstance(value, wanted) or (wanted is int and isinstance(value, bool))):
            raise serializers.ValidationError({name: f"Give {called}."})


class PageQuery(StrictSerializer):
    """Query parameters of every list."""

    limit = NumberField(min_value=1, max_value=200, default=50, help_text="Objects a page.")
    after = serializers.UUIDField(required=False, help_text="Id of the last object of the page before.")
    order = serializers.ChoiceField(["desc", "asc"], default="desc", help_text="Newest or oldest first.")


class UuidCursorPagination(BasePagination):
    """Pages by the primary key: UUIDv7 sorts by time, so a page costs one index range, however deep."""

    def paginate_queryset(
        self, queryset: models.QuerySet[Any] | Sequence[Any], request: Request, view: APIView | None = None
    ) -> list[Any]:
        """One page. Raises ValidationError for parameters that are wrong or unknown."""
        if not isinstance(view, ManagementViewSet) or not isinstance(queryset, models.QuerySet):
            raise TypeError("this pagination serves ManagementViewSet.list only")
        query = view.query
        descending, limit = query["order"] == "desc", query["limit"]
        if "after" in query:
            queryset = queryset.filter(**{"pk__lt" if descending else "pk__gt": query["after"]})
        found = list(queryset.order_by("-pk" if descending else "pk")[: limit + 1])
        self._more, page = len(found) > limit, found[:limit]
        self._next = self._link(request, page[-1].pk) if self._more else None
        return page

    def _link(self, request: Request, last: UUID) -> str:
        parameters = request.query_params.copy()
        parameters["after"] = str(last)
        return f"{request.path}?{parameters.urlencode()}"

    def get_paginated_response(self, data: Any) -> Response:
        """`next` is the path of the page that follows, null on the last one."""
        return Response({"data": data, "has_more": self._more, "next": self._next})

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The page in OpenAPI."""
        return {
            "type": "object",
            "required": ["data", "has_more", "next"],
            "properties": {
                "data": schema,
                "has_more": {"type": "boolean"},
                "next": {"type": ["string", "null"], "description": "Path of the page that follows."},
            },
        }


class ManagementMixin(APIView):
    """Authorise first; then one transaction in the tenant's scope, so that no handler can forget it."""

    http_method_names = ["get", "head", "post", "put", "patch", "delete"]
    # Action, or method in lower case -> permission; what is not here is denied.
    access: ClassVar[Mapping[str, str]] = {}
    # Actions, or methods in lower case, that work for seconds; tenants have shares of the server's room for them.
    long: ClassVar[frozenset[str]] = frozenset()
    # This layer knows neither tenants nor actors: identity.api.access.Permitted leaves the tenant of the path here.
    tenant: Any = None

    @property
    def actor(self) -> Any:
        """identity.services.Actor: who asks."""
        return self.request.auth

    def permission_needed(self) -> str | None:
        """The permission of what is asked now; None denies."""
        action = getattr(self, "action", None) or (self.request.method or "").lower()
        return self.access.get(action)

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """Messages of this API are in English, whatever language the browser's user reads."""
        with translation.override("en"):
            return super().dispatch(request, *args, **kwargs)

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        """Nothing in between keeps an answer: some hold secrets, all are for one reader."""
        response.headers["Cache-Control"] = "no-store"
        return super().finalize_response(request, response, *args, **kwargs)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Authenticate and authorise, then put the handler into its scope."""
        super().initial(request, *args, **kwargs)
        method = (request.method or "").lower()
        if method in self.http_method_names and hasattr(self, method):
            setattr(self, method, self._scoped(getattr(self, method)))

    def _scoped(self, handler: Callable[..., Response]) -> Callable[..., Response]:
        def run(*args: Any, **kwargs: Any) -> Response:
            with self._share(), self.scope():
                return handler(*args, **kwargs)

        return run

    def _share(self) -> AbstractContextManager[None]:
        """A place for what takes long, held for the tenant. Raises RateLimited, Unavailable."""
        action = getattr(self, "action", None) or (self.request.method or "").lower()
        if action not in self.long:
            return nullcontext()
        return LONG_RUNS.hold(getattr(self.actor, "ref", None) if self.tenant is None else self.tenant.id)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """A transaction for the tenant of the path; without one, of no tenant: tables with tenants show no row."""
        if self.tenant is None:
            with transaction.atomic():
                yield
        else:
            with rls.tenant_scope(self.tenant.id):
                yield


class ManagementView(ManagementMixin):
    """An endpoint that is not a collection."""


class ManagementViewSet(ManagementMixin, GenericViewSet[Any]):
    """A collection. `queryset` is what the scope lets through; `filters` names the query parameters of its list."""

    pagination_class = UuidCursorPagination
    filters: ClassVar[type[serializers.Serializer[Any]] | None] = None
    lookup_value_converter = "uuid"
    named_by: ClassVar[str] = ""  # the column by which the path may name an object besides its id
    query: dict[str, Any]

    def rows(self) -> models.QuerySet[Any]:
        """The objects of this collection, narrowed to the tenant by hand as well as by the database."""
        queryset = self.get_queryset()
        return queryset if self.tenant is None else queryset.filter(tenant_id=self.tenant.id)

    def find(self) -> Any:
        """The object of the path. Raises NotFound."""
        reference = self.kwargs[self.lookup_url_kwarg or self.lookup_field]
        if self.named_by:
            if (found := by_reference(self.rows(), reference, self.named_by)) is None:
                raise exceptions.NotFound
            return found
        try:
            return self.rows().get(**{self.lookup_field: reference})
        except models.ObjectDoesNotExist as error:
            raise exceptions.NotFound from error

    def filtered(self, queryset: models.QuerySet[Any], filters: dict[str, Any]) -> models.QuerySet[Any]:
        """What the query parameters leave; their serializer's `source` is the look-up."""
        return queryset.filter(**filters)

    def read_query(self) -> dict[str, Any]:
        """The validated query parameters; a parameter that is not known is refused."""
        given = read_parameters(self.request, besides=("format",))
        page = PageQuery(data={name: given.pop(name) for name in tuple(given) if name in PageQuery().fields})
        page.is_valid(raise_exception=True)
        chosen = (self.filters or StrictSerializer)(data=given)
        chosen.is_valid(raise_exception=True)
        self.query = dict(page.validated_data)
        return dict(chosen.validated_data)

    def body(self, kind: type[serializers.Serializer[Any]], partial: bool = False) -> dict[str, Any]:
        """The validated fields of the body. Raises ValidationError."""
        serializer = kind(data=self.request.data, partial=partial)
        serializer.is_valid(raise_exception=True)
        if partial and not serializer.validated_data:
            raise serializers.ValidationError(f"Name at least one field to change: {', '.join(serializer.fields)}.")
        return dict(serializer.validated_data)

    def shown(self, instance: Any, status: int = 200) -> Response:
        """The object as the collection shows it."""
        return Response(self.get_serializer(instance).data, status=status)


class ListMixin(ManagementViewSet):
    """GET of the collection."""

    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """One page; an empty collection is an empty page."""
        filters = self.read_query()
        page = self.paginate_queryset(self.filtered(self.rows(), filters))
        return self.get_paginated_response(self.get_serializer(page, many=True).data)


class RetrieveMixin(ManagementViewSet):
    """GET of one object."""

    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """The object, or 404 with the same bytes whether it does not exist or belongs to another tenant."""
        return self.shown(self.find())


def query_parameters(*kinds: type[serializers.Serializer[Any]]) -> list[OpenApiParameter]:
    """The OpenAPI parameters of query serializers."""
    return [OpenApiParameter(name="", type=kind) for kind in kinds]


def router(routes: Iterable[tuple[str, type[ViewSetMixin], str]]) -> SimpleRouter:
    """A router of (prefix, viewset, name); a prefix may hold converters: tenants/<slug:tenant>/projects."""
    result = SimpleRouter(use_regex_path=False)
    for prefix, viewset, name in routes:
        if getattr(viewset, "named_by", ""):
            viewset.lookup_value_converter = "str"  # type: ignore[attr-defined]
        result.register(prefix, viewset, basename=name)
    return result
