"""Shards behind a URL: the same stream as from a disk, by byte ranges, without a copy."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import fsspec
import pytest

from datamodules.clips import ShardData
from datamodules.shards.index import find_shards, read_shard
from datamodules.shards.patience import Patience
from datamodules.shards.remote import Remote, is_remote, read_index
from datamodules.shards.shard_error import ShardError
from tests.datamodules.test_clips import captions, take, write


class Handler(SimpleHTTPRequestHandler):
    """A folder with byte ranges; `refuse` makes so many answers fail first."""

    ranges = True
    refuse = 0
    refused = ".tar"
    asked: list[tuple[str, str | None]] = []  # noqa: RUF012 - one server at a time

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.asked.append((self.path, wanted))
        if Handler.refuse > 0 and self.path.endswith(Handler.refused):
            Handler.refuse -= 1
            return self.send_error(503)
        path = Path(self.translate_path(self.path))
        if not (self.ranges and wanted and path.is_file()):
            return super().do_GET()
        data = path.read_bytes()
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last or len(data)) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., str]]:
    servers = []

    def start(ranges: bool = True) -> str:
        Handler.ranges, Handler.refuse, Handler.refused, Handler.asked = ranges, 0, ".tar", []
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Callable[[Path, str], str]]:
    filesystem = fsspec.filesystem("memory")

    def upload(folder: Path, name: str) -> str:
        for path in folder.iterdir():
            filesystem.pipe(f"/{name}/{path.name}", path.read_bytes())
        return f"memory://{name}"

    yield upload
    filesystem.store.clear()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("index", [True, False])
def test_a_bucket_gives_the_stream_of_a_disk(
    tmp_path: Path, memory: Callable[[Path, str], str], index: bool, workers: int
) -> None:
    here = write(tmp_path / "s", 13)
    usual = captions(take(ShardData(here, batch=3), 9))
    if not index:
        (tmp_path / "s" / "index.json").unlink()
    url = memory(tmp_path / "s", "bucket")
    data = ShardData(url, batch=3, workers=workers)
    assert captions(list(islice(iter(data.train_dataloader()), 9))) == usual
    for pattern in (f"{url}/*.tar", f"{url}/shard-{{000000..000003}}.tar", f"{url}/"):
        assert captions(take(ShardData(pattern, batch=3), 9)) == usual
    assert ShardData(here).rows is None and data.rows is not None
    local = ShardData(here, batch=3)
    local.setup()
    assert local.rows is not None
    both = [{k: v for k, v in rows.identity.items() if k != "files"} for rows in (local.rows, data.rows)]
    assert both[0] == both[1], "a set may move while a run stands"
    assert ("content" in both[0]) == index


def test_with_an_index_a_shard_is_opened_when_it_is_wanted(tmp_path: Path, memory: Callable[[Path, str], str]) -> None:
    write(tmp_path / "s", 200)
    data = ShardData(memory(tmp_path / "s", "bucket"), batch=2)
    data.setup()
    assert data.rows is not None and len(data.rows) == 200
    assert sum(shard.samples is not None for shard in data.rows.places.shards) < 5


@pytest.mark.parametrize("ranges", [True, False])
def test_a_web_server_gives_the_stream_of_a_disk(tmp_path: Path, serve: Callable[..., str], ranges: bool) -> None:
    here = write(tmp_path / "s", 9)
    usual = captions(take(ShardData(here, batch=3), 6))
    url = serve(ranges)
    assert captions(take(ShardData(f"{url}/s", batch=3), 6)) == usual
    loader = ShardData(f"{url}/s/shard-{{000000..000002}}.tar", batch=3, workers=2).train_dataloader()
    assert captions(list(islice(iter(loader), 6))) == usual
    (tmp_path / "s" / "index.json").unlink()
    assert captions(take(ShardData(f"{url}/s", batch=3), 6)) == usual, "listed by the server's own page"
    assert read_shard(find_shards(f"{url}/s/shard-000000.tar")[0])[0].key == "clip-000"
    if ranges:
        asked = [wanted for path, wanted in Handler.asked if path.endswith(".tar")]
        assert asked and None not in asked, "a shard is never fetched whole"


def test_a_server_that_fails_now_and_then_is_asked_again(tmp_path: Path, serve: Callable[..., str]) -> None:
    usual = captions(take(ShardData(write(tmp_path / "s", 9), batch=3), 6))
    url = serve()
    data = ShardData(f"{url}/s", batch=3)
    data.setup()
    assert data.rows is not None
    data.rows.patience.pause = 0.01
    Handler.refuse = 2
    assert captions(take(data, 6)) == usual and not data.skipped


@pytest.mark.filterwarnings("ignore:skipping")
def test_a_shard_out_of_reach_comes_back(tmp_path: Path, serve: Callable[..., str]) -> None:
    usual = captions(take(ShardData(write(tmp_path / "s", 40), batch=4), 10))
    data = ShardData(f"{serve()}/s", batch=4, max_skipped_share=1)
    data.setup()
    assert data.rows is not None
    data.rows.patience.pause = 0.001
    Handler.refuse, Handler.refused = 10_000, "shard-000007.tar"
    got = captions(take(data, 10))
    away = {f"clip {i}" for i in range(28, 32)}
    assert not away & set(got) and data.skipped == {"out of reach": 4}
    assert [g for g, u in zip(got, usual, strict=True) if u not in away] == [u for u in usual if u not in away]
    Handler.refuse = 0
    assert captions(take(data, 10)) == usual


def test_a_shard_that_is_not_there_keeps_its_places(tmp_path: Path, serve: Callable[..., str]) -> None:
    usual = captions(take(ShardData(write(tmp_path / "s", 40), batch=4), 10))
    url = serve()
    (tmp_path / "s" / "shard-000004.tar").unlink()
    gone = {f"clip {i}" for i in range(16, 20)}
    with pytest.warns(UserWarning, match="is not there"):
        data = ShardData(f"{url}/s", batch=4, max_skipped_share=0.1)
        got = captions(take(data, 10))
    assert [g for g, u in zip(got, usual, strict=True) if u not in gone] == [u for u in usual if u not in gone]
    assert data.skipped == {"vanished shard": 4}


def test_nothing_there_is_said(tmp_path: Path, serve: Callable[..., str], memory: Callable[[Path, str], str]) -> None:
    url = serve()
    for missing in (f"{url}/no/such.tar", "memory://no/such.tar", "memory://no/*.tar"):
        with warnings.catch_warnings(), pytest.raises(ShardError, match=r"is not there|no shard matches"):
            warnings.simplefilter("ignore")
            ShardData(missing).setup()


@pytest.mark.skipif(find_spec("s3fs") is not None, reason="s3fs is installed, and would ask the network")
def test_a_store_without_its_client_says_what_to_install() -> None:
    with pytest.raises(ShardError, match="needs `pip install s3fs`"):
        ShardData("s3://bucket/a.tar").setup()


def test_an_index_out_of_reach_is_not_taken_for_none(
    tmp_path: Path, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or processes would disagree about what the set is."""
    monkeypatch.setattr("datamodules.shards.remote.Patience", partial(Patience, pause=0.01))
    write(tmp_path / "s", 9)
    url = serve()
    Handler.refuse, Handler.refused = 2, "index.json"
    assert len(find_shards(f"{url}/s")) == 3
    Handler.refuse = 99
    with pytest.raises(ShardError, match=r"index\.json cannot be read .*503.*try again"):
        find_shards(f"{url}/s")


@pytest.mark.parametrize("name", ["../a.tar", "/etc/a.tar", "a/b.tar", "..", "a.zip", ".tar"])
def test_an_index_names_files_of_its_folder_only(tmp_path: Path, name: str) -> None:
    (tmp_path / "index.json").write_text(f'{{"shards": [{{"name": "{name}", "samples": 3}}]}}')
    with pytest.raises(ShardError, match="which is not a shard of its folder"):
        read_index(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"shards": [3]}', '{"shards": [{"name": "a.tar"}]}', "[" * 100_000])
def test_an_index_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(ShardError, match="is not readable"):
        read_index(tmp_path)


def test_urls_are_told_without_their_secrets() -> None:
    url = Remote("https://user:secret@host/a/b.tar?token=secret")
    assert str(url) == "https://host/a/b.tar" and url.name == "b.tar"
    assert is_remote("gs://a/b") and not is_remote("/a/b.tar") and not is_remote("C:/a")
