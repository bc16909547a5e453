"""The token of a device, and what of its file counts while an agent runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy_engine.agent.device_token import DeviceToken
from proxy_engine.errors import UsageError
from proxy_engine.settings.config import Settings


def test_a_file_is_read_for_every_dial(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    token = DeviceToken(Settings(token_file=str(file)))
    assert token() == "first"
    file.write_text("second\n")
    assert token() == "second"
    other = tmp_path / "other"
    other.write_text("third\n")
    other.rename(file)
    token.renew()
    assert token.value == "third"


def test_a_file_that_is_no_good_leaves_the_last_good_token_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "token"
    file.write_text("seen\n")
    token = DeviceToken(Settings(token_file=str(file)))
    for text, complaint in (("", "it is empty"), ("a b\n", "characters that no token has")):
        file.write_text(text)
        with pytest.raises(UsageError, match=complaint):
            token.renew()
        assert (token(), token()) == ("seen", "seen")
    file.unlink()
    assert (token(), token()) == ("seen", "seen")
    said = [each.getMessage() for each in caplog.records]
    assert len(said) == 3
    assert "No such file" in said[2]
    assert "seen" not in "".join(said)
    file.write_text("seen\n")
    assert token() == "seen"
    file.unlink()
    token()
    assert len(caplog.records) == 4


def test_a_pipe_is_read_once_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    pipe.symlink_to(tmp_path / "token")
    (tmp_path / "token").write_text("from-a-pipe\n")
    token = DeviceToken(Settings(token_file=str(pipe)))
    (tmp_path / "token").unlink()
    os.mkfifo(tmp_path / "token")
    token.renew()
    assert token() == "from-a-pipe"


def test_one_that_is_no_file_stays() -> None:
    token = DeviceToken(Settings(token="given"))
    token.renew()
    assert token() == "given"
    with pytest.raises(UsageError, match="which token"):
        DeviceToken(Settings())
