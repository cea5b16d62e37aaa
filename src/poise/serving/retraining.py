"""Trains the forecaster anew while the server runs: in a process of its own at the lowest priority, from the history.

The process is ``poise train-forecaster`` on the server's history file. What it writes is read as strictly as any file.
While there is too little history, or a training fails, the forecaster stays as it is.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from poise.errors import PoiseError
from poise.forecasting.base import Forecaster
from poise.forecasting.seasonal import Seasonal, decode_seasonal

FIRST_AFTER_S = 600.0
"""A server that has just started has other things to do."""
EVERY_S = 86_400.0
AGAIN_AFTER_S = 3600.0
"""When there was too little history, or something failed."""
LOWEST_PRIORITY = 19

log = logging.getLogger(__name__)


class Retraining:
    """Trains the forecasters of some services now and then; ``adopt`` is given each new one.

    ``horizons_s``: how far ahead they are asked. Units: seconds.
    """

    def __init__(
        self,
        history: Path,
        services: Mapping[str, str],
        adopt: Callable[[str, Forecaster], None],
        *,
        first_after_s: float = FIRST_AFTER_S,
        every_s: float = EVERY_S,
        again_after_s: float = AGAIN_AFTER_S,
    ) -> None:
        self._history = history
        self._services = services
        self._adopt = adopt
        self._first_after_s = first_after_s
        self._every_s = every_s
        self._again_after_s = again_after_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, on the running event loop."""
        self._task = asyncio.create_task(self._keep_training())

    async def stop(self) -> None:
        """Train no more; one that is under way is ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep_training(self) -> None:
        wait_s = self._first_after_s
        while True:
            await asyncio.sleep(wait_s)
            trained = [await self._tried(key, name) for key, name in self._services.items()]
            wait_s = self._every_s if all(trained) else self._again_after_s

    async def _tried(self, key: str, name: str) -> bool:
        """Train one service's forecaster, whatever the system says to it; say whether that went well."""
        try:
            return await self._train(key, name)
        except OSError as error:  # no room for its folder, no more processes
            log.warning("the forecaster of %s stays as it is: it cannot be trained: %s", name, error)
            return False

    async def _train(self, key: str, name: str) -> bool:
        """Train one service's forecaster; say whether that went well."""
        with tempfile.TemporaryDirectory(prefix="poise-forecaster-") as folder:
            to = Path(folder) / "forecaster.json"
            words = [
                "-m",
                "poise.cli.main",
                "train-forecaster",
                str(self._history),
                "--out",
                str(to),
                "--json",
            ]
            if key:
                words += ["--service", key]
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # nothing is imported from wherever the server was started
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                os.setpriority(os.PRIO_PROCESS, process.pid, LOWEST_PRIORITY)
                _, said = await process.communicate()
            except BaseException:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
                raise
            if process.returncode:
                log.warning(
                    "the forecaster of %s stays as it is: %s", name, said.decode(errors="replace").strip()
                )
                return False
            try:
                model = decode_seasonal(await asyncio.to_thread(to.read_bytes), to.name)
            except (OSError, PoiseError) as error:
                log.warning("the forecaster of %s stays as it is: %s", name, error)
                return False
        log.info("the forecaster of %s was trained anew", name)
        self._adopt(key, Seasonal(model))
        return True
