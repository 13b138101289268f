"""Every setting, read once and frozen. The environment is read here and nowhere else.

A setting `some_name` is the option `--some-name` and the variable `MCP_JUPYTER_SOME_NAME`; an option wins over the
variable, the variable over the default. `aliases` are names other servers' guides use (`ROOM_ID`, `JUPYTER_TOKEN`).
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

from . import __version__
from .addresses import Address, check_address, check_token
from .errors import InvalidRequest
from .values import PREFIX, convert, from_environ

JUPYTER = "jupyter"
SERVERAPP = "serverapp"
"""The backends of a Jupyter that we are beside, and of the one that we are in."""
RUN_INSTANCE = re.compile(r"run-[0-9a-f]{10}")
"""The installations of the command `run`: each run has one of its own, which nobody comes back to."""
LogLevel = Literal["debug", "info", "warning", "error"]
_ADDRESSES = ("jupyter_url", "room_url", "runtime_url")
_TOKENS = ("jupyter_token", "room_token", "runtime_token")
Transport = Literal["stdio", "streamable-http"]
KernelAccess = Literal["direct", "port-forward"]


def _setting(default: Any, text: str, *aliases: str, group: str) -> Any:
    factory = default if callable(default) else None
    metadata = {"help": text, "aliases": aliases, "group": group}
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def _state_dir() -> Path:
    from platformdirs import user_state_path  # noqa: PLC0415 - 2 ms that a given --state-dir saves

    return user_state_path("mcp-server-jupyter", appauthor=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one server. Built by `Settings.load`."""

    root: Path = _setting(Path.cwd, "Folder of the notebooks; nothing outside it is read or written.", group="Root")
    notebook: str | None = _setting(
        None,
        "Default notebook, relative to the root, for calls that name none; made if it is not there.",
        "ROOM_ID",
        group="Notebooks",
    )
    contents: str = _setting("files", "Where notebooks live: the name of a contents backend.", group="Backends")
    kernels: str = _setting("local", "Where code runs: the name of a kernels backend.", group="Backends")
    jupyter_url: str | None = _setting(
        None,
        "Address of a Jupyter server, with its base URL and without a token: notebooks are its files and code runs in "
        "its kernels (`--contents jupyter --kernels jupyter`), and JUPYTER_TOKEN is the token for it.",
        group="Backends",
    )
    jupyter_token: str | None = _setting(None, "Token for the Jupyter server.", group="Backends")
    room_url: str | None = _setting(
        None,
        "Address of the Jupyter server whose notebooks are meant, where it is not --jupyter-url; alone, of its "
        "kernels as well.",
        "ROOM_URL",
        group="Backends",
    )
    room_token: str | None = _setting(None, "Token for --room-url.", "ROOM_TOKEN", group="Backends")
    runtime_url: str | None = _setting(
        None,
        "Address of the Jupyter server whose kernels are meant, where it is not --jupyter-url; alone, of its "
        "notebooks as well.",
        "RUNTIME_URL",
        group="Backends",
    )
    runtime_token: str | None = _setting(None, "Token for --runtime-url.", "RUNTIME_TOKEN", group="Backends")
    place: str | None = _setting(
        None,
        "Name that the state of work at a Jupyter goes by where its address changes with every start; absent, the "
        "address.",
        group="Backends",
    )
    runtime_id: str | None = _setting(
        None,
        "Id of the kernel that the default notebook is to run on, one that is there.",
        "RUNTIME_ID",
        group="Kernels",
    )
    start_new_runtime: bool = _setting(
        True,
        "Start a kernel for a notebook that has none when a cell of it is run; otherwise only where start_kernel or a "
        "person does.",
        "START_NEW_RUNTIME",
        group="Kernels",
    )
    kernel_name: str = _setting("python3", "Kernelspec for notebooks that name none.", group="Kernels")
    python: str | None = _setting(
        None,
        "Python interpreter (with ipykernel) that runs notebooks of python3, of the default kernelspec and of "
        "those that are not registered; absent, docs/python.md says which does.",
        group="Kernels",
    )
    host: str = _setting("127.0.0.1", "Address to listen on.", group="HTTP")
    port: int = _setting(4040, "Port to listen on; 0 takes a free one.", "PORT", group="HTTP")
    token: str | None = _setting(
        None,
        "Bearer token of the HTTP doors; absent, one is made and kept in the state directory.",
        "JUPYTER_TOKEN",
        group="HTTP",
    )
    no_auth: bool = _setting(
        False, "Serve HTTP without a token. Only on a machine you share with nobody.", group="HTTP"
    )
    allowed_hosts: tuple[str, ...] = _setting(
        (), "More Host names to accept (comma separated), e.g. a service name; `name:*` for any port.", group="HTTP"
    )
    allowed_origins: tuple[str, ...] = _setting(
        (), "More Origins to accept (comma separated) from browsers.", group="HTTP"
    )
    state_dir: Path = _setting(
        _state_dir, "Your token and, for each root apart, journal, log and running kernels.", group="Server"
    )
    journal_days: float = _setting(30.0, "Days the journal remembers executions and edits.", group="Server")
    journal_megabytes: int = _setting(512, "Megabytes the journal may hold; the oldest goes first.", group="Server")
    log_level: LogLevel = _setting("info", "How much goes to stderr.", group="Server")
    log_json: bool = _setting(False, "Log one JSON object a line.", group="Server")
    max_chars: int = _setting(
        8_000, "Characters of text in one answer; the rest stays behind a handle.", group="Answers"
    )
    max_images: int = _setting(4, "Images in one answer.", group="Answers")
    max_image_bytes: int = _setting(
        1_000_000, "Bytes of one image in an answer; bigger ones are scaled down.", group="Answers"
    )
    max_body_bytes: int = _setting(64 * 2**20, "Bytes of one HTTP request.", group="HTTP")
    max_notebook_bytes: int = _setting(200 * 2**20, "Bytes of a notebook file.", group="Notebooks")
    max_output_bytes: int = _setting(
        32 * 2**20, "Bytes of outputs kept for one cell; the rest is counted, not kept.", group="Answers"
    )
    max_kernels: int = _setting(100, "Kernels at once.", group="Kernels")
    rate_limit: int = _setting(
        6_000, "HTTP requests a minute from one address before 429; 0 for no limit.", group="HTTP"
    )
    wait_seconds: float = _setting(
        45.0, "How long an execution tool waits before it answers with a handle.", group="Answers"
    )
    embedded: bool = _setting(
        False, "Serve stdio in the process itself, not through the root's own server: for containers.", group="Server"
    )
    linger_minutes: float = _setting(
        60.0, "How long the root's server and its kernels stay after the last client has gone.", group="Server"
    )
    grace_seconds: float = _setting(10.0, "How long running cells may go on after SIGTERM.", group="Server")
    keep_kernels: bool = _setting(
        False, "Leave kernels running when the server ends; the next one adopts them.", group="Kernels"
    )
    cull_idle_seconds: float = _setting(
        0.0,
        "Seconds after which a kernel that does nothing is shut down, with notice before; 0 never.",
        group="Kernels",
    )
    orphan_hours: float = _setting(
        12.0, "Hours a kernel may outlive its server before it ends itself.", group="Kernels"
    )
    fast_kernels: bool = _setting(True, "Start Python kernels with the settings that answer fastest.", group="Kernels")
    fork_kernels: bool = _setting(
        True,
        "Fork Python kernels from a process that has imported ipykernel, where that is safe; docs/kernels.md says "
        "where.",
        group="Kernels",
    )
    warm_kernels: int = _setting(
        0,
        "Forked kernels kept waiting of each kind that was used last, so that a start takes milliseconds; 0 for none.",
        group="Kernels",
    )
    preload: tuple[str, ...] = _setting(
        (), "Modules (comma separated) that forked kernels have imported already, e.g. pandas.", group="Kernels"
    )
    kernel_profiles: Path | None = _setting(
        None, "YAML file of the ways to start a kernel pod; absent, `python3` in the kernel image.", group="Kubernetes"
    )
    kernel_image: str = _setting(
        f"mcp-server-jupyter/kernel:{__version__}", "Image of kernel pods whose profile names none.", group="Kubernetes"
    )
    schedule_seconds: float = _setting(
        120.0, "How long a kernel pod may wait for a node, which an autoscaler may have to add.", group="Kubernetes"
    )
    kernel_access: KernelAccess = _setting(
        "direct",
        "How kernel pods are reached: at their own address, or through the API server (slower, from anywhere).",
        group="Kubernetes",
    )
    namespace: str | None = _setting(
        None, "Namespace of the kernel pods; absent, the kubeconfig context's.", "POD_NAMESPACE", group="Kubernetes"
    )
    pod_name: str | None = _setting(
        None, "The server's own pod; absent, the host name where it runs in one.", "POD_NAME", group="Kubernetes"
    )
    instance: str | None = _setting(
        None,
        "What keeps this installation's kernels apart from others in the namespace; absent, the label "
        "app.kubernetes.io/instance of the server's own pod, else a name made from host and root.",
        group="Kubernetes",
    )
    kubeconfig: str | None = _setting(
        None,
        "The kubeconfig file; absent, the pod's own account, else $KUBECONFIG, else ~/.kube/config.",
        group="Kubernetes",
    )
    tasks: Path | None = _setting(
        None, "Folder of the tutor's tasks: notebooks with their solutions and tests.", group="Hub"
    )
    checks: int = _setting(20, "Learners' works that are checked at once.", group="Hub")
    gateway_port: int = _setting(5005, "Port of the gateway; 0 takes a free one.", "GATEWAY_PORT", group="Gateway")
    max_notebook_size_mb: float = _setting(5.0, "Megabytes of one request.", "MAX_NOTEBOOK_SIZE_MB", group="Gateway")
    execution_timeout: float = _setting(
        300.0,
        "Seconds a whole notebook may run, the start of its kernel left out.",
        "EXECUTION_TIMEOUT",
        group="Gateway",
    )
    kernel_start_timeout: float = _setting(
        60.0, "Seconds a kernel may take to start.", "KERNEL_START_TIMEOUT", group="Gateway"
    )
    allowed_kernels: tuple[str, ...] = _setting(
        ("python3", "python"), "Kernelspecs that notebooks may ask for.", "ALLOWED_KERNELS", group="Gateway"
    )
    allowed_languages: tuple[str, ...] = _setting(
        ("python",), "Languages that notebooks may be written in.", "ALLOWED_LANGUAGES", group="Gateway"
    )
    result_tag: str = _setting(
        "results", "Tag of the cell whose output is the result where nothing was glued.", "RESULT_TAG", group="Gateway"
    )
    use_scrapbook: bool = _setting(
        True, "Whether scraps (`glue`) are the results, where there are any.", "USE_SCRAPBOOK", group="Gateway"
    )
    workers: int = _setting(0, "Notebooks that run at once; 0, as many as there are CPUs.", group="Gateway")
    queue: int = _setting(100, "Notebooks that may wait; more are refused.", group="Gateway")
    run_keep_hours: float = _setting(24.0, "Hours a run is kept after its end.", "RUN_KEEP_HOURS", group="Gateway")
    run_keep_megabytes: int = _setting(
        2048, "Megabytes that the runs kept may take; the oldest goes first.", "RUN_KEEP_MEGABYTES", group="Gateway"
    )
    keep_failed_seconds: float = _setting(
        600.0,
        "Seconds the kernel of a run that failed in a cell is kept, to go on from there; 0 never.",
        "KEEP_FAILED_SECONDS",
        group="Gateway",
    )
    hub_api_url: str | None = _setting(
        None, "Address of the hub's API, e.g. http://hub:8081/hub/api.", "JUPYTERHUB_API_URL", group="Hub"
    )
    hub_api_token: str | None = _setting(
        None, "The service's own token at the hub; it is sent to the hub alone.", "JUPYTERHUB_API_TOKEN", group="Hub"
    )
    hub_url: str | None = _setting(
        None,
        "Address of the hub's proxy, where users' servers are, e.g. http://proxy-public; absent, what the hub itself "
        "says (its public_url).",
        group="Hub",
    )
    hub_service_url: str | None = _setting(
        None,
        "Address that a hub which manages the service has it listen at, instead of --host and --port.",
        "JUPYTERHUB_SERVICE_URL",
        group="Hub",
    )
    hub_service_prefix: str = _setting(
        "/", "What the paths of the service begin with.", "JUPYTERHUB_SERVICE_PREFIX", group="Hub"
    )
    hub_service_name: str | None = _setting(
        None, "The service's name at the hub.", "JUPYTERHUB_SERVICE_NAME", group="Hub"
    )
    staff_group: str | None = _setting(
        None, "Group of the hub whose members may work in others' servers; absent, nobody may.", group="Hub"
    )
    allow_terminal: bool = _setting(
        False, "Offer run_in_terminal, which types commands into terminals of a Jupyter.", group="Server"
    )
    hub_places: int = _setting(500, "Users' servers that are worked in at once; more are refused.", group="Hub")
    transport: Transport = _setting(
        "stdio", "What the bare command serves: stdio, or streamable HTTP as `serve` does.", "TRANSPORT", group="Server"
    )

    @property
    def root_state(self) -> Path:
        """The state of this root alone: lock, record, log, journal and kernels. Two spellings of one root share it."""
        from hashlib import blake2b  # noqa: PLC0415 - 2 ms that `--help` saves

        real = os.fsencode(os.path.realpath(self.root))
        # Equal paths of two servers must not meet in one journal.
        for name in sorted({self.place} if self.place else {address.name for address in self.jupyters}):
            real += b"\0" + name.encode()
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", self.root.name)[:40] or "root"
        return self.state_dir / "roots" / f"{name}-{blake2b(real, digest_size=6).hexdigest()}"

    @property
    def room(self) -> Address | None:
        """The Jupyter that notebooks are at, if one is named."""
        url = self.room_url or self.jupyter_url or self.runtime_url
        return None if url is None else Address(url, self._token_for(url))

    @property
    def runtime(self) -> Address | None:
        """The Jupyter that kernels are at, if one is named."""
        url = self.runtime_url or self.jupyter_url or self.room_url
        return None if url is None else Address(url, self._token_for(url))

    @property
    def jupyters(self) -> tuple[Address, ...]:
        """Those that are worked in: the one of the notebooks, then the one of the kernels."""
        used = ((self.contents, self.room), (self.kernels, self.runtime))
        return tuple(address for backend, address in used if backend in (JUPYTER, SERVERAPP) and address is not None)

    def _token_for(self, url: str) -> str | None:
        """A token goes to the address that it was given with; `jupyter_token` to any that came without one."""
        named = ((self.room_url, self.room_token), (self.runtime_url, self.runtime_token))
        given = (token for address, token in named if address and token and Address(address).name == Address(url).name)
        return next(given, self.jupyter_token)

    @classmethod
    def load(cls, options: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
        """Merge options (None = not given) over the environment over the defaults.

        Raises:
            InvalidRequest: a value of the wrong type or out of its range; the message names the setting.
        """
        environ = os.environ if environ is None else environ
        hints = get_type_hints(cls)
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            given = (options or {}).get(field.name)
            if given is None:
                given = from_environ(field, environ)
            if given is not None:
                values[field.name] = convert(field.name, given, hints[field.name])
        if any(values.get(name) for name in _ADDRESSES):
            _beside_jupyter(values, options or {}, environ)
        values["root"] = Path(values.get("root") or Path.cwd()).expanduser().resolve()
        for name in ("state_dir", "kernel_profiles", "tasks"):
            if name in values:
                values[name] = values[name].expanduser().resolve()
        settings = cls(**values)
        _check(settings)
        return settings


def given_names(options: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> frozenset[str]:
    """The settings that somebody gave, by an option or a variable; the others are defaults."""
    environ = os.environ if environ is None else environ
    return frozenset(
        field.name
        for field in dataclasses.fields(Settings)
        if options.get(field.name) is not None or from_environ(field, environ) is not None
    )


def _beside_jupyter(values: dict[str, Any], options: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    """What an address of a Jupyter means for other settings: whose notebooks and kernels, and whose JUPYTER_TOKEN."""
    values.setdefault("contents", JUPYTER)
    values.setdefault("kernels", JUPYTER)
    if shared := environ.get("JUPYTER_TOKEN"):
        values.setdefault("jupyter_token", shared)
        if options.get("token") is None and not environ.get(f"{PREFIX}TOKEN"):
            values.pop("token", None)


def _check(settings: Settings) -> None:
    if not settings.root.is_dir():
        raise InvalidRequest(f"The root {settings.root} is not a folder.", hint="Create it, or give another --root.")
    for name in ("port", "gateway_port"):
        if not 0 <= getattr(settings, name) <= 65535:
            raise InvalidRequest(
                f"Setting {name!r} cannot be {getattr(settings, name)}.", hint="Ports go from 0 to 65535."
            )
    for name in _ADDRESSES:
        if (url := getattr(settings, name)) is not None:
            check_address(f"Setting {name!r}", url)
    for name in _TOKENS:
        if (token := getattr(settings, name)) is not None:
            check_token(f"Setting {name!r}", token)
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, int | float) and not 0 <= value < math.inf:
            raise InvalidRequest(f"Setting {field.name!r} cannot be {value}.", hint="Give a number from 0 on.")
