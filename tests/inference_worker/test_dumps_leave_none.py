"""Messages that cannot be given back to a broker are written nowhere."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection
from kombu.transport.virtual import base
from kombu.utils.div import emergency_dump_state

from inference_worker.carrying import transport
from inference_worker.contract import dumps

SECRET = "eyJ0aWNrZXQ"


def end_with_unacknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel whose broker is away ends while it holds a message."""
    with Connection("memory://") as connection:
        channel: Any = connection.channel()
        properties = {"delivery_tag": "t", "delivery_info": {"exchange": "", "routing_key": "q"}}
        message = base.Message({"body": SECRET, "properties": properties}, channel)
        channel.qos.append(message, "t")

        def away(_: Any) -> None:
            raise OSError("away")

        monkeypatch.setattr(channel, "_restore", away)
        channel.do_restore = True
        channel.qos.restore_unacked_once()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(base, "emergency_dump_state", emergency_dump_state)
    return tmp_path


def test_nothing_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    dumps.leave_no_dumps()
    end_with_unacknowledged(monkeypatch)
    assert list(folder.iterdir()) == []
    assert "1 messages could not be given back to the broker; their jobs are sent again" in caplog.messages
    assert not any(SECRET in each for each in caplog.messages)
    assert transport.QoS.restore_unacked_once is not base.QoS.restore_unacked_once  # and it ends in the same function


def test_kombu_by_itself_leaves_a_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The control."""
    caplog.set_level(logging.INFO)
    end_with_unacknowledged(monkeypatch)
    (left,) = folder.iterdir()
    assert SECRET.encode() in left.read_bytes()


def test_both_programs_switch_it_off(folder: Path) -> None:
    import kasbah.config.celery as housekeeping
    from inference_worker.tasks import carrier

    assert housekeeping.leave_no_dumps is dumps.leave_no_dumps
    assert carrier.leave_no_dumps is dumps.leave_no_dumps
