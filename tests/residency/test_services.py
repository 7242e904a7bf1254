"""Sites and policy versions: what is allowed, what is refused, what is on record, what the asynchronous side loads."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from django.db import IntegrityError, connection, transaction

from inference_worker.contract import sealing
from inference_worker.contract.sealing import CannotOpen
from kasbah.common import rls
from kasbah.common.database import Database
from kasbah.common.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable
from kasbah.identity.models import Role, Tenant
from kasbah.identity.services import actor_of_user
from kasbah.residency import services
from kasbah.residency.models import Policy, PolicyState, Site
from kasbah.residency.services import PolicyInvalid, Question, SiteRecord, decide
from tests import factories
from tests.factories import SYSTEM

from .documents import allow, deny, document

pytestmark = pytest.mark.django_db
URL = "redis://:pass-word@127.0.0.1:6379/0"


def site(slug: str = "paris", jurisdiction: str = "FR") -> Site:
    return services.create_site(SYSTEM, slug=slug, name=slug.title(), jurisdiction=jurisdiction, broker_url=URL)


def active(tenant: Tenant, *rules: dict[str, Any]) -> Policy:
    return factories.active_policy(tenant, document(*rules))  # type: ignore[no-any-return]


def states(tenant: Tenant) -> dict[int, str]:
    with rls.tenant_scope(tenant.id):
        return dict(Policy.objects.order_by("version").values_list("version", "state"))


def test_a_site_has_a_key_pair_and_its_secrets_lie_sealed() -> None:
    made = Site.objects.get(pk=site().pk)
    [(name, private)] = services.site_keys.private_keys(made).items()
    row = made.keys.get()
    assert services.broker_url(made) == URL
    assert b"pass-word" not in bytes(made.broker_url_sealed)
    assert (row.key_id, row.state, bytes(row.public_key)) == (name, "current", bytes(made.sealing_public_key))
    assert private.private_bytes_raw() not in bytes(row.private_key_sealed)
    public = X25519PublicKey.from_public_bytes(bytes(made.sealing_public_key))
    box = sealing.seal_payload(b"prompt", job="j", sites={str(made.id): public})
    assert sealing.open_payload(box, job="j", site=str(made.id), private={name: private}) == b"prompt"


def test_sealed_columns_open_in_their_own_place_only() -> None:
    paris, rabat = site(), site("rabat", "MA")
    rabat.broker_url_sealed = paris.broker_url_sealed
    with pytest.raises(CannotOpen):
        services.broker_url(rabat)
    paris.broker_url_sealed = paris.keys.get().private_key_sealed
    with pytest.raises(CannotOpen):
        services.broker_url(paris)


def test_changes_of_sites_are_on_record_without_their_secrets() -> None:
    made = site()
    services.update_site(SYSTEM, made, name="Paris 2", broker_url="rediss://:other@10.0.0.1:6380/1")
    services.update_site(SYSTEM, made, store_url="redis://:pass-word@10.0.0.2/0")
    made.refresh_from_db()
    assert (made.name, services.broker_url(made)) == ("Paris 2", "rediss://:other@10.0.0.1:6380/1")
    events = [event for event in factories.events_of(None) if str(event["type"]).startswith("site.")]
    assert [event["type"] for event in events] == ["site.created", "site.changed", "site.changed"]
    assert events[0]["details"] == {"slug": "paris", "jurisdiction": "FR"}
    assert events[1]["details"] == {"slug": "paris", "fields": ["name", "broker_url_sealed"]}
    assert events[2]["details"] == {"slug": "paris", "fields": ["store_url_sealed"]}
    assert services.store_url(made) == "redis://:pass-word@10.0.0.2/0"
    services.update_site(SYSTEM, made, store_url="")
    assert services.store_url(made) == services.broker_url(made)
    assert "pass-word" not in str(events)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("slug", "Paris!"),
        ("jurisdiction", "UK"),
        ("jurisdiction", "fr"),
        ("jurisdiction", ""),
        ("store_url", "amqp://guest:pass-word@localhost"),
        ("store_url", "redis://"),
        ("broker_url", "kafka://:pass-word@localhost"),
        ("broker_url", "redis://"),
        ("broker_url", "redis://host:port"),
        ("broker_url", "redis://host:99999"),
        ("broker_url", "redis://host\n"),
        ("broker_url", "redis://" + "h" * 500),
        ("broker_url", "redis://[::1"),
        ("name", ""),
    ],
)
def test_what_a_site_cannot_be(field: str, value: str) -> None:
    fields = {"slug": "paris", "name": "Paris", "jurisdiction": "FR", "broker_url": URL, field: value}
    with pytest.raises(Invalid) as caught:
        services.create_site(SYSTEM, **fields)
    assert caught.value.param == field
    assert "pass-word" not in caught.value.message


def test_a_slug_names_one_site() -> None:
    site()
    with pytest.raises(Conflict, match="paris already"):
        site()


def test_only_the_platform_administrator_makes_and_changes_sites() -> None:
    house, made = factories.household(), site()
    for actor in (actor_of_user(house.admin), actor_of_user(factories.user())):
        with pytest.raises(Forbidden):
            services.create_site(actor, "rabat", "Rabat", "MA", URL)
        with pytest.raises(Forbidden):
            services.cordon_site(actor, made)
    chief = actor_of_user(factories.user(is_platform_admin=True))
    assert services.create_site(chief, "rabat", "Rabat", "MA", URL).jurisdiction == "MA"


def test_versions_are_kept_and_one_is_active() -> None:
    tenant = factories.tenant()
    first, second = active(tenant, allow()), active(tenant, allow(), deny(jurisdictions=["US"]))
    services.create_policy(SYSTEM, tenant, document())
    assert states(tenant) == {1: "superseded", 2: "active", 3: "draft"}
    assert (first.version, second.version) == (1, 2)


def test_a_document_with_problems_becomes_no_policy() -> None:
    tenant = factories.tenant()
    with pytest.raises(PolicyInvalid) as caught:
        services.create_policy(SYSTEM, tenant, document(deny(sites=[]), deny("b", jurisdictions=["UK"])))
    assert [problem.path for problem in caught.value.problems] == ["/rules/0/sites"]
    assert states(tenant) == {}
    assert factories.events_of(tenant.id) == []


def test_activation_refuses_names_that_nothing_has_and_lists_them_all() -> None:
    house, stranger = factories.household(), factories.household()
    site()
    rules = [
        allow(sites=["*", "paris", "pariss"], projects=[str(house.project.id)]),
        deny(sites=["rabbat"], projects=[str(stranger.project.id)]),
    ]
    draft = services.create_policy(SYSTEM, house.tenant, document(*rules))
    with pytest.raises(PolicyInvalid) as caught:
        services.request_activation(SYSTEM, draft)
    assert [(problem.path, problem.message) for problem in caught.value.problems] == [
        ("/rules/0/sites/2", "there is no site pariss"),
        ("/rules/1/sites/0", "there is no site rabbat"),
        ("/rules/1/projects/0", f"there is no project {stranger.project.id}"),
    ]
    assert states(house.tenant) == {1: "draft"}
    assert active(house.tenant, rules[0] | {"sites": ["paris"]}).version == 2


def test_who_may_write_policies() -> None:
    house, stranger = factories.household(), factories.household()
    admin = actor_of_user(house.admin)
    draft = services.create_policy(admin, house.tenant, document())
    assert draft.created_by_id == house.admin.id
    with pytest.raises(NotFound):
        services.create_policy(actor_of_user(stranger.admin), house.tenant, document())
    with pytest.raises(NotFound):
        services.request_activation(actor_of_user(stranger.admin), draft)
    developer = factories.user()
    factories.membership(house.tenant, developer, Role.DEVELOPER)
    with pytest.raises(Forbidden):
        services.request_activation(actor_of_user(developer), draft)
    assert services.request_activation(admin, draft).state == PolicyState.ACTIVE


def test_a_draft_that_claims_another_tenant_is_not_found() -> None:
    house, stranger = factories.household(), factories.household()
    draft = services.create_policy(SYSTEM, house.tenant, document(allow()))
    draft.tenant = stranger.tenant  # as a view would that mixed its objects up
    with pytest.raises(NotFound):
        services.request_activation(actor_of_user(stranger.admin), draft)


def test_the_database_holds_one_active_version() -> None:
    tenant = factories.tenant()
    active(tenant, allow())
    with pytest.raises(IntegrityError), rls.tenant_scope(tenant.id), transaction.atomic():
        Policy.objects.create(tenant=tenant, version=2, document={}, state=PolicyState.ACTIVE)


def test_explain_says_what_each_site_is_in_or_out_for() -> None:
    tenant = factories.tenant()
    site(), site("rabat", "MA")
    nothing = services.explain(tenant, data_class="internal", model="mixtral")
    assert (nothing.allowed, nothing.policy, nothing.rule) == (False, None, "no_policy")
    policy = active(tenant, allow("france", jurisdictions=["FR"]))
    found = services.explain(tenant, data_class="internal", model="mixtral")
    assert (found.allowed, found.sites, found.rule) == (True, ("paris",), "france")
    assert (found.policy, found.policy_version) == (policy.id, 1)
    assert [(reason.site, reason.reason) for reason in found.reasons] == [
        ("paris", "compliant"),
        ("rabat", "no rule allows it"),
    ]


def test_explain_says_what_a_finding_makes_of_a_request() -> None:
    """As the gateway decides: only what both the declared and the raised class allow."""
    tenant = factories.tenant()
    site(), site("rabat", "MA")
    rules = [
        allow("personal", data_classes=["confidential"], tags=["personal"]),
        allow("rest", jurisdictions=["MA"]),
    ]
    looks = {"detect": ["email"], "tags": ["personal"], "at_least": "confidential"}
    factories.active_policy(tenant, document(*rules, classifier=looks))
    found = services.explain(tenant, data_class="internal", model="mixtral", found=True)
    assert (found.sites, found.data_class, found.declared_class) == (("rabat",), "confidential", "internal")
    assert [(reason.site, reason.reason) for reason in found.reasons] == [
        ("rabat", "compliant"),
        ("paris", "no rule allows it, as it was declared"),
    ]
    denied = services.explain(tenant, data_class="public", model="mixtral", found=True)
    assert (denied.allowed, denied.denied_as, denied.rule) == (False, ("declared",), "default_deny")
    without = services.explain(tenant, data_class="internal", model="mixtral")
    assert (without.sites, without.declared_class, without.denied_as) == (("rabat",), None, ())


def test_explain_takes_a_project_by_id_or_slug() -> None:
    house = factories.household()
    site()
    active(house.tenant, allow(projects=[str(house.project.id)]))
    for name, allowed in ((house.project.slug, True), (str(house.project.id), True), ("", False), ("other", False)):
        found = services.explain(house.tenant, data_class="internal", model="mixtral", project=name)
        assert found.allowed is allowed, name


# With real commits.


@pytest.mark.django_db(transaction=True)
def test_versions_drafted_at_once_get_numbers_of_their_own() -> None:
    tenant = factories.tenant()
    errors: list[BaseException] = []

    def draft() -> None:
        try:
            services.create_policy(SYSTEM, tenant, document(allow()))
        except BaseException as error:  # noqa: BLE001 - shown by the test
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=draft) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert states(tenant) == dict.fromkeys(range(1, 7), "draft")


def ask(tenant: Tenant, sites: tuple[SiteRecord, ...]) -> Question:
    facts = tuple(record.fact for record in sites)
    return Question(tenant=tenant.id, data_class="internal", model="mixtral", sites=facts)


@pytest.mark.django_db(transaction=True)
async def test_the_asynchronous_side_decides_from_what_is_active(database: Database) -> None:
    from asgiref.sync import sync_to_async

    def prepare() -> tuple[Tenant, Tenant, Site]:
        one, other = factories.tenant(), factories.tenant()
        services.drain_site(SYSTEM, site("old", "MA"))
        paris = site()
        site("rabat", "MA")
        active(one, allow("superseded"))
        active(one, allow("france", jurisdictions=["FR"]))
        services.create_policy(SYSTEM, one, document(allow("draft")))
        active(other, deny("nothing"))
        return one, other, paris

    one, other, paris = await sync_to_async(prepare)()
    async with database.transaction(one.id) as link:
        policy, sites = await services.load_policy(link, one.id), await services.load_sites(link)
        foreign = await services.load_policy(link, other.id)
    assert [(record.slug, record.takes_jobs) for record in sites] == [("old", False), ("paris", True), ("rabat", True)]
    assert sites[1].public_key == bytes(paris.sealing_public_key)
    assert (sites[1].broker_url, sites[1].store_url) == (URL, URL)
    assert "pass-word" not in repr(sites)
    decision = decide(policy, ask(one, sites))
    assert (decision.sites, decision.rule, decision.policy_version) == ((paris.id,), "france", 2)
    assert foreign is None, "row-level security: another tenant's policy does not exist here"
    async with database.transaction(None) as link:
        assert decide(await services.load_policy(link, other.id), ask(other, sites)).rule == "nothing"


@pytest.mark.django_db(transaction=True)
async def test_sites_sealed_under_another_key_are_said_to_be(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asgiref.sync import sync_to_async

    from kasbah.common import sealed

    await sync_to_async(site)()
    monkeypatch.setattr(sealed, "kek", lambda: b"\0" * 32)
    async with database.transaction(None) as link:
        with pytest.raises(Unavailable, match="KASBAH_KEK"):
            await services.load_sites(link)
