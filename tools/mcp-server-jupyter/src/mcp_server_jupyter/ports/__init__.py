"""What a backend offers: the one folder its author must read.

`Contents` says where notebooks live, `Kernels` where code runs; they combine freely. A backend is one module that
implements one of them; the command line selects it by name through the entry-point groups
`mcp_server_jupyter.contents` and `mcp_server_jupyter.kernels`. The other protocols are what some of them offer besides.

Rules every backend keeps (the contract suite in `tests/contract` checks them):

* it is an async context manager that owns everything it starts;
* it raises only `errors.JupyterMcpError` and its subclasses;
* paths are POSIX, relative to the root, and never leave it.
"""

from .checks import Finding
from .contents import Contents, Entry, Files, Listing, OutputSink, Unless
from .editors import EditorListener, Editors
from .interpreters import Choice, Environment, Interpreters
from .kernels import (
    Channel,
    Death,
    Joinable,
    Kernel,
    Kernels,
    Kernelspec,
    KernelState,
    KernelStats,
    Message,
    Renewable,
    Replay,
    Warmed,
)

__all__ = [
    "Channel",
    "Choice",
    "Contents",
    "Death",
    "EditorListener",
    "Editors",
    "Entry",
    "Environment",
    "Files",
    "Finding",
    "Interpreters",
    "Joinable",
    "Kernel",
    "KernelState",
    "KernelStats",
    "Kernels",
    "Kernelspec",
    "Listing",
    "Message",
    "OutputSink",
    "Renewable",
    "Replay",
    "Unless",
    "Warmed",
]
