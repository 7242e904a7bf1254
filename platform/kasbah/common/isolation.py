"""One item's fault stops no other item: periodic work goes over tenants, sites, workers or rows, each by itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import InterfaceError, OperationalError, connection

from inference_worker.contract.loggate import LogGate


class Isolation:
    """`apart` around the work for one item. An error is logged with the item's name, once and then ever more seldom."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._gate = LogGate()
        self.faults = 0  # since the process began

    @contextmanager
    def apart(self, item: str, *passing: type[Exception]) -> Iterator[None]:
        """Keep an error of `item` from the next one.

        Raises what is of a type in `passing`, and what means that the database is away, which is no item's fault. Use
        it outside of a transaction, so that what was half done is rolled back.
        """
        try:
            yield
        except passing:
            raise
        except Exception as error:
            if isinstance(error, (OperationalError, InterfaceError)) and not connection.is_usable():
                raise
            self.faults += 1
            if self._gate.due(item, type(error).__name__):
                self._logger.exception("%s failed and is left for the next time; the others go on", item)
        else:
            if self._gate.ended(item):
                self._logger.warning("%s works again", item)
