"""What a process is, apart from its open files: one kind of state, one module.

Each has a ``Record`` and the same surface:

``collect_calls(...)``
    system calls that the frozen process makes to tell what /proc does not;
``collect(..., results)``
    the Record, from /proc and from what those calls returned;
``rebuild_calls(record, ...)``
    system calls with which the rebuilt process makes it so.
"""
