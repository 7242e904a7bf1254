"""The rules of two persons hold in every flow that takes two: each is asked for and agreed to here, in turn.

A new flow is added to FLOWS; `test_no_flow_is_left_out` finds one that asks for a second person and is not there.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

import kasbah
from kasbah.audit.models import Erasure, LegalHold, PruningPolicy
from kasbah.common import rls
from kasbah.common.errors import KasbahError
from kasbah.common.ids import uuid7
from kasbah.identity import services as identity
from kasbah.identity.models import AccountChange, AccountChangeKind, Membership, Role, User
from kasbah.identity.services import Actor, approvals, standing
from kasbah.registry import services as registry
from kasbah.registry.models import Model, ModelVersion, Stage
from kasbah.residency import services as residency
from kasbah.residency.services import erasures, holds, pruning
from kasbah.residency.services.holds import Reach
from tests import factories
from tests.factories import SYSTEM, fresh

from .documents import allow, document
from .kept import store

pytestmark = pytest.mark.django_db
WIDE = document(allow())


@dataclass(frozen=True)
class Flow:
    """How something is asked for, what the second person sees of it, and how he agrees."""

    ask: Callable[[Actor, factories.Household], Any]
    seen: Callable[[Any], str]
    agree: Callable[[Actor, Any, str], Any]
    event: str
    platform: bool = False  # of no tenant


def ask_erasure(who: Actor, home: factories.Household) -> Erasure:
    row = store(home, days=1)
    wish = erasures.Wish(request_id=row.request_id)
    return erasures.request_erasure(who, home.tenant, wish, basis="authority", reason="R")


def ask_release(who: Actor, home: factories.Household) -> LegalHold:
    hold = holds.place_hold(SYSTEM, home.tenant, Reach(request_id="req_1"), reason="R", reference="1")
    return holds.request_release(who, hold, "over")


def ask_version(who: Actor, _: factories.Household) -> ModelVersion:
    model = Model.objects.create(name=factories.slug("m"), publisher="P", licence="L", family="F")
    return ModelVersion.objects.create(
        model=model, digest=uuid7().hex * 2, manifest=[], size=1, stage=Stage.SCANNED, imported_by_id=who.user_id
    )


def ask_baseline(who: Actor, _: factories.Household) -> Any:
    closed = residency.create_policy(SYSTEM, None, document())
    residency.request_activation(SYSTEM, closed)  # the first one loosens nothing
    return residency.request_activation(who, residency.create_policy(who, None, WIDE))


FLOWS = {
    "policy": Flow(
        lambda who, home: residency.request_activation(who, residency.create_policy(who, home.tenant, WIDE)),
        lambda row: row.comparison,
        residency.approve_policy,
        "policy.approved",
    ),
    "baseline": Flow(ask_baseline, lambda row: row.comparison, residency.approve_policy, "baseline.approved", True),
    "erasure": Flow(ask_erasure, lambda row: row.digest, erasures.approve_erasure, "erasure.approved"),
    "pruning": Flow(
        lambda who, home: pruning.request_pruning(who, home.tenant, 400, reason="R"),
        pruning.seen_of,
        pruning.approve_pruning,
        "pruning_policy.approved",
    ),
    "hold": Flow(ask_release, holds.release_seen_of, holds.release_hold, "legal_hold.released"),
    "version": Flow(ask_version, registry.seen_of, registry.approve, "model.approved", True),
}


class Scene:
    """Two people who may both ask and agree, in a tenant or of the platform."""

    def __init__(self, flow: Flow) -> None:
        self.flow, self.home = flow, factories.household()
        self.tenant_id = None if flow.platform else self.home.tenant.id
        self.ada, self.grace = self.person(), self.person()

    def person(self) -> User:
        made = factories.user(is_platform_admin=self.flow.platform)
        factories.membership(self.home.tenant, made)
        return made

    def ask(self) -> Any:
        return self.flow.ask(fresh(self.ada), self.home)

    def agree(self, row: Any, who: User | None = None, seen: str | None = None) -> Any:
        return self.flow.agree(fresh(who or self.grace), row, self.flow.seen(row) if seen is None else seen)

    def refused(self, row: Any, code: str, **how: Any) -> None:
        with pytest.raises(KasbahError) as caught:
            self.agree(row, **how)
        assert caught.value.code == code, caught.value.message

    def made(self, by: User, of: User, hours: float = 1) -> None:
        with rls.platform_scope():
            AccountChange.objects.create(
                user_id=of.id,
                kind=AccountChangeKind.PASSWORD,
                actor_kind="user",
                actor_id=str(by.id),
                changed_by=by.id,
                changed_at=timezone.now() - timedelta(hours=hours),
            )


@pytest.fixture(params=FLOWS)
def scene(request: pytest.FixtureRequest, db: None) -> Scene:
    return Scene(FLOWS[request.param])


def test_two_persons_agree_and_the_log_says_who_the_second_is(scene: Scene) -> None:
    maker = scene.person()
    scene.made(maker, scene.grace, hours=30)
    scene.agree(scene.ask())
    (event,) = [each for each in factories.events_of(scene.tenant_id) if each["type"] == scene.flow.event]
    facts = event["details"]
    assert {"reviewer_account_made_at", "reviewer_account_made_by"} <= facts.keys()
    assert facts["reviewer_account_changed_by"] == f"user:{maker.id}"


def test_not_an_account_that_the_asker_made_or_changed(scene: Scene) -> None:
    scene.made(scene.ada, scene.grace)
    scene.refused(scene.ask(), "one_person_behind_both")


def test_not_by_asking_with_a_second_account(scene: Scene) -> None:
    scene.made(scene.grace, scene.ada)
    scene.refused(scene.ask(), "one_person_behind_both")


def test_not_by_a_chain_nor_by_two_accounts_of_a_third(scene: Scene) -> None:
    between = scene.person()
    scene.made(scene.ada, between, hours=3)
    scene.made(between, scene.grace, hours=2)
    row = scene.ask()
    scene.refused(row, "one_person_behind_both")
    last = scene.person()
    scene.made(between, last, hours=1)
    scene.refused(row, "one_person_behind_both", who=last)


def test_but_with_a_third_persons_word_or_after_the_time(scene: Scene) -> None:
    row, later = scene.ask(), scene.person()
    scene.made(scene.ada, later, hours=25)
    if scene.flow.event != "baseline.approved":
        scene.made(scene.ada, scene.grace)
        scene.refused(row, "one_person_behind_both")
        third = fresh(factories.user(is_platform_admin=True))
        identity.confirm_changes(third, scene.grace, None, identity.unconfirmed(scene.grace.id, None).digest)
        scene.agree(row)
    else:
        scene.agree(row, who=later)


@pytest.mark.parametrize("seen", ["", "0" * 64])
def test_not_without_what_was_looked_at(scene: Scene, seen: str) -> None:
    row = scene.ask()
    with pytest.raises(KasbahError) as caught:
        scene.agree(row, seen=seen)
    assert caught.value.code in {"comparison_stale", "erasure_changed", "changed_since"}
    scene.agree(row)


@pytest.mark.parametrize("how", ["demoted", "removed", "switched off"])
def test_not_what_somebody_asked_for_who_may_no_longer(scene: Scene, how: str) -> None:
    row = scene.ask()
    if scene.flow.platform or how == "switched off":
        changes: Any = {"is_active": False} if how == "switched off" else {"is_platform_admin": False}
        identity.update_user(SYSTEM, scene.ada, **changes)
    else:
        with rls.tenant_scope(scene.home.tenant.id):
            mine = Membership.objects.get(user=scene.ada, tenant=scene.home.tenant)
        if how == "demoted":
            identity.change_role(SYSTEM, mine, Role.DEVELOPER)
        else:
            identity.remove_member(SYSTEM, mine)
    scene.refused(row, "request_lapsed")


def test_the_control_without_each_rule_it_comes_through(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    row = scene.ask()
    scene.made(scene.ada, scene.grace)
    identity.update_user(SYSTEM, scene.ada, is_active=False)
    scene.refused(row, "request_lapsed")
    monkeypatch.setattr(approvals.Proposal, "lapsed", False)
    scene.refused(row, "one_person_behind_both")
    monkeypatch.setattr(standing, "require_apart", lambda *_: None)
    scene.agree(row)


@pytest.mark.parametrize("model", [Erasure, PruningPolicy])
def test_requests_of_who_may_no_longer_ask_expire(model: Any) -> None:
    flow = FLOWS["erasure" if model is Erasure else "pruning"]
    scene = Scene(flow)
    row, module = scene.ask(), erasures if model is Erasure else pruning
    assert module.expire_due() == 0
    identity.update_user(SYSTEM, scene.ada, is_active=False)
    assert module.expire_due() == 1
    with rls.tenant_scope(scene.home.tenant.id):
        assert model.objects.get(pk=row.pk).state == "expired"


def test_so_does_the_request_of_a_policy_and_a_release_can_be_asked_for_anew() -> None:
    scene = Scene(FLOWS["policy"])
    scene.ask()
    assert residency.activate_due() == {}
    identity.update_user(SYSTEM, scene.ada, is_active=False)
    assert residency.activate_due() == {"expired": 1}
    scene = Scene(FLOWS["hold"])
    hold = scene.ask()
    identity.update_user(SYSTEM, scene.ada, is_active=False)
    again = holds.request_release(fresh(scene.grace), hold, "over")
    assert again.release_requested_by == scene.grace.id
    scene.agree(again, who=scene.person())


def test_a_version_whose_importer_is_gone_is_brought_in_by_another(tmp_path: Path, settings: Any) -> None:
    from tests.registry import folders

    settings.MODELS_DIR = str(tmp_path / "models")
    folder = folders.model(tmp_path / "source")
    ada, grace, linus = (factories.user(is_platform_admin=True) for _ in range(3))

    def register(who: User) -> ModelVersion:
        facts = {"name": "m", "publisher": "P", "licence": "L", "family": "F"}
        return registry.register_version(fresh(who), folder=folder, **facts)

    version = register(ada)
    assert register(linus).imported_by_id == ada.id  # he is still there
    identity.update_user(SYSTEM, ada, is_active=False)
    with pytest.raises(KasbahError, match="lapsed"):
        registry.approve(fresh(grace), version, registry.seen_of(version))
    version = register(linus)
    assert version.imported_by_id == linus.id
    registry.approve(fresh(grace), version, registry.seen_of(version))


def asking_modules() -> set[str]:
    """Modules of services that let somebody agree: that call `require_approver`, or look for a second person."""
    found = set()
    root = Path(str(kasbah.__file__)).parent
    for file in root.glob("*/services/*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        words = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        if "require_approver" in names or "second_person" in words:
            found.add(file.relative_to(root).as_posix())
    return found


def test_no_flow_is_left_out() -> None:
    flows = {
        "residency/services/approval.py",  # policies and the baseline
        "residency/services/erasures.py",
        "residency/services/pruning.py",
        "residency/services/holds.py",
        "registry/services/versions.py",
    }
    assert asking_modules() == flows | {"identity/services/approvals.py"}
