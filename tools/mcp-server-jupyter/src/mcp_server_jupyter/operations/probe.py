"""The code that looks at variables, run inside the kernel in a namespace of its own (`user`, `question`).

Looking runs code of the objects looked at (`__len__`, `__repr__`, `shape`, `__class__`), which may raise, take for ever
or answer anything. So each variable is looked at on its own, for a short while, and what cannot be shown
says why. The alarm is left alone where the user's code has set one, and outside the main thread.
"""

PROBE = """
import json, signal, threading, time, types
HIDDEN = {"In", "Out", "exit", "quit", "get_ipython", "open"}
EACH, ALTOGETHER, INSPECTED, MOST = 0.5, 3.0, 5.0, 2000

class TooSlow(BaseException):
    pass

class Patience:
    def __init__(self, seconds):
        self.seconds = seconds
    def __enter__(self):
        self.armed = (
            hasattr(signal, "setitimer")
            and threading.current_thread() is threading.main_thread()
            and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        )
        if self.armed:
            self.before = signal.signal(signal.SIGALRM, self.ring)
            signal.setitimer(signal.ITIMER_REAL, self.seconds, 0.05)
    def ring(self, *_):
        if self.armed:
            raise TooSlow
    def __exit__(self, *_):
        if self.armed:
            self.armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self.before)

def tried(look, *values, seconds=EACH):
    try:
        with Patience(seconds):
            return json.loads(json.dumps(look(*values)))
    except TooSlow:
        return "(took too long)"
    except (Exception, SystemExit, GeneratorExit) as error:
        return "(cannot be shown: %s)" % type(error).__name__

def a(v, *kinds):
    return issubclass(type(v), kinds)

def size(v):
    shape = getattr(v, "shape", None)
    if a(shape, tuple):
        return cut("x".join(map(str, shape[:9])), 60) if shape else "scalar"
    return "len %d" % len(v) if any("__len__" in vars(t) for t in type(v).__mro__) else ""

def kind(v):
    t = type(v)
    place = "" if t.__module__ in ("builtins", "__main__") else t.__module__.split(".")[0] + "."
    return cut(place + t.__name__, 100)

def cut(text, limit):
    return text if len(text) <= limit else text[:limit] + "\\u2026 (%d characters)" % len(text)

def bounded(v, items, text):
    import reprlib
    r = reprlib.Repr()
    r.maxdict = r.maxlist = r.maxtuple = r.maxset = r.maxfrozenset = items
    r.maxstring = r.maxother = text
    return r.repr(v)

def number(v):
    return "an integer of %d bits" % v.bit_length() if a(v, int) and v.bit_length() > 4000 else repr(v)

def short(v):
    if a(v, int, float, complex, bool, type(None)):
        return cut(number(v), 60)
    if a(v, str, bytes):
        return cut(repr(v[:80]), 60)
    if a(v, list, tuple, dict, set, frozenset) and len(v) <= 20:
        return cut(bounded(v, 20, 60), 60)
    return ""

def value(name):
    import ast
    return eval(compile(ast.parse(name, mode="eval"), "<inspect>", "eval"), user)

def table(v, limit):
    text = "columns:\\n" + "\\n".join(
        "  %s: %s" % (c, d) for c, d in list(zip(v.columns, v.dtypes))[:60]
    )
    return cut(text + "\\nhead:\\n" + v.head(5).to_string(max_cols=20), limit)

def long(v, limit):
    if a(v, int):
        return cut(number(v), limit)
    if a(v, str, bytes):
        return cut(repr(v[:limit]), limit)
    if a(v, list, tuple, dict, set):
        return cut(bounded(v, 50, 400), limit)
    if hasattr(v, "columns") and hasattr(v, "dtypes") and hasattr(v, "head"):
        return table(v, limit)
    if hasattr(v, "dtype") and hasattr(v, "shape"):
        head = getattr(v, "head", None)
        body = head(10) if head else (v.ravel()[:10] if hasattr(v, "ravel") else v)
        return cut("dtype: %s\\nhead: %s" % (v.dtype, body), limit)
    if a(v, types.FunctionType, type):
        import inspect
        try:
            return cut(inspect.getsource(v), limit)
        except (OSError, TypeError):
            pass
    return cut(repr(v), limit)

def hidden(name, v):
    return (
        type(name) is not str or name.startswith("_") or name in HIDDEN or a(v, types.ModuleType)
        or type(v).__module__ == "IPython.core.autocall"
    )

def near(name):
    import difflib
    return difflib.get_close_matches(name, [n for n in list(user) if type(n) is str and not n.startswith("_")])

def listed():
    names = [name for name, v in list(user.items()) if tried(hidden, name, v) is not True]
    end, found = time.monotonic() + ALTOGETHER, []
    for name in names[:MOST]:
        v, late = user.get(name), time.monotonic() > end
        found.append({
            "name": name,
            "type": tried(kind, v),
            "size": "" if late else tried(size, v),
            "value": "(not looked at: the others took too long)" if late else tried(short, v),
        })
    return {"variables": found, "more": len(names) - len(found)}

def inspected(name, limit):
    missing = []
    def found():
        try:
            return value(name)
        except (NameError, AttributeError, KeyError, IndexError, TypeError) as error:
            missing.append("%s: %s" % (type(error).__name__, cut(str(error), 200)))
    try:
        with Patience(INSPECTED):
            v = found()
    except TooSlow:
        return {"failed": "it took too long"}
    except (Exception, SystemExit, GeneratorExit) as error:
        return {"failed": "it raised " + type(error).__name__}
    if missing:
        similar = tried(near, name)
        return {"missing": missing[0] + ("; similar: " + ", ".join(similar) if similar else "")}
    text = tried(long, v, limit, seconds=INSPECTED)
    return {"name": name, "type": tried(kind, v), "size": tried(size, v), "text": text}

answer = json.dumps(listed() if question["what"] == "list" else inspected(question["name"], question["limit"]))
"""
