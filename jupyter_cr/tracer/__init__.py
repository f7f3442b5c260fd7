"""The operating system: ptrace, remote system calls, readers of /proc."""
