"""The command `gigpo-server`: `vllm serve` with what training needs, bound to loopback unless told otherwise."""

import argparse
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence

import torch

from gigpo_lightning.engines.vllm_server.guard import MIDDLEWARE, check_key
from gigpo_lightning.engines.vllm_weights import EXTENSION
from gigpo_lightning.listening import check_free, is_loopback

_CPU_ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # vLLM compiles small functions such as the gathering of logprobs anew for every shape: minutes of a CPU.
    "TORCHDYNAMO_DISABLE": "1",
    # The engine has a process of its own; its worker needs no other, which vLLM begins to bind threads.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
_CPU_OPTIONS = (
    *("--dtype", "float32", "--enforce-eager", "--no-async-scheduling"),
    # vLLM rewinds the random state of a request whose prefill was cut, which a CPU generator cannot do.
    *("--no-enable-chunked-prefill", "--kv-cache-memory-bytes", str(1 << 29)),
)
_OPTIONS = (
    *("--skip-tokenizer-init", "--tokens-only", "--load-format", "dummy", "--generation-config", "vllm"),
    *("--logprobs-mode", "processed_logprobs", "--enable-prefix-caching"),
    *("--disable-access-log-for-endpoints", "/inference/v1/generate"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Become a vLLM server that `VLLMServerEngine` can train with."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command, environment = server_command(arguments)
    parser, ours, theirs = _parse(arguments)
    try:
        if "--uds" not in theirs:
            check_free(ours.host, ours.port)  # vLLM would say so in a traceback, after most of a minute
    except ValueError as error:
        parser.error(str(error))
    os.execve(command[0], command, environment)


def server_command(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of a server.

    Args:
        arguments: The model, our options, and any others of ``vllm serve``.

    Returns:
        The program with its arguments, and all environment variables.
    """
    parser, ours, theirs = _parse(arguments)
    environment = dict(os.environ)
    _refuse_open_doors(parser, ours, theirs, environment)
    environment["VLLM_PLUGINS"] = ",".join(dict.fromkeys([*_plugins(environment), "gigpo"]))
    environment.setdefault("VLLM_NO_USAGE_STATS", "1")
    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        environment = _CPU_ENVIRONMENT | environment
    options = [*_OPTIONS, *(_CPU_OPTIONS if on_cpu else ())]
    options += [
        "--worker-extension-cls",
        EXTENSION,
        "--weight-transfer-config",
        f'{{"backend": "{ours.weight_transfer}"}}',
        *theirs,
    ]
    options += ["--api-key", *ours.api_key] if ours.api_key else []
    # Last: nothing before them opens another door, and this middleware stands before all others.
    options += ["--middleware", MIDDLEWARE, "--host", ours.host, "--port", str(ours.port)]
    return [*_vllm_serve(parser), ours.model, *options], environment


def _parse(arguments: Sequence[str]) -> tuple[argparse.ArgumentParser, argparse.Namespace, list[str]]:
    """Our parser, our options, and what is left for vLLM."""
    parser = argparse.ArgumentParser(
        prog="gigpo-server",
        allow_abbrev=False,
        description="Start a vLLM server for rollout.VLLMServerEngine. Options that are not listed are vLLM's own. The "
        "server's weights are made up until a trainer brings its own.",
    )
    parser.add_argument("model", help="folder or hub name of the policy's checkpoint; only its configuration is read")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: loopback)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    parser.add_argument(
        "--weight-transfer",
        choices=("folder", "nccl"),
        default="nccl" if torch.cuda.is_available() else "folder",
        help="how weights arrive: through a folder that both sides see, or from GPU to GPU (default: by the device)",
    )
    parser.add_argument(
        "--api-key",
        "--api_key",
        nargs="+",
        metavar="KEY",
        help="secrets, one of which a client must send for everything but /health, in place of VLLM_API_KEY; other "
        "users of this machine can read a command line",
    )
    if arguments and arguments[0].startswith("-") and arguments[0] not in ("-h", "--help"):
        parser.error(f"the model comes first, before any option, got {arguments[0]}")
    if any(option.startswith(("--worker-extension-cls", "--worker_extension_cls")) for option in arguments):
        parser.error(
            "--worker-extension-cls must be left out: the workers have one that shows the trainer their weights"
        )
    if "--" in arguments:
        parser.error("options are vLLM's own as they are; leave out --")
    return parser, *parser.parse_known_args(arguments)


def _refuse_open_doors(
    parser: argparse.ArgumentParser, ours: argparse.Namespace, theirs: Sequence[str], environment: Mapping[str, str]
) -> None:
    """A server that others can reach must ask who they are, and must not run what they send."""
    secret = environment.get("VLLM_API_KEY")
    try:
        for key in ours.api_key or []:
            check_key(key, "--api-key")
        if secret:
            check_key(secret, "VLLM_API_KEY")
    except ValueError as error:
        parser.error(str(error))
    if any(option.startswith("--grpc") for option in theirs):
        parser.error("--grpc must be left out: it opens doors that ask for no key, and the trainer speaks HTTP")
    if environment.get("VLLM_USE_RUST_FRONTEND", "0") != "0":
        parser.error("VLLM_USE_RUST_FRONTEND must not be set: the routes of training are in vLLM's Python server")
    if is_loopback(ours.host):
        return
    if not secret and not ours.api_key:
        parser.error(
            f"--host {ours.host} can be reached from other machines: set VLLM_API_KEY to a secret, here and for the "
            "trainer"
        )
    for name in ("VLLM_SERVER_DEV_MODE", "VLLM_ALLOW_INSECURE_SERIALIZATION"):
        if environment.get(name, "0") != "0":
            parser.error(f"--host {ours.host} can be reached from other machines: {name} must not be set, got a value")


def _plugins(environment: Mapping[str, str]) -> list[str]:
    """Plugins that vLLM would load: naming one more must not leave the others out."""
    if "VLLM_PLUGINS" in environment:
        return [name for name in environment["VLLM_PLUGINS"].split(",") if name]
    opt_in = "vllm.endpoint_plugins"
    found = importlib.metadata.entry_points()
    groups = [group for group in found.groups if group.startswith("vllm.") and group != opt_in]
    return sorted({each.name for group in groups for each in found.select(group=group)})


def _vllm_serve(parser: argparse.ArgumentParser) -> list[str]:
    """`vllm serve`, up to its model.

    The package for CPUs has another name, which vLLM's command cannot live with; there its server's module serves.
    """
    if importlib.util.find_spec("vllm") is None:
        parser.error("vLLM is not installed: make install (CPU) or make install EXTRA=cuda")
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model"]
    return [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve"]
