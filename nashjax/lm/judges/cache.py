"""Answers of a judge kept on disk, so that no question is paid for twice."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from nashjax._validation import invalid, message
from nashjax.files.errors import quoted
from nashjax.lm.judges.base import SHOWN, JudgeError

WAIT = 30.0  # seconds for another process to let go of the file

Pair = tuple[str, str, str]  # a prompt, the text that is called A, the text that is called B


class AnswerCache:
    """Answers in an SQLite file, each written for good before it is used; several processes may share the file."""

    APPLICATION = 0x6E61736A  # SQLite's mark of whose file it is

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        if self.path.is_dir() or not self.path.suffix:
            self.path = self.path / "judge.sqlite3"
        self._lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None, check_same_thread=False)
            try:
                self._prepare_in_turn()
            except BaseException:
                self._database.close()
                raise
        except (OSError, sqlite3.Error) as error:
            got = f"{quoted(str(self.path), SHOWN)} with the error {quoted(str(error), SHOWN)}"
            raise invalid("cache", "a file that a judge has made, or a new file", got) from error

    def _prepare_in_turn(self) -> None:
        """As `_prepare`, again while another process makes the file: SQLite does not wait for a change of its mode."""
        deadline = time.monotonic() + WAIT
        while True:
            try:
                return self._prepare()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.01)

    def _prepare(self) -> None:
        """Make the table of a new file; raises sqlite3.Error for another program's."""
        run = self._database.execute
        if run("PRAGMA application_id").fetchone()[0] != self.APPLICATION:
            if run("SELECT count(*) FROM sqlite_master WHERE name != 'answers'").fetchone()[0]:
                raise sqlite3.DatabaseError("it holds something else")
            run("PRAGMA journal_mode = WAL")
            run("BEGIN IMMEDIATE")
            run(
                "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY,"
                " probability REAL NOT NULL CHECK (probability BETWEEN 0 AND 1)) WITHOUT ROWID"
            )
            run(f"PRAGMA application_id = {self.APPLICATION}")
            run("COMMIT")
        run("PRAGMA synchronous = NORMAL")  # in WAL mode enough for a process that is killed

    def get(self, keys: Mapping[Pair, bytes]) -> dict[Pair, float]:
        """The answers that are known."""
        found = {pair: self._run("SELECT probability FROM answers WHERE key = ?", key) for pair, key in keys.items()}
        return {pair: answer for pair, answer in found.items() if answer is not None}

    def put(self, key: bytes, answer: float) -> float:
        """Keep an answer; returns the kept one, which is that of another process if it was faster."""
        self._run("INSERT OR IGNORE INTO answers VALUES (?, ?)", key, answer)
        kept = self._run("SELECT probability FROM answers WHERE key = ?", key)
        return answer if kept is None else kept

    def _run(self, statement: str, *values: bytes | float) -> float | None:
        """The first number that a statement finds."""
        try:
            with self._lock:
                row = self._database.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            got = f"the error {quoted(str(error), SHOWN)}"
            raise JudgeError(message(f"cache {quoted(str(self.path), SHOWN)}", "a cache of answers", got)) from error
        if row is None:
            return None
        if not isinstance(row[0], float) or not 0 <= row[0] <= 1:
            subject = f"answer in cache {quoted(str(self.path), SHOWN)}"
            raise JudgeError(message(subject, "a number from 0 to 1", quoted(repr(row[0]))))
        return row[0]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()
