"""Answers of web servers: which are asked for again, which are told at once, and what is not followed or unpacked."""

from __future__ import annotations

import gzip
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from datamodules.clips import ShardData
from datamodules.shards.clip_reader import Clips
from datamodules.shards.patience import Patience
from datamodules.shards.remote import Remote, find_files, read_index, read_range, size
from datamodules.shards.shard_error import ShardError
from datamodules.shards.skip_log import Ledger
from tests.datamodules.test_clips import captions, take, write
from tests.support.cases import thinned

Answer = Callable[[BaseHTTPRequestHandler, Path], bool]
"""Whether it has answered; otherwise the file is sent."""


class Handler(BaseHTTPRequestHandler):
    folder: Path
    answer: Answer = staticmethod(lambda handler, path: False)
    asked: list[str] = []  # noqa: RUF012 - one server at a time
    host: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        path = self.folder / self.path.split("?")[0].lstrip("/")
        if type(self).answer(self, path):
            return
        if not path.is_file():
            return self.send_error(404)
        data = path.read_bytes()
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last or len(data)) + 1]
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("ETag", f'"{hash(data)}"')
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(part)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer | None], str]]:
    servers = []
    for module in ("remote", "index", "patience"):
        monkeypatch.setattr(f"datamodules.shards.{module}.Patience", partial(Patience, pause=0.001))
    monkeypatch.setattr("datamodules.from_shards.Patience", partial(Patience, pause=0.001))

    def start(answer: Answer | None = None) -> str:
        handler = type("One", (Handler,), {"folder": tmp_path, "asked": [], "host": []})
        if answer is not None:
            handler.answer = staticmethod(answer)  # type: ignore[attr-defined]
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def status(code: int, times: int = 10**6) -> Answer:
    left = [times]

    def answer(handler: BaseHTTPRequestHandler, path: Path) -> bool:
        left[0] -= 1
        if left[0] < 0:
            return False
        handler.send_error(code)
        return True

    return answer


def to(place: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler, path: Path) -> bool:
        if path.name.startswith("moved-"):
            return False
        handler.send_response(302)
        handler.send_header("Location", place.replace("NAME", path.name))
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    return answer


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (401, r"requires authentication \(HTTP 401\)"),
        (403, r"denies access \(HTTP 403\)"),
        (404, r"is not there"),
        (410, r"is not there"),
        (503, r"cannot be read \(HTTP 503 Service Unavailable, tried 3 times\)"),
        (500, r"cannot be read \(HTTP 500 .*, tried 3 times\)"),
        (429, r"cannot be read \(HTTP 429 .*, tried 3 times\)"),
    ],
)
def test_each_answer_at_the_start_has_its_sentence(
    serve: Callable[[Answer | None], str], tmp_path: Path, code: int, told: str
) -> None:
    write(tmp_path / "s", 4)
    url = serve(lambda handler, path: path.suffix == ".tar" and status(code)(handler, path))
    shown = url.replace("://", "://joe:hunter22@")
    with warnings.catch_warnings(), pytest.raises(ShardError, match=told) as found:
        warnings.simplefilter("ignore")
        (tmp_path / "s" / "index.json").unlink(missing_ok=True)
        ShardData(f"{shown}/s/shard-000000.tar?token=hunter33").setup()
    assert "hunter" not in str(found.value) and ("is not there" in str(found.value)) == (code in (404, 410))


@pytest.mark.parametrize("code", thinned([500, 429, 502, 408, 503, 504], every=3))
def test_what_passes_is_asked_for_again(serve: Callable[[Answer | None], str], tmp_path: Path, code: int) -> None:
    usual = captions(take(ShardData(write(tmp_path / "s", 8), batch=2), 4))
    shards = f"{serve(status(code, 2))}/s/shard-{{000000..000001}}.tar"
    assert captions(take(ShardData(shards, batch=2), 4)) == usual


@pytest.mark.parametrize("place", ["http://localhost:PORT/moved-NAME", "ftp://127.0.0.1/x.tar", "file:///etc/passwd"])
def test_no_server_leads_to_another_place(serve: Callable[[Answer | None], str], tmp_path: Path, place: str) -> None:
    (tmp_path / "moved-a.tar").write_bytes(b"secret of another host")
    other = serve(None)
    url = serve(to(place.replace("PORT", other.rpartition(":")[2])))
    for look in (size, partial(read_range, offset=0, count=9)):
        with pytest.raises(Exception, match=r"another host than was named") as found:
            Patience(tries=1)(lambda look=look: look(Remote(f"{url}/a.tar")), Remote(url))  # type: ignore[misc]
        assert "secret" not in str(found.value)


def test_another_port_is_another_place(serve: Callable[[Answer | None], str], tmp_path: Path) -> None:
    (tmp_path / "moved-a.tar").write_bytes(b"x")
    other = serve(None)
    with pytest.raises(ShardError, match=r"127\.0\.0\.1 redirects to .*give that address itself"):
        read_range(Remote(f"{serve(to(f'{other}/moved-NAME'))}/a.tar"), 0, 1)


def test_within_its_own_host_a_server_may_lead_on(serve: Callable[[Answer | None], str], tmp_path: Path) -> None:
    (tmp_path / "moved-a.tar").write_bytes(b"here")
    file = Remote(f"{serve(to('/moved-NAME'))}/a.tar")
    assert read_range(file, 0, 4) == b"here" and size(file) == 4


def test_nothing_is_unpacked_on_the_way(serve: Callable[[Answer | None], str], tmp_path: Path) -> None:
    packed = gzip.compress(bytes(50 << 20))

    def answer(handler: BaseHTTPRequestHandler, path: Path) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.send_header("Content-Length", str(len(packed)))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(packed)
        return True

    url = serve(answer)
    for look in (lambda: read_range(Remote(f"{url}/a.tar"), 0, 9), lambda: read_index(Remote(f"{url}/s"))):
        with pytest.raises(ShardError, match="its server compresses files with gzip: disable that"):
            look()


def test_no_more_is_taken_than_was_asked_for(serve: Callable[[Answer | None], str]) -> None:
    def answer(handler: BaseHTTPRequestHandler, path: Path) -> bool:
        handler.send_response(200)
        handler.end_headers()
        with suppress(ConnectionError):
            for _ in range(64 if handler.command == "GET" else 0):
                handler.wfile.write(bytes(1 << 20))
        return True

    file = Remote(f"{serve(answer)}/endless.tar")
    from datamodules.shards.web import WebFiles

    assert len(WebFiles().cat_file(file.url, start=0, end=100)) == 101


def test_no_endless_list_of_files_is_read(
    serve: Callable[[Answer | None], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = [0]

    def answer(handler: BaseHTTPRequestHandler, path: Path) -> bool:
        if path.name == "index.json":
            return False
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html")
        handler.end_headers()
        with suppress(ConnectionError):
            while sent[0] < 64 << 20:
                sent[0] += handler.wfile.write(b"<a href='x.tar'>" * (1 << 14))
        return True

    monkeypatch.setattr("datamodules.shards.web.MOST_LISTED", 1 << 20)
    url = serve(answer)
    for pattern in (f"{url}/s", f"{url}/s/*.tar"):
        with pytest.raises(ShardError, match="more than 1 MB to what should list files: give a brace pattern"):
            find_files(pattern)
    assert sent[0] < 64 << 20
    with pytest.raises(ShardError, match=r"not searched with \*\*: name the folder"):
        find_files(f"{url}/**/*.tar")


@pytest.mark.filterwarnings("ignore:skipping")
def test_a_shard_replaced_on_its_server_is_noticed(serve: Callable[[Answer | None], str], tmp_path: Path) -> None:
    write(tmp_path / "s", 8)
    data = ShardData(f"{serve(None)}/s/shard-{{000000..000001}}.tar", batch=2, memory_gb=0, max_skipped_share=1)
    data.setup()
    shard = tmp_path / "s" / "shard-000001.tar"
    shard.write_bytes(shard.read_bytes().replace(b"clip 4", b"clip X"))
    assert "clip X" not in captions(take(data, 4)) and data.skipped == {"changed shard": 4}


def test_a_skipped_sample_is_written_down_without_secrets(
    serve: Callable[[Answer | None], str], tmp_path: Path
) -> None:
    write(tmp_path / "s", 8)
    url = serve(lambda handler, path: path.name == "shard-000001.tar" and status(503)(handler, path))
    pattern = f"{url.replace('://', '://joe:hunter22@')}/s/shard-{{000000..000001}}.tar?token=hunter33"
    with warnings.catch_warnings(record=True) as warned:
        ShardData(pattern, batch=2, max_skipped_share=1).setup()
    from datamodules.shards.dataset import ShardDataset

    rows = ShardDataset(
        pattern, "latent.npy", None, 0, 1, ledger=tmp_path / "skipped.jsonl", patience=Patience(pause=0.001)
    )
    assert Ledger(tmp_path / "skipped.jsonl", rows.places.digest).counts()
    said = "".join(str(w.message) for w in warned) + (tmp_path / "skipped.jsonl").read_text()
    assert "hunter" not in said and "503" in said


@pytest.mark.parametrize(
    "pattern",
    [
        "pipe:curl -H 'Authorization: Bearer hunter22' https://h/a.tar",
        "ftp://joe:hunter22@h/a.tar",
        "FILE:///etc/x.tar",
    ],
)
def test_what_is_no_place_of_shards_is_refused_without_its_secrets(pattern: str) -> None:
    with pytest.raises(ShardError, match="URLs with") as found:
        ShardData(pattern).setup()
    assert "hunter" not in str(found.value)


def test_every_sentence_about_a_set_is_without_its_secrets(
    serve: Callable[[Answer | None], str], tmp_path: Path
) -> None:
    write(tmp_path / "s", 8)
    url = serve(None).replace("http://", "HTTP://joe:hunter22@")
    shards = f"{url}/s/shard-{{000000..000001}}.tar?token=hunter33/x"
    data = ShardData(shards, batch=16)
    said = [repr(Remote(shards)), str(Remote(shards))]
    for broken in (
        lambda: data.batches(),
        lambda: ShardData(shards, want="video").setup(),
        lambda: ShardData(shards, frames=99).setup(),
        lambda: ShardData(shards.replace("}.tar", "}.zip")).setup(),
        lambda: Clips(shards.replace("shard", "none"), 1, 1, lambda x: x),
    ):
        with warnings.catch_warnings(record=True) as warned, pytest.raises(ShardError) as found:
            warnings.simplefilter("always")
            broken()
        said += [str(found.value), *(str(w.message) for w in warned)]
    assert "hunter" not in "".join(said)


def test_a_secret_that_was_left_out_is_asked_for() -> None:
    with pytest.raises(ShardError, match=r"set data\.shards again, with \$\{oc\.env:NAME\}"):
        ShardData("https://***@host/a.tar").setup()
