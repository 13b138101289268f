"""The code that looks at variables, run inside the kernel in a namespace of its own (`user`, `question`)."""

PROBE = """
import json, types, builtins
HIDDEN = {"In", "Out", "exit", "quit", "get_ipython", "open"}

def size(v):
    shape = getattr(v, "shape", None)
    if isinstance(shape, tuple):
        return "x".join(map(str, shape)) if shape else "scalar"
    try:
        return "len %d" % len(v) if hasattr(type(v), "__len__") else ""
    except Exception:
        return ""

def kind(v):
    t = type(v)
    return t.__name__ if t.__module__ in ("builtins", "__main__") else t.__module__.split(".")[0] + "." + t.__name__

def cut(text, limit):
    return text if len(text) <= limit else text[:limit] + "\\u2026 (%d characters)" % len(text)

def short(v):
    if isinstance(v, (int, float, complex, bool, type(None))):
        return cut(repr(v), 60)
    if isinstance(v, (str, bytes)):
        return cut(repr(v[:80]), 60)
    if isinstance(v, (list, tuple, dict, set, frozenset)) and len(v) <= 20:
        try:
            return cut(repr(v), 60)
        except Exception:
            return ""
    return ""

def value(name):
    import ast
    return eval(compile(ast.parse(name, mode="eval"), "<inspect>", "eval"), user)

def table(v, limit):
    import io
    text = "columns:\\n" + "\\n".join(
        "  %s: %s" % (c, d) for c, d in list(zip(v.columns, v.dtypes))[:60]
    )
    return cut(text + "\\nhead:\\n" + v.head(5).to_string(max_cols=20), limit)

def long(v, limit):
    if hasattr(v, "columns") and hasattr(v, "dtypes") and hasattr(v, "head"):
        return table(v, limit)
    if hasattr(v, "dtype") and hasattr(v, "shape"):
        head = getattr(v, "head", None)
        body = head(10) if head else (v.ravel()[:10] if hasattr(v, "ravel") else v)
        return cut("dtype: %s\\nhead: %s" % (v.dtype, body), limit)
    if isinstance(v, (str, bytes)):
        return cut(repr(v[:limit]), limit)
    if isinstance(v, (types.FunctionType, type)):
        import inspect
        try:
            return cut(inspect.getsource(v), limit)
        except (OSError, TypeError):
            pass
    import reprlib
    r = reprlib.Repr()
    r.maxdict = r.maxlist = r.maxtuple = r.maxset = 50
    r.maxstring = r.maxother = 400
    return cut(r.repr(v) if isinstance(v, (list, tuple, dict, set)) else repr(v), limit)

if question["what"] == "list":
    found = []
    for name, v in list(user.items()):
        if name.startswith("_") or name in HIDDEN or isinstance(v, types.ModuleType):
            continue
        if getattr(v, "__module__", "") == "IPython.core.autocall":
            continue
        found.append({"name": name, "type": kind(v), "size": size(v), "value": short(v)})
    answer = json.dumps({"variables": found})
else:
    try:
        v = value(question["name"])
        answer = json.dumps(
            {"name": question["name"], "type": kind(v), "size": size(v), "text": long(v, question["limit"])}
        )
    except (NameError, AttributeError, KeyError, IndexError, TypeError) as error:
        import difflib
        near = difflib.get_close_matches(question["name"], [n for n in user if not n.startswith("_")])
        text = "%s: %s" % (type(error).__name__, error)
        answer = json.dumps({"missing": text + ("; similar: " + ", ".join(near) if near else "")})
"""
