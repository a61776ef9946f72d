"""Secrets in texts, settings and what a process prints; characters that steer a terminal."""

from __future__ import annotations

import logging
import sys
import warnings

import pytest

from adastate.runtime import secrets

WITH = [
    "https://joe:hunter22@host/a.tar",
    "cannot read https://hunter22@host/a.tar now",
    "https://host/a.tar?token=hunter22",
    "https://host/a.tar?rev=1&X-Amz-Signature=hunter22&x=1",
    "https://host/a.tar?sig=hunter22#x",
    "https://host/a.tar?access%5Ftoken=hunter22",
    "pipe:curl -H 'Authorization: Bearer hunter22' https://host/a.tar",
    "pipe:curl -H 'X-Api-Key: hunter22' https://host/a.tar",
    "pipe:curl -u joe:hunter22 https://host/a.tar",
    "pipe:wget --header='X-Auth-Token: hunter22' https://host/a.tar",
    "pipe:curl -H 'Cookie: a=b; sid=hunter22' https://host/a.tar",
    "{storage_options: {key: AK, secret: hunter22}}",
    "wget --password hunter22 https://host/a.tar",
    "--trainer.logger.init_args.api_key=hunter22",
    "{'token': 'hunter22'}",
    '{"client_secret": "hunter22"}',
    "AWS_SECRET_ACCESS_KEY=hunter22",
]


@pytest.mark.parametrize("text", WITH)
def test_a_secret_is_left_out_and_nothing_else(text: str) -> None:
    told = secrets.redacted(text)
    assert "hunter22" not in told and secrets.HIDDEN in told
    assert secrets.redacted(told) == told
    assert not ("host/a.tar" in text and "host/a.tar" not in told)


@pytest.mark.parametrize(
    "text",
    [
        "tokenizer: big, max_tokens: 5",
        "https://host/a.tar?rev=main&part=3",
        "https://${oc.env:USER_AND_PW}@host/a.tar?token=${oc.env:T}",
        "loss: 0.5, key: a, keys=3; 12:30",
        "s3://bucket/data/shard-{000..010}.tar",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert secrets.redacted(text) == text


def test_settings_are_hidden_by_their_names() -> None:
    node = {"api_key": "abc", "path": "s3://b", "nested": [{"hfToken": "x", "tokens": 3}], "token": "${oc.env:T}"}
    assert secrets.without_secrets(node) == {
        "api_key": "***",
        "path": "s3://b",
        "nested": [{"hfToken": "***", "tokens": 3}],
        "token": "${oc.env:T}",
    }


def test_nothing_that_a_process_says_holds_a_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(secrets, "_values", {})
    monkeypatch.setenv("SOME_TOKEN", "zebra-crossing")
    handler = logging.StreamHandler(sys.stdout)
    logger = logging.getLogger("of.this.test")
    logger.addHandler(handler)
    with pytest.raises(SystemExit, match=r"no \*\*\*$"), secrets.guarded():
        print("printed zebra-crossing \x1b[1mbold\x1b[0m right\u202eleft")
        print("\r\x1b[2K\x1b[1A half done\tof a name \x1b]0;title\x07 \x1b[3J \x08 \x9b2J")
        sys.stderr.write("told https://u:zebra@h\n")
        logger.warning("logged %s \x1b[2J", "zebra-crossing")
        sys.stderr.write(warnings.formatwarning("warned zebra-crossing\x1b[2J\u202e", UserWarning, "file.py", 1))
        raise SystemExit("no zebra-crossing")
    logger.removeHandler(handler)
    out, err = capsys.readouterr()
    assert "zebra" not in out + err
    assert "\x1b[1m" in out and "\r\x1b[2K\x1b[1A half done\tof" in out, "a progress bar may move the cursor"
    assert r"a name \x1b]0;title\x07 \x1b[3J \x08 \x9b2J" in out, "and nothing may set a title or clear the screen"
    assert "\u202e" not in out + err and "\x1b[2J" not in out + err and "\\x1b[2J" in out
    assert not isinstance(sys.stdout, secrets._Stream)


def test_letters_of_any_script_are_printable() -> None:
    assert secrets.printable("größer 影片 فيديو 👩\u200d🚀\n") == "größer 影片 فيديو 👩\u200d🚀\n"
    assert secrets.printable("a\x1b[31mb\r\u2066c\u202ed\x9b") == "a\\x1b[31mb\\r\\u2066c\\u202ed\\x9b"
