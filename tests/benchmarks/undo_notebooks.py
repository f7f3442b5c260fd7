"""Short notebooks whose last cell is undone: some to be timed, and some in each of which
there is one thing that might not come back."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CASES", "NOTEBOOKS", "Case", "Notebook"]


@dataclass(frozen=True)
class Notebook:
    """Cells that are timed; what the last one does is undone."""

    name: str
    cells: tuple[str, ...]
    needs: tuple[str, ...] = ()
    """Packages."""


@dataclass(frozen=True)
class Case:
    """One thing. When the last cell has been undone, `check` has to be true, as it was
    before that cell: it may change what it looks at."""

    name: str
    cells: tuple[str, ...]
    check: str
    needs: tuple[str, ...] = ()
    note: str = "None"
    """Whose value, too, has to be what it was; changes nothing."""
    ends: bool = False
    """The last cell ends the kernel."""


NOTEBOOKS = (
    Notebook(
        "small values",
        ("a = 1", "b = [a, 2]", "c = {'b': b}", "b.append(3)", "text = str(c)", "a = 4"),
    ),
    Notebook(
        "data science",
        (
            "import numpy as np, pandas as pd\n"
            "from sklearn.linear_model import LinearRegression\n"
            "from sklearn.ensemble import RandomForestRegressor",
            "rng = np.random.default_rng(1)\n"
            "frame = pd.DataFrame(rng.random((500_000, 10)), columns=list('abcdefghij'))\n"
            "frame['target'] = frame.a * 2 + frame.b",
            "train = frame.sample(20_000, random_state=1)\n"
            "features = train[list('abcdefghij')]",
            "linear = LinearRegression().fit(features, train.target)",
            "forest = RandomForestRegressor(5, random_state=1).fit(features, train.target)",
            "models = {'linear': linear, 'forest': forest}",
            "scores = {name: model.score(features, train.target)\n"
            "          for name, model in models.items()}",
            "summary = frame.groupby(frame.a.round(1)).mean()",
            "frame['predicted'] = linear.predict(frame[list('abcdefghij')])",
            "frame.drop(columns='target', inplace=True)",
        ),
        ("numpy", "pandas", "sklearn"),
    ),
    Notebook(
        "one array of 500 MB",
        (
            "import numpy as np",
            "data = np.random.default_rng(1).random(62_500_000)",
            *(
                f"data[{start}:{start + 625_000}] += 1"
                for start in range(0, 4 * 625_000, 625_000)
            ),
        ),
        ("numpy",),
    ),
    Notebook(
        "not to be pickled",
        (
            "import socket, sqlite3, threading",
            "squares = (n * n for n in range(1000))",
            "db = sqlite3.connect(':memory:', check_same_thread=False)\n"
            "_ = db.execute('create table words (word)')",
            "left, right = socket.socketpair()",
            "end = threading.Event()\n"
            "thread = threading.Thread(target=end.wait, daemon=True)\n"
            "thread.start()",
            "first = [next(squares) for _ in range(10)]",
            "_ = db.execute('insert into words values (?)', ['one'])",
            "log = open('log.txt', 'w+')\n_ = log.write('one line\\n')",
            "more = next(squares)",
        ),
    ),
)
"""What a cell costs, and going back."""

CASES = (
    Case(
        "one list in two variables",
        ("a = [1]; b = {'a': a}", "a.append(2)"),
        "a == [1] and b['a'] is a",
    ),
    Case(
        "a pandas frame and a fitted model",
        (
            "import pandas as pd\nfrom sklearn.linear_model import LinearRegression",
            "frame = pd.DataFrame({'x': [1.0, 2, 3], 'y': [2.0, 4, 6]})",
            "model = LinearRegression().fit(frame[['x']], frame.y)",
            "frame['y'] = 0.0; model.fit(frame[['x']], frame.y)",
        ),
        "list(frame.y) == [2, 4, 6] and round(model.coef_[0], 6) == 2",
        ("pandas", "sklearn"),
    ),
    Case(
        "a class that is defined anew",
        (
            "class Shape:\n    def corners(self): return 3",
            "shape = Shape()",
            "class Shape:\n    def corners(self): return 4",
        ),
        "isinstance(shape, Shape) and Shape().corners() == 3",
    ),
    Case(
        "a matplotlib figure",
        (
            "import matplotlib; matplotlib.use('agg'); import matplotlib.pyplot as plt",
            "figure, axes = plt.subplots(); lines = axes.plot([1, 2])",
            "axes.clear(); plt.close(figure)",
        ),
        "len(axes.lines) == 1 and axes.lines[0] is lines[0] and axes.figure is figure",
        ("matplotlib",),
    ),
    Case(
        "matplotlib's current figure",
        (
            "import matplotlib; matplotlib.use('agg'); import matplotlib.pyplot as plt",
            "figure, axes = plt.subplots()",
            "plt.close(figure)",
        ),
        "plt.get_fignums() == [1] and plt.gcf() is figure",
        ("matplotlib",),
    ),
    Case(
        "a numpy array and a view of it",
        ("import numpy as np", "whole = np.zeros(10); part = whole[:5]", "part[:] = 1"),
        "whole.sum() == 0 and np.shares_memory(whole, part)",
        ("numpy",),
    ),
    Case(
        "a pointer to a C variable",
        (
            "import ctypes",
            "number = ctypes.c_int(1); pointer = ctypes.pointer(number)",
            "number.value = 2",
        ),
        "number.value == 1 and pointer.contents.value == 1",
    ),
    Case(
        "a generator half-way",
        (
            "squares = (n * n for n in range(10))",
            "first = [next(squares), next(squares)]",
            "rest = list(squares)",
        ),
        "next(squares) == 4",
    ),
    Case(
        "a generator with something random in it",
        (
            "import os",
            "def draws():\n    drawn = os.urandom(8)\n    while True: yield drawn",
            "tokens = draws()",
            "first = next(tokens)",
            "tokens.close()",
        ),
        "next(tokens) == first",
        note="first",
    ),
    Case(
        "an open file, in the middle",
        (
            "file = open('lines.txt', 'w+')\n"
            "_ = file.write('abc\\n' * 3); _ = file.seek(4)",
            "file.close()",
        ),
        "file.tell() == 4 and file.readline() == 'abc\\n'",
    ),
    Case(
        "a database in memory, in a transaction",
        (
            "import sqlite3",
            "db = sqlite3.connect(':memory:'); _ = db.execute('create table t (x)')",
            "_ = db.execute('insert into t values (1)')",
            "db.rollback(); db.close()",
        ),
        "db.in_transaction and db.execute('select x from t').fetchall() == [(1,)]",
    ),
    Case(
        "a connection to a database in a file",
        (
            "import sqlite3",
            "db = sqlite3.connect('notes.db'); _ = db.execute('create table t (x)')",
            "_ = db.execute('insert into t values (1)'); db.commit()",
            "db.close()",
        ),
        "db.execute('select x from t').fetchall() == [(1,)]",
    ),
    Case(
        "a socket pair with unread bytes",
        (
            "import socket",
            "left, right = socket.socketpair()",
            "_ = left.send(b'hello')",
            "got = right.recv(5); left.close()",
        ),
        "right.recv(5, socket.MSG_DONTWAIT) == b'hello'",
    ),
    Case(
        "a child process, and what it holds",
        (
            "import subprocess",
            "shell = subprocess.Popen(['sh'], stdin=subprocess.PIPE,\n"
            "                         stdout=subprocess.PIPE, bufsize=0)",
            "_ = shell.stdin.write(b'x=$$\\n')",
            "shell.kill(); _ = shell.wait()",
        ),
        "shell.poll() is None and bool(shell.stdin.write(b'echo $x\\n'))"
        " and int(shell.stdout.readline()) == shell.pid",
    ),
    Case(
        "a pool of processes",
        (
            "import multiprocessing",
            "pool = multiprocessing.get_context('fork').Pool(2)",
            "numbers = pool.map(abs, range(-3, 0))",
            "pool.terminate(); pool.join()",
        ),
        "pool.map_async(abs, [-1]).get(5) == [1]",
    ),
    Case(
        "a thread that runs",
        (
            "import threading",
            "end = threading.Event()\n"
            "thread = threading.Thread(target=end.wait, daemon=True)\nthread.start()",
            "end.set(); thread.join()",
        ),
        "thread.is_alive() and not end.is_set()",
    ),
    Case(
        "a lock that is held, in a closure",
        (
            "import threading",
            "def guard():\n"
            "    lock = threading.Lock(); lock.acquire()\n"
            "    return lock.locked, lock.release\n"
            "is_held, let_go = guard()",
            "let_go()",
        ),
        "is_held()",
    ),
    Case(
        "the state of random and numpy.random",
        (
            "import random, numpy as np",
            "random.seed(1); np.random.seed(1)",
            "drawn = random.random(), np.random.random()",
        ),
        "random.random() == random.Random(1).random()"
        " and np.random.random() == np.random.RandomState(1).random()",
        ("numpy",),
    ),
    Case(
        "directory, environment, locale",
        (
            "import os, locale",
            "os.mkdir('below'); os.chdir('below'); os.environ['STAGE'] = 'before'\n"
            "_ = locale.setlocale(locale.LC_CTYPE, 'C.UTF-8')",
            "os.chdir('..'); os.environ['STAGE'] = 'after'\n"
            "_ = locale.setlocale(locale.LC_CTYPE, 'C')",
        ),
        "os.getcwd().endswith('below') and os.environ['STAGE'] == 'before'"
        " and locale.setlocale(locale.LC_CTYPE) == 'C.UTF-8'",
    ),
    Case(
        "options of a library",
        (
            "import pandas as pd",
            "pd.options.display.max_rows = 7",
            "pd.options.display.max_rows = 70",
        ),
        "pd.options.display.max_rows == 7",
        ("pandas",),
    ),
    Case(
        "the outputs, as objects",
        ("[1, 2]", "Out.clear()"),
        "[1, 2] in Out.values()",
    ),
    Case(
        "the content of a file",
        (
            "from pathlib import Path",
            "_ = Path('kept.txt').write_text('before')",
            "_ = Path('kept.txt').write_text('after')",
        ),
        "Path('kept.txt').read_text() == 'before'",
    ),
    Case(
        "variables, once a cell has ended the kernel",
        ("import os", "a = [1]; b = {'a': a}", "os._exit(3)"),
        "a == [1] and b['a'] is a",
        ends=True,
    ),
    Case(
        "a generator, once a cell has ended the kernel",
        (
            "import os",
            "squares = (n * n for n in range(10))",
            "next(squares)",
            "os._exit(3)",
        ),
        "next(squares) == 1",
        ends=True,
    ),
)
"""What comes back."""
