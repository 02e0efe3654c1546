"""A port that somebody else has is named before a server loads what it serves."""

import os
import socket
import subprocess
import sys

import pytest

from gigpo_lightning.engines.vllm_server.command import main as server
from gigpo_lightning.listening import check_free, is_loopback
from gigpo_lightning.retrieval.server import main as retriever

ECHO = "tests.retrieval.troubled_server.EchoRetriever"


@pytest.fixture
def used_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


class Started(Exception):
    """A server would now begin to load."""


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch):
    def start(*arguments):
        raise Started

    monkeypatch.setattr(os, "execve", start)


def test_a_used_port_is_named(used_port, capsys):
    with pytest.raises(SystemExit, match="2"):
        server(["some/model", "--port", str(used_port)])
    assert capsys.readouterr().err.splitlines()[-1] == (
        "gigpo-server: error: --host and --port must be an address that nobody listens on, got "
        f"127.0.0.1:{used_port} (Address already in use)"
    )


def test_a_retriever_names_a_used_port_before_it_reads_its_index(used_port, capsys):
    arguments = ["--retriever", "gigpo_lightning.retrieval.Bm25Retriever", "--retriever.corpus_path", "/nowhere"]
    with pytest.raises(SystemExit, match="2"):
        retriever([*arguments, "--port", str(used_port)])
    assert f"got 127.0.0.1:{used_port} (Address already in use)" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("host", "port"), [("203.0.113.7", 8000), ("127.0.0.1", -1), ("127.0.0.1", 65536)])
def test_an_address_that_cannot_be_listened_on_is_refused(host, port):
    with pytest.raises(ValueError, match=f"got {host}:{port}"):
        check_free(host, port)


def test_a_free_port_is_not_kept(used_port):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    check_free("127.0.0.1", port)
    with pytest.raises(Started):
        server(["some/model", "--port", str(port)])
    check_free("", 0)


def test_a_retriever_that_listens_on_a_name_is_served(repository_root):
    options = ["--host", "localhost", "--port", "0", "--retriever", ECHO]
    process = subprocess.Popen(
        [sys.executable, "-c", "from gigpo_lightning.retrieval.server import main; main()", *options],
        env=os.environ | {"PYTHONPATH": str(repository_root)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr.readline().startswith("serving EchoRetriever on http://localhost:")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.1", "::1"])
def test_loopback_is_this_machine_alone(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "10.1.2.3", "node7", "localhost.example.org"])
def test_others_reach_everything_else(host):
    assert not is_loopback(host)
