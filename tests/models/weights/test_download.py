"""Downloads from a real server on this machine, with all that servers do."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from segkit.models.weights import download
from segkit.models.weights.download import fetch, place
from segkit.system.errors import SegkitError

CONTENT = bytes(range(256)) * 20_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What it does, and which ranges it was asked for."""

    url: str
    content: bytes = CONTENT
    status: int = 200
    kind: str = "application/octet-stream"
    etag: str = '"one"'
    cut_after: int | None = None
    knows_ranges: bool = True
    asked: list[str | None] = field(default_factory=list)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append(wanted)
            resumes = wanted is not None and state.knows_ranges and self.headers.get("If-Range") == state.etag
            start = int(wanted[len("bytes=") : -1]) if wanted is not None and resumes else 0
            if start >= len(state.content) > 0 and resumes:
                self.send_error(416)
                return
            self.send_response(206 if resumes else state.status)
            self.send_header("Content-Type", state.kind)
            self.send_header("Content-Length", str(len(state.content) - start))
            if state.etag:
                self.send_header("ETag", state.etag)
            if resumes:
                self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
            self.end_headers()
            self.wfile.write(state.content[start : state.cut_after])

        def log_message(self, *args: object) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Server(f"http://127.0.0.1:{http.server_port}/models/unet-e012.pt?raw=true")
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield state
    http.shutdown()
    http.server_close()


def names(path: Path) -> set[str]:
    return {file.name for file in path.parent.iterdir() if file.suffix != ".lock"}


def test_a_file_comes_once(server: Server, tmp_path: Path) -> None:
    path = fetch(server.url, SHA256)
    assert path.read_bytes() == CONTENT
    assert path.parent == tmp_path / "cache" / "weights"
    assert path.name.endswith("unet-e012.pt")
    assert fetch(server.url, SHA256.upper()) == fetch(server.url) == path
    assert len(server.asked) == 1
    assert names(path) == {path.name}


def test_two_addresses_never_share_a_file() -> None:
    assert place("https://a.org/model.bin") != place("https://b.org/model.bin")
    assert place("https://a.org/..%2f..%2fetc%2fpasswd").parent == place("https://a.org/x").parent


def test_a_broken_line_is_resumed_where_it_broke(server: Server) -> None:
    server.cut_after = 3_000_000
    with pytest.raises(SegkitError, match=r"was interrupted after 3,000,000 of 5,120,000 bytes;   run it again"):
        fetch(server.url, SHA256)
    server.cut_after = None
    assert fetch(server.url, SHA256).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=3000000-"]


@pytest.mark.parametrize("change", [{"knows_ranges": False}, {"etag": '"two"'}])
def test_what_cannot_be_resumed_starts_again(server: Server, change: dict[str, object]) -> None:
    """The server knows no ranges, or the file is another one by now: halves of two files are never put together."""
    server.cut_after = 3_000_000
    with pytest.raises(SegkitError, match="was interrupted"):
        fetch(server.url)
    server.cut_after, server.content = None, CONTENT[::-1]
    for key, value in change.items():
        setattr(server, key, value)
    assert fetch(server.url).read_bytes() == CONTENT[::-1]


def test_a_part_is_not_trusted_where_the_server_gives_no_mark_of_the_file(server: Server) -> None:
    server.cut_after, server.etag = 3_000_000, ""
    with pytest.raises(SegkitError, match="was interrupted"):
        fetch(server.url)
    server.cut_after = None
    assert fetch(server.url).read_bytes() == CONTENT
    assert server.asked == [None, None]


def test_a_part_as_long_as_the_file_starts_again(server: Server) -> None:
    path = place(server.url)
    path.parent.mkdir(parents=True)
    path.with_name(f"{path.name}.part").write_bytes(b"x" * len(CONTENT))
    path.with_name(f"{path.name}.part.mark").write_text(server.etag)
    assert fetch(server.url, SHA256).read_bytes() == CONTENT


def test_a_wrong_hash_removes_the_file_and_shows_both(server: Server) -> None:
    with pytest.raises(SegkitError, match=f"sha256 {SHA256}, not {'0' * 64}; it was removed"):
        fetch(server.url, "0" * 64)
    assert names(place(server.url)) == set()


def test_a_file_in_the_cache_with_another_hash_is_fetched_again(server: Server) -> None:
    path = place(server.url)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else")
    assert fetch(server.url, SHA256).read_bytes() == CONTENT


def test_a_web_page_is_not_weights(server: Server) -> None:
    server.content, server.kind = b"<html><body>Please sign in</body></html>", "text/html"
    with pytest.raises(SegkitError, match=r"answers with a web page(.|\n)*needs a login or has moved") as caught:
        fetch(server.url)
    assert str(place(server.url)) in str(caught.value)
    assert names(place(server.url)) == set()


def test_an_absent_file_says_where_to_put_it_by_hand(server: Server) -> None:
    server.status = 404
    with pytest.raises(SegkitError, match="404") as caught:
        fetch(server.url, SHA256)
    assert all(part in str(caught.value) for part in (server.url, str(place(server.url)), SHA256))


def test_offline_a_file_put_by_hand_is_taken(server: Server) -> None:
    nobody = "http://127.0.0.1:9/unet.pt"
    with pytest.raises(SegkitError, match=r"cannot be downloaded(.|\n)*put it at") as caught:
        fetch(nobody, SHA256)
    path = Path(str(caught.value).split("put it at  ")[1].split(";")[0])
    path.write_bytes(CONTENT)
    assert fetch(nobody, SHA256) == path


def test_a_server_that_falls_silent_is_not_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.05)
    silence = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # listens, but nobody answers
    with pytest.raises(SegkitError, match=r"timed out(.|\n)*put it at"):
        fetch(f"http://127.0.0.1:{silence.server_port}/unet.pt")
    silence.server_close()


def test_file_addresses_are_copied_and_others_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(CONTENT)
    assert fetch((tmp_path / "w.pt").as_uri(), SHA256).read_bytes() == CONTENT
    for address in ("ftp://a.org/w.pt", "w.pt", "data:,abc"):
        with pytest.raises(SegkitError, match="http, https and file"):
            fetch(address)


def test_jobs_that_start_together_fetch_once(server: Server) -> None:
    paths: list[Path] = []
    jobs = [threading.Thread(target=lambda: paths.append(fetch(server.url, SHA256))) for _ in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert len(paths) == 4
    assert len(server.asked) == 1
    assert paths[0].read_bytes() == CONTENT
