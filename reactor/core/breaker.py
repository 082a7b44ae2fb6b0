"""provisional"""
from uuid import UUID
class Breaker:
    def __init__(self, threshold: int = 5, pause_s: float = 1.0, max_pause_s: float = 10.0) -> None:
        self._threshold=threshold; self._first=pause_s; self._max=max_pause_s
        self._rows: set[UUID]=set(); self._until: float|None=None; self._pause=pause_s; self._probing=False
    @property
    def is_open(self) -> bool: return self._until is not None
    @property
    def retry_at(self) -> float|None: return self._until
    def allowance(self, now: float) -> int|None:
        if self._until is None: return None
        return 1 if now >= self._until and not self._probing else 0
    def started(self, now: float) -> None:
        if self._until is not None: self._probing=True
    def succeeded(self, now: float) -> None:
        self._rows.clear(); self._until=None; self._probing=False; self._pause=self._first
    def abandoned(self, now: float) -> None: self._probing=False
    def failed(self, now: float, row_id: UUID, retry_after_s: float|None=None) -> bool:
        if self._until is not None:
            if self._probing:
                self._probing=False; self._pause=min(self._max,self._pause*2)
                self._until=now+max(self._pause, min(retry_after_s or 0, 600))
            return True
        self._rows.add(row_id)
        if len(self._rows)>=self._threshold:
            self._pause=self._first; self._until=now+max(self._pause, min(retry_after_s or 0, 600))
        return False
