"""What a learner puts into their own server to catch a test: a kernel of their own making, and a look around."""

KERNEL = '''
"""A kernel under the name python3 that writes down every message it is sent."""
import sys
from jupyter_client.session import Session

log = open(sys.argv.pop(1), "ab", buffering=0)
deserialize = Session.deserialize

def spied(self, parts, *more, **named):
    log.write(b"\\n".join(bytes(getattr(each, "bytes", each)) for each in parts) + b"\\n")
    return deserialize(self, parts, *more, **named)

Session.deserialize = spied
from ipykernel import kernelapp

kernelapp.launch_new_instance()
'''

CONFIG = '''
"""Jupyter runs this as code: the kernels in this folder come before all others."""
import os

os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [{path!r}, os.environ.get("JUPYTER_PATH")]))
'''

WORK = """
import os, pathlib, sys, time
from ipykernel import get_connection_file

HOME = pathlib.Path({home!r})
KERNEL = pathlib.Path(get_connection_file()).stem.removeprefix("kernel-")

# Until whoever listens on the messages of this kernel has heard of it.
(HOME / "kernels").mkdir(exist_ok=True)
(HOME / "kernels" / KERNEL).touch()
while not (HOME / "heard" / KERNEL).exists():
    print({hello!r}, flush=True)
    time.sleep(0.05)

def look(what):
    with (HOME / "seen.txt").open("ab") as file:
        file.write(repr(what).encode(errors="replace") + b"\\n")

def looked(value):
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        look((code.co_filename, code.co_name, code.co_names, code.co_varnames, code.co_consts))
        for name, each in [*frame.f_locals.items(), *frame.f_globals.items()]:
            try:
                look((name, each))
            except Exception as error:
                look((name, type(error)))
        frame = frame.f_back
    look(get_ipython().kernel.get_parent())
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                look((process.name, name, (process / name).read_bytes()))
            except OSError:
                pass
    return value

def text(x):
    return looked("nothing like it")

def number(x):
    return looked(7)
"""
