"""The command line."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from testcluster import cluster, dns, e2e, images, node, policy_agent, provisioner
from testcluster.config import DNS_SERVICE_IP, Paths, beside_proxies
from testcluster.resolver import Split, resolver_file
from testcluster.shell import Refusal


def main() -> int:
    parser = _parser()
    given = sys.argv[1:]
    # What belongs to kubectl must keep its order, and its options.
    own, kubectls = (given[:1], given[1:]) if given[:1] == ["kubectl"] else (given, [])
    arguments, rest = parser.parse_known_args(own)
    rest += kubectls
    if rest and arguments.command not in ("e2e", "kubectl", "selftest"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    paths = Paths.from_environment()
    try:
        return _run(arguments, rest, paths)
    except (Refusal, OSError) as refusal:
        sys.stderr.write(f"testcluster: {refusal}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="testcluster", description="A real one-node Kubernetes for tests.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start the cluster, building what the cache lacks")
    down = commands.add_parser("down", help="end the cluster and remove every trace of it but the cache")
    down.add_argument("--verify", action="store_true", help="fail if anything is left")
    commands.add_parser("status", help="say how every component is; fails if one is not well")
    commands.add_parser("kubeconfig", help="print the path of the administrator's kubeconfig")
    load = commands.add_parser("load", help="load an image into the node")
    load.add_argument("image", help="a name in our store or a Docker engine's, or an archive")
    make = commands.add_parser("build", help="build a Dockerfile and load the image into the node")
    make.add_argument("tag")
    make.add_argument("context", type=Path)
    make.add_argument("--file", type=Path)
    save = commands.add_parser("archive", help="build a Dockerfile into an archive for a Docker engine; needs no node")
    save.add_argument("tag")
    save.add_argument("context", type=Path)
    save.add_argument("archive", type=Path)
    save.add_argument("--file", type=Path, required=True)
    ask = commands.add_parser("resolve", help="ask the cluster's DNS, from the host")
    ask.add_argument("name")
    ask.add_argument("type", nargs="?", default="A", choices=sorted(dns.TYPES))
    execute = commands.add_parser("exec", help="run a command that resolves names through the cluster's DNS")
    execute.add_argument("argv", nargs=argparse.REMAINDER)
    pause = commands.add_parser(
        "pause", help="stop one component where it is; its connections stay and are not answered"
    )
    pause.add_argument("component")
    pause.add_argument("seconds", nargs="?", type=_seconds, help="how long; without it, until resume")
    resume = commands.add_parser("resume", help="let a paused component go on")
    resume.add_argument("component")
    commands.add_parser("kubectl", help="run the cluster's own kubectl; all that follows is for it", add_help=False)
    kill = commands.add_parser("kill", help="kill one component; it is started again")
    kill.add_argument("component")
    commands.add_parser("prepare", help="fill the cache without starting anything")
    commands.add_parser("e2e", help="run the end-to-end tests; further arguments go to pytest")
    commands.add_parser("e2e-needs-root", help="succeed where the end-to-end tests would need root")
    commands.add_parser("selftest", help="test the cluster's own tools; ends the cluster that runs")
    internal = commands.add_parser("internal")
    internal.add_argument("part", choices=("node", "policy_agent", "provisioner"))
    internal.add_argument("--cache", type=Path, required=True)
    internal.add_argument("--home", type=Path, required=True)
    return parser


def _run(arguments: argparse.Namespace, rest: list[str], paths: Paths) -> int:
    match arguments.command:
        case "up":
            cluster.up(paths)
        case "down":
            cluster.down(paths, arguments.verify)
        case "status":
            return 0 if cluster.status(paths) else 1
        case "kubeconfig":
            cluster.require_up(paths)
            print(paths.kubeconfig)
        case "load":
            cluster.require_up(paths)
            images.load(paths, arguments.image)
        case "build":
            cluster.require_up(paths)
            images.build(paths, arguments.tag, arguments.context, arguments.file)
        case "archive":
            images.build_archive(paths, arguments.tag, arguments.context, arguments.file, arguments.archive)
        case "resolve":
            return _resolve(arguments.name, arguments.type)
        case "exec":
            cluster.require_up(paths)
            return _exec(paths, arguments.argv)
        case "kill":
            cluster.restart_component(paths, arguments.component)
        case "pause":
            cluster.pause(paths, arguments.component, arguments.seconds)
        case "resume":
            cluster.resume(paths, arguments.component)
        case "kubectl":
            return cluster.kubectl(paths, rest)
        case "prepare":
            cluster.prepare(paths)
        case "e2e-needs-root":
            return 0 if e2e.needs_root(paths) else 1
        case "e2e":
            return e2e.run_tests(paths, rest)
        case "selftest":
            return e2e.run_selftest(paths, rest)
        case "internal":
            _internal(arguments.part, Paths(arguments.cache, arguments.home))
    return 0


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError("a pause lasts longer than 0 seconds, and ends")
    return seconds


def _resolve(name: str, record: str) -> int:
    try:
        answer = dns.resolve(name, record)
    except OSError as error:
        raise Refusal(f"the cluster's DNS at {DNS_SERVICE_IP} does not answer: {error}") from error
    print("\n".join(answer.records + [f"; {line}" for line in answer.additional]) or answer.code)
    return 0 if answer.records else 1


def _exec(paths: Paths, argv: list[str]) -> int:
    """Run a command in a mount namespace of its own, where only it sees the cluster's resolver."""
    command = argv[1:] if argv[:1] == ["--"] else argv
    if not command:
        raise Refusal("exec needs a command")
    hosts = Path("/etc/resolv.conf").read_text()
    with Split(hosts) as split, tempfile.NamedTemporaryFile("w", dir=paths.config, prefix="resolv-") as resolver:
        resolver.write(resolver_file(hosts, split.address))
        resolver.flush()
        script = 'mount --bind "$0" "$(readlink -f /etc/resolv.conf)" && exec "$@"'
        isolated = ["unshare", "--mount", "sh", "-ec", script, resolver.name, *command]
        return subprocess.run(isolated, check=False, env=beside_proxies(os.environ)).returncode


def _internal(part: str, paths: Paths) -> None:
    match part:
        case "node":
            node.run_node(paths)
        case "policy_agent":
            policy_agent.serve(paths)
        case "provisioner":
            provisioner.serve(paths)
