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
    class Bounded(reprlib.Repr):
        def repr1(self, x, level):
            before, self.maxlist = self.maxlist, items if level == self.maxlevel else min(items, 6)
            self.maxdict = self.maxtuple = self.maxset = self.maxfrozenset = self.maxlist
            try:
                return super().repr1(x, level)
            finally:
                self.maxlist = self.maxdict = before
    r = Bounded()
    r.maxlevel, r.maxstring, r.maxother = 4, text, text
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

def of(v, *packages):
    return any(str(t.__module__).split(".")[0] in packages for t in type(v).__mro__)

def frame(v):
    return of(v, "pandas", "polars") and hasattr(v, "columns") and hasattr(v, "dtypes") and hasattr(v, "head")

def shown(v):
    return v.to_string(max_cols=12, max_colwidth=40) if frame(v) and hasattr(v, "to_string") else str(v)

def nulls(v):
    return int(v.isna().sum() if hasattr(v, "isna") else v.null_count())

def extremes(v):
    try:
        low, high = v.min(), v.max()
    except (TypeError, ValueError):
        return ""
    return "min %s, max %s" % (cut(str(low), 40), cut(str(high), 40))

def measures(v):
    parts = ["%d null" % n for n in [nulls(v)] if n]
    if str(v.dtype) in ("object", "str", "string", "category", "String", "Categorical", "List", "Struct"):
        return ", ".join(parts)
    if of(v, "polars") and hasattr(v, "is_nan") and "Float" in str(v.dtype):
        parts += ["%d NaN" % n for n in [int(v.is_nan().sum())] if n]
    return ", ".join(filter(None, parts + [extremes(v)]))

def table(v, limit):
    names, types = list(v.columns), list(v.dtypes)
    most, end = 60 if limit > 4000 else 24, time.monotonic() + INSPECTED / 2
    head, lines = shown(v.head(5)), []
    for at, (name, dtype) in enumerate(zip(names[:most], types)):
        facts = ""
        if time.monotonic() < end:
            facts = tried(lambda: measures(v.iloc[:, at] if hasattr(v, "iloc") else v[name]), seconds=2)
        lines.append(cut("  %s: %s" % (cut(str(name), 40), cut(str(dtype), 40)), 90) + (facts and "  " + facts))
    if len(names) > most:
        lines.append("  \\u2026 %d more columns" % (len(names) - most))
    text = "columns:\\n" + cut("\\n".join(lines), max(limit // 2, limit - len(head) - 20))
    return cut(text + "\\nhead:\\n" + head, limit)

def odd_numbers(v):
    if v.dtype.kind in "fc":
        import numpy
        bad = [int(numpy.isnan(v).sum()), int(numpy.isinf(v).sum())]
        parts = ["%d %s" % each for each in zip(bad, ("NaN", "inf")) if each[0]]
        if v.dtype.kind == "c" or not v.size or bad[0] == v.size:
            return ", ".join(parts)
        return ", ".join(parts + ["min %s, max %s" % (numpy.nanmin(v), numpy.nanmax(v))])
    return extremes(v) if v.dtype.kind in "iubmM" and v.size else ""

def facts_of(v):
    if of(v, "numpy"):
        return odd_numbers(v)
    if of(v, "pandas", "polars"):
        return measures(v)
    if of(v, "torch") and v.numel() and not v.is_complex():
        bad = int(v.isnan().sum())
        return ", ".join(["%d NaN" % bad] * bool(bad) + ["min %s, max %s" % (v.min().item(), v.max().item())])
    return ""

def array(v, limit):
    if hasattr(v, "head"):
        body = shown(v.head(10))
    elif hasattr(v, "flat"):
        body = str(v.flat[:10]) if v.ndim else v
    else:
        body = v.ravel()[:10] if hasattr(v, "ravel") else v
    facts = tried(facts_of, v, seconds=2)
    return cut("dtype: %s%s\\nhead: %s" % (v.dtype, facts and "\\n" + facts, body), limit)

def outline(t):
    import inspect
    bases = ", ".join(b.__name__ for b in t.__bases__ if b is not object)
    doc = vars(t).get("__doc__")
    lines = ["class %s%s" % (t.__name__, bases and "(%s)" % bases)]
    lines += [cut(doc.strip().split("\\n")[0], 200)] if type(doc) is str and doc.strip() else []
    for name, member in vars(t).items():
        if name.startswith("_") and name != "__init__":
            continue
        function = getattr(member, "__func__", member)
        try:
            lines.append("  %s%s" % (name, cut(str(inspect.signature(function)), 100)))
        except (TypeError, ValueError):
            lines.append("  %s: %s" % (name, kind(member)))
    return "\\n".join(lines)

def source(v, limit):
    import inspect
    try:
        text = inspect.getsource(v)
    except (OSError, TypeError):
        text = ""
    if text and (len(text) <= limit or not a(v, type)):
        return cut(text, limit)
    return cut(outline(v), limit) if a(v, type) else ""

def part(v, limit):
    if len(v) <= limit:
        return cut(repr(v), limit)
    half = limit // 2 - 30
    head, tail = cut(repr(v[:half]), half), repr(v[len(v) - half // 2:])[-half // 2:]
    return "%s\\n\\u2026 of %d in all, its end: \\u2026 %s" % (head, len(v), tail)

def long(v, limit):
    if a(v, int):
        return cut(number(v), limit)
    if a(v, str, bytes, bytearray):
        return part(v, limit)
    if a(v, list, tuple, dict, set, frozenset):
        return cut(bounded(v, 50, 200), limit)
    if frame(v) or (hasattr(v, "columns") and hasattr(v, "head") and hasattr(v.head(5), "to_string")):
        return table(v, limit)
    if hasattr(v, "dtype") and hasattr(v, "shape"):
        return array(v, limit)
    if a(v, types.FunctionType, type) and (text := source(v, limit)):
        return text
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
