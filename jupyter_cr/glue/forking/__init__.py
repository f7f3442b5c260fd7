"""Forks of the very process that asks, as a tool: each runs something, its outcome comes
back, and it is gone.

`jupyter_cr.fork` with a number, and ``%%fork``, are made of this. `session` is the side
of the process that asks, `worker` that of its forks; `keeper` is the process outside that
makes them, and ends them whatever happens.
"""
