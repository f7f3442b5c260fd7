"""What variables a Python program has, told so that two reports can be compared.

This file runs in the program that is looked at, which may not have this package: it is
sent there as text, and imports nothing but the standard library. It runs in forks that
are thrown away, so that what users' code does when it is asked has no effect; but it is
not let run long, nor say much.

Whether two values are equal is told by digests, where that can be done rightly: of
containers, numbers and texts by what they hold, of arrays and tables by their content, of
functions by their code, of anything else by its pickle. Without a digest, nobody can tell.
"""

import hashlib
import pickle
import struct
import sys
import time
import types

VARIABLES = 5000
"""More are not looked at."""
TEXT = 120
"""Characters of a value."""
SECONDS = 1.0
"""For what a user's code does about one variable."""
ALL_SECONDS = 20.0
"""After which values are not looked at any more, but types are."""
DEPTH = 40
MANY = 1000
"""Elements of a list that are not looked at one by one."""


class _TooLongError(BaseException):
    pass


class _NoDigestError(Exception):
    pass


_until = [0.0]


class _limited:  # noqa: N801 - used as a function
    """Python code in it ends after some seconds, whatever it does."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __enter__(self):
        _until[0] = time.monotonic() + self.seconds
        self.before = sys.gettrace()
        sys.settrace(_watch)

    def __exit__(self, *error):
        sys.settrace(self.before)


def _watch(frame, event, argument):
    _be_in_time()
    if frame.f_code.co_filename == _OWN_FILE:
        # It looks at the clock itself.
        return None
    # There are loops without an event for a line.
    frame.f_trace_opcodes = True
    return _watch


def _be_in_time():
    if time.monotonic() > _until[0]:
        raise _TooLongError


_OWN_FILE = _be_in_time.__code__.co_filename


class _Hashing:
    """A file that keeps nothing but a digest."""

    def __init__(self):
        self.hash = hashlib.blake2b(digest_size=16)

    def write(self, data):
        self.hash.update(data)
        return len(data)


def _name(kind):
    module = getattr(kind, "__module__", "")
    name = getattr(kind, "__qualname__", str(kind))
    return name if module in ("builtins", "__main__", None) else f"{module}.{name}"


def _is_of(value, module, name):
    """Whether a value is of a class of a library that need not be there."""
    found = sys.modules.get(module)
    return found is not None and isinstance(value, getattr(found, name, ()))


def _frame(tag, *parts):
    joined = hashlib.blake2b(tag.encode() + b"\0", digest_size=16)
    for part in parts:
        joined.update(struct.pack("<q", len(part)))
        joined.update(part)
    return joined.digest()


def _digest(value, depth=0):
    """Equal for equal values. Raises whatever users' code raises."""
    _be_in_time()
    if depth > DEPTH:
        raise _NoDigestError
    kind = type(value)
    if value is None or kind in (bool, int, float, complex, type(...), range, slice):
        return _frame(kind.__name__, repr(value).encode())
    if kind is str:
        return _frame("str", value.encode(errors="surrogatepass"))
    if kind in (bytes, bytearray):
        return _frame(kind.__name__, bytes(value))
    if kind in (list, tuple) and len(value) > MANY:
        kinds = set(map(type, value))
        if kinds <= {int, float, bool, type(None)}:
            return _frame(kind.__name__, pickle.dumps(list(value), 5))
        if kinds == {str}:
            lengths = pickle.dumps(list(map(len, value)), 5)
            texts = "".join(value).encode(errors="surrogatepass")
            return _frame(kind.__name__, lengths, texts)
    if kind in (list, tuple):
        return _frame(kind.__name__, *(_digest(each, depth + 1) for each in value))
    if kind in (set, frozenset):
        return _frame(kind.__name__, *sorted(_digest(each, depth + 1) for each in value))
    if kind is dict:
        parts = []
        for key, each in value.items():
            parts += (_digest(key, depth + 1), _digest(each, depth + 1))
        return _frame("dict", *parts)
    if kind is types.FunctionType:
        return _function(value, depth)
    if kind is types.CodeType:
        return _code(value, depth)
    if kind in (types.BuiltinFunctionType, types.ModuleType):
        return _frame("named", _name(kind).encode(), value.__name__.encode())
    if isinstance(value, type):
        return _class(value, depth)
    if _is_of(value, "numpy", "ndarray") and kind.__module__ == "numpy":
        return _array(value, depth)
    if _is_of(value, "pandas", "DataFrame") or _is_of(value, "pandas", "Series"):
        return _table(value, depth)
    return _pickled(value)


def _function(value, depth):
    cells = [cell.cell_contents for cell in value.__closure__ or ()]
    held = (value.__defaults__, value.__kwdefaults__, cells)
    return _frame("function", _code(value.__code__, depth), _digest(held, depth + 1))


def _code(code, depth):
    named = (code.co_name, code.co_names, code.co_varnames, code.co_freevars)
    constants = tuple(code.co_consts)
    return _frame("code", code.co_code, _digest((named, constants), depth + 1))


def _class(value, depth):
    if value.__module__ != "__main__":
        return _frame("class", _name(value).encode())
    parts = []
    for name, each in sorted(vars(value).items()):
        if name in ("__dict__", "__weakref__", "__doc__"):
            continue
        if name.startswith("__") and not callable(each):
            continue
        each = getattr(each, "__func__", each)
        each = getattr(each, "fget", each)
        if not isinstance(each, (types.FunctionType, type)):
            try:
                parts.append(_digest((name, each), depth + 1))
            except Exception:  # noqa: BLE001 - whatever users' code raises
                parts.append(_digest((name, _name(type(each))), depth + 1))
            continue
        if each is not value:
            parts += (name.encode(), _digest(each, depth + 1))
    bases = [_name(base).encode() for base in value.__bases__]
    return _frame("class", *bases, *parts)


def _array(value, depth):
    facts = _digest((value.shape, str(value.dtype)))
    if value.dtype.hasobject:
        return _frame("array", facts, _digest(value.ravel().tolist(), depth + 1))
    numpy = sys.modules["numpy"]
    whole = numpy.ascontiguousarray(value)
    content = hashlib.blake2b(whole.reshape(-1).view(numpy.uint8).data, digest_size=16)
    return _frame("array", facts, content.digest())


def _table(value, depth):
    pandas = sys.modules["pandas"]
    try:
        rows = pandas.util.hash_pandas_object(value, index=True).to_numpy()
    except TypeError:
        # It holds what cannot be hashed.
        return _pickled(value)
    if value.ndim == 2:
        names = (list(value.columns), [str(each) for each in value.dtypes])
    else:
        names = (value.name, str(value.dtype))
    return _frame("table", _digest(names, depth + 1), _array(rows, depth))


class _Pickler(pickle.Pickler):
    def reducer_override(self, value):
        # By reference they would be equal whatever they are.
        if isinstance(value, types.FunctionType) and value.__module__ == "__main__":
            return (str, (_function(value, 1).hex(),))
        return NotImplemented


def _pickled(value):
    file = _Hashing()
    _Pickler(file, 5, buffer_callback=lambda buffer: file.write(buffer.raw())).dump(value)
    return _frame("pickle", _name(type(value)).encode(), file.hash.digest())


def _shape(value):
    if _is_of(value, "numpy", "ndarray") or _is_of(value, "pandas", "DataFrame"):
        return " x ".join(map(str, value.shape)) or "scalar"
    if _is_of(value, "torch", "Tensor"):
        return " x ".join(map(str, value.shape)) or "scalar"
    if isinstance(value, (str, bytes, bytearray, list, tuple, dict, set, frozenset)):
        return str(len(value))
    if _is_of(value, "pandas", "Series") or _is_of(value, "pandas", "Index"):
        return str(len(value))
    return ""


def _short(text):
    text = " ".join(text.split())
    return text if len(text) <= TEXT else text[: TEXT - 3] + "..."


def _value(value):
    """A few words. Long containers are not written out whole, to be cut off then."""
    import reprlib

    if isinstance(value, types.FunctionType):
        names = value.__code__.co_varnames[: value.__code__.co_argcount]
        return f"{value.__name__}({', '.join(names)})"
    if _is_of(value, "pandas", "DataFrame"):
        return ", ".join(str(name) for name in list(value.columns)[:20])
    if _is_of(value, "numpy", "ndarray") or _is_of(value, "pandas", "Series"):
        kind = str(value.dtype)
        if value.size > 1000:
            first = ", ".join(str(each) for each in value.ravel()[:3]) if value.ndim else ""
            return f"{kind}: {first}, ..."
        return f"{kind}: {value.tolist()}"
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother, short.maxlong = 3, TEXT, TEXT, TEXT
    short.maxlist = short.maxtuple = short.maxdict = short.maxset = 12
    return short.repr(value)


def _told(function, value, seconds, default):
    try:
        with _limited(seconds):
            return function(value)
    except (Exception, _TooLongError):  # noqa: BLE001 - whatever users' code raises
        return default


def describe(name, value, is_careful):
    """One variable, as a dictionary.

    Args:
        is_careful: whether there is no time left for anything but its type.
    """
    found = dict.fromkeys(("shape", "value", "digest"), "")
    found.update(name=name, type=_name(type(value)))
    if is_careful:
        return found
    found["shape"] = _told(_shape, value, SECONDS, "")
    found["value"] = _short(_told(_value, value, SECONDS, ""))
    digest = _told(_digest, value, SECONDS * 3, b"")
    found["digest"] = digest.hex()
    return found


def report(namespace, hidden=()):
    """All variables of a namespace, in JSON: those that a person would say are there.

    Args:
        hidden: names that are not looked at.
    """
    import json

    until = time.monotonic() + ALL_SECONDS
    names = sorted(
        name
        for name, value in list(namespace.items())
        if isinstance(name, str)
        and not name.startswith("_")
        and name not in hidden
        and not issubclass(type(value), types.ModuleType)
    )
    described = [
        describe(name, namespace[name], time.monotonic() > until)
        for name in names[:VARIABLES]
    ]
    return json.dumps({"variables": described, "left_out": max(0, len(names) - VARIABLES)})


def report_shell(shell):
    """The same of IPython's, `shell`; of the main program if that is None."""
    if shell is None:
        return report(vars(sys.modules["__main__"]))
    return report(shell.user_ns, set(shell.user_ns_hidden) | {"In", "Out", "get_ipython"})
