"""Versions: brought in by one person, approved by another, each step on record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.db import IntegrityError, transaction

from kasbah.common.errors import Conflict, Forbidden, Invalid, NotFound
from kasbah.identity.services import Actor, actor_of_key, actor_of_user
from kasbah.registry import services
from kasbah.registry.models import Model, ModelVersion, Stage
from tests import factories
from tests.factories import SYSTEM

from .folders import model

pytestmark = pytest.mark.django_db
FACTS = {"publisher": "Mistral AI", "licence": "Apache-2.0", "family": "mixtral"}


@pytest.fixture(autouse=True)
def _models(tmp_path: Path, settings: Any) -> None:
    settings.MODELS_DIR = str(tmp_path / "models")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model(tmp_path / "source")


def register(folder: Path, actor: Actor = SYSTEM, name: str = "mixtral", **facts: str) -> ModelVersion:
    return services.register_version(actor, name=name, folder=folder, **{**FACTS, **facts})


def admin() -> Actor:
    return factories.fresh(factories.user(is_platform_admin=True))


def events() -> list[dict[str, Any]]:
    return [dict(event) for event in factories.events_of(None) if str(event["type"]).startswith("model.")]


def test_a_version_is_registered_with_its_manifest_and_topology(folder: Path) -> None:
    importer = admin()
    made = register(folder, importer)
    version = services.get(made.digest)
    assert version.stage == Stage.SCANNED
    assert version.imported_by_id == importer.user_id
    assert {entry["path"] for entry in version.manifest} == {path.name for path in folder.iterdir()}
    assert version.size == sum(entry["size"] for entry in version.manifest)
    assert (version.topology["experts"], version.topology["parameters"]) == (4, 48)
    assert (services.folder_of(version.digest) / "config.json").is_file()
    assert [(event["type"], event["resource"]) for event in events()] == [
        ("model.registered", {"type": "model_version", "id": str(version.id), "digest": version.digest})
    ]


def test_the_same_files_are_the_same_version(folder: Path) -> None:
    assert register(folder).id == register(folder).id
    assert len(events()) == 1
    with pytest.raises(Conflict, match="known as a version of the model mixtral"):
        register(folder, name="other")
    assert not Model.objects.filter(name="other").exists()


def test_other_files_are_another_version_of_the_model(folder: Path, tmp_path: Path) -> None:
    first, second = register(folder), register(model(tmp_path / "longer", max_position_embeddings=4096))
    assert first.model_id == second.model_id
    assert [version.id for version in services.list_versions()] == [second.id, first.id]
    assert list(services.list_versions(Stage.APPROVED)) == []


def test_names_are_checked_before_anything_is_read(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Invalid) as caught:
        register(tmp_path / "absent", name="Mixtral 8x7B")
    assert caught.value.param == "name"
    register(folder)
    with pytest.raises(Conflict, match=r"known with the licence 'Apache-2.0'"):
        register(tmp_path / "absent", licence="MIT")


def test_files_that_were_rejected_do_not_come_back(folder: Path) -> None:
    version = register(folder)
    ModelVersion.objects.filter(pk=version.pk).update(stage=Stage.REJECTED)
    with pytest.raises(Conflict, match="known and rejected"):
        register(folder)


def test_a_refused_folder_leaves_no_row(folder: Path) -> None:
    (folder / "evil.py").write_text("x")
    with pytest.raises(Invalid, match=r"evil.py is code"):
        register(folder)
    (folder / "evil.py").unlink()
    (folder / "config.json").write_text('{"architectures": ["X"]}')
    with pytest.raises(Invalid, match=r"config.json: num_hidden_layers is missing"):
        register(folder)
    assert not Model.objects.exists()
    assert not services.folder_of("").exists(), "nor a file"
    assert events() == []


def test_a_second_person_approves(folder: Path) -> None:
    importer, second = admin(), admin()
    version = register(folder, importer)
    with pytest.raises(Forbidden, match="ask a second person"):
        services.approve(importer, version, services.seen_of(version))
    approved = services.approve(second, version, services.seen_of(version))
    assert (approved.stage, approved.approved_by_id) == (Stage.APPROVED, second.user_id)
    with pytest.raises(Conflict, match="is approved"):
        services.approve(second, version, services.seen_of(version))
    assert [(event["type"], event["details"].get("bootstrap")) for event in events()] == [
        ("model.registered", None),
        ("model.approved", False),
    ]


def test_the_database_refuses_the_same_person_too(folder: Path) -> None:
    importer = admin()
    version = register(folder, importer)
    with pytest.raises(IntegrityError, match="second_person"), transaction.atomic():
        ModelVersion.objects.filter(pk=version.pk).update(approved_by=importer.user_id)


def test_the_first_start_approves_by_itself_and_says_so(folder: Path) -> None:
    version = register(folder)
    with pytest.raises(Forbidden, match="by a person"):
        services.approve(SYSTEM, version, services.seen_of(version))
    approved = services.approve(SYSTEM, version, bootstrap=True)
    assert (approved.stage, approved.approved_by_id) == (Stage.APPROVED, None)
    assert events()[-1]["details"] == {"bootstrap": True}
    assert events()[-1]["actor"]["kind"] == "system"


def test_a_person_cannot_call_it_a_first_start(folder: Path) -> None:
    importer = admin()
    version = register(folder, importer)
    with pytest.raises(Forbidden, match="Only a command"):
        services.approve(importer, version, bootstrap=True)


def test_only_the_platform_administrator_registers_and_approves(folder: Path) -> None:
    house = factories.household()
    version = register(folder)
    for actor in (actor_of_user(house.admin), actor_of_key(house.principal)):
        with pytest.raises(Forbidden):
            register(folder, actor)
        with pytest.raises(Forbidden):
            services.approve(actor, version, services.seen_of(version))


def test_what_is_not_there_is_not_found(folder: Path) -> None:
    with pytest.raises(NotFound):
        services.get("0" * 64)
    assert services.find("0" * 64) is None
    version = register(folder)
    ModelVersion.objects.all().delete()
    with pytest.raises(NotFound):
        services.approve(admin(), version, services.seen_of(version))
