"""The last lines of this process's own log, kept in memory: `caas logs` asks for those about a cluster."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Sequence

KEPT = 2000


class RecentLines(logging.Handler):
    """The last KEPT records, as they are written to the log. Safe for several threads."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._records: deque[str] = deque(maxlen=KEPT)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._records.append(self.format(record))
        except Exception:  # as every handler does: what logs must not fail for it
            self.handleError(record)

    def about(self, cluster: str, *, count: int) -> Sequence[str]:
        """The last *count* lines of records that name *cluster*, or something of it, oldest first."""
        # Names of clusters are of a-z, 0-9 and '-': "demo" is no part of "demo-2".
        named = re.compile(rf"(?<![a-z0-9-]){re.escape(cluster)}(?![a-z0-9-])")
        self.acquire()
        try:
            records = list(self._records)
        finally:
            self.release()
        lines = [line for record in records if named.search(record) for line in record.splitlines()]
        return lines[max(0, len(lines) - count) :]
