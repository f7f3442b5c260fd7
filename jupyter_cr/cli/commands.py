"""The commands: each parses, calls one operation, and shows the result."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from jupyter_cr import __version__
from jupyter_cr.cli.files import new_file, open_file
from jupyter_cr.cli.lessons import COMMANDS as LESSON_COMMANDS
from jupyter_cr.cli.options import debug_option as _debug_option
from jupyter_cr.cli.options import json_option as _json_option
from jupyter_cr.cli.options import print_json as _print_json
from jupyter_cr.errors import CorruptImage, UsageError, printable

if TYPE_CHECKING:
    from jupyter_cr.operations import Progress, RestoreResult, VerifyResult

__all__ = ["cr"]

F = TypeVar("F", bound=Callable[..., Any])


def _wait_option(function: F) -> F:
    return click.option(
        "--wait", is_flag=True, help="Stay until it ends, and exit with its status."
    )(function)


STORE_VARIABLE = "JUPYTER_CR_STORE"


def _store_option(function: F) -> F:
    return click.option(
        "--store",
        "where",
        metavar="URL_OR_PATH",
        envvar=STORE_VARIABLE,
        default="",
        help=f"Another store than your own, as in s3://bucket/path. Default: "
        f"${STORE_VARIABLE}.",
    )(function)


def _url_argument(function: F) -> F:
    return click.argument("where", metavar="URL", envvar=STORE_VARIABLE)(function)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="jupyter-cr")
@_debug_option
def cr() -> None:
    """Checkpoint, restore and fork running Jupyter kernels, with their child processes,
    threads and open files.

    TARGET is a pid, a connection file, or a kernel's id (or the beginning of one); NAME
    is a snapshot's.
    """


@cr.command()
@_json_option
@_debug_option
def check(as_json: bool) -> int:
    """What this machine and user permit, and what to do about what is missing.

    Exit code 0 if kernels can be checkpointed and restored here, 1 if not.
    """
    from jupyter_cr.tracer.capabilities import probe_capabilities

    found = probe_capabilities()
    if as_json:
        _print_json(found.items)
    else:
        from jupyter_cr.cli.display import show_capabilities

        show_capabilities(found)
    return 0 if found.can_checkpoint and found.can_restore else 1


@cr.command()
@click.argument("target")
@click.option("--name", help="Of the snapshot; made up from kernel and time if not given.")
@click.option("--note", default="", help="Any text, to be shown with it.")
@click.option(
    "--warm", is_flag=True, help="Keep live twins, for forks within milliseconds."
)
@click.option(
    "--memory-only",
    is_flag=True,
    help="Keep live twins, and no pages on disk: at once, but gone with them.",
)
@_store_option
@_json_option
@_debug_option
def checkpoint(
    target: str,
    name: str | None,
    note: str,
    warm: bool,
    memory_only: bool,
    where: str,
    as_json: bool,
) -> None:
    """Take a snapshot of TARGET, which goes on.

    With --store, it is copied there, too.
    """
    from jupyter_cr.cli.progress import progress_bar
    from jupyter_cr.cli.routing import checkpoint_target, push_taken

    if where and memory_only:
        raise UsageError(
            "A snapshot that is in memory only cannot be copied elsewhere.",
            "Leave out --memory-only, or --store.",
        )
    with progress_bar() as progress:
        if where:
            _check_place(where, name)
        result = checkpoint_target(
            target,
            name=name,
            note=note,
            warm=warm,
            memory_only=memory_only,
            progress=progress,
        )
        pushed = push_taken(result.name, where, progress) if where else None
    if as_json:
        more = {} if pushed is None else {"pushed": pushed}
        _print_json(msgspec.structs.asdict(result) | more)
    else:
        from jupyter_cr.cli.display import show_checkpoint, show_pushed

        show_checkpoint(result)
        if pushed is not None:
            show_pushed(pushed)


@cr.command()
@click.argument("name")
@click.argument("new_name")
@_json_option
@_debug_option
def keep(name: str, new_name: str, as_json: bool) -> None:
    """Write snapshot NAME, which is in memory only, to disk as NEW_NAME."""
    from jupyter_cr.cli.progress import progress_bar
    from jupyter_cr.operations import keep_snapshot

    with progress_bar() as progress:
        kept = keep_snapshot(name, new_name, progress=progress)
    if as_json:
        _print_json(kept)
    else:
        from jupyter_cr.cli.display import show_kept

        show_kept(kept)


def _check_place(where: str, name: str | None) -> None:
    """Before anything is stopped, see that a snapshot could be copied there."""
    from jupyter_cr.store.places import open_store

    there = open_store(where)
    if name is None:
        there.names()
    else:
        there.check_free(name)


@cr.command()
@click.argument("name")
@_url_argument
@click.option("--as", "as_name", metavar="NAME", help="What it is to be called there.")
@_json_option
@_debug_option
def push(name: str, where: str, as_name: str | None, as_json: bool) -> None:
    """Copy a snapshot into another store: only what is not there already.

    URL is any that fsspec knows, as in s3://bucket/path or file:///path, or a directory;
    default: $JUPYTER_CR_STORE.
    """
    from jupyter_cr.cli.progress import progress_bar
    from jupyter_cr.operations import push_snapshot

    with progress_bar() as progress:
        result = push_snapshot(name, where, as_name, progress=progress)
    if as_json:
        _print_json(result)
    else:
        from jupyter_cr.cli.display import show_pushed

        show_pushed(result)


@cr.command()
@click.argument("name")
@_url_argument
@click.option("--as", "as_name", metavar="NAME", help="What it is to be called here.")
@_json_option
@_debug_option
def pull(name: str, where: str, as_name: str | None, as_json: bool) -> None:
    """Copy a snapshot from another store, as `push` has put it there."""
    from jupyter_cr.cli.progress import progress_bar
    from jupyter_cr.operations import pull_snapshot

    with progress_bar() as progress:
        result = pull_snapshot(name, where, as_name, progress=progress)
    if as_json:
        _print_json(result)
    else:
        from jupyter_cr.cli.display import show_pulled

        show_pulled(result)


@cr.command()
@click.argument("target")
@click.option("--note", default="", help="Any text, to be shown with it.")
@_json_option
@_debug_option
def hibernate(target: str, note: str, as_json: bool) -> None:
    """Save TARGET, and end it until it is restored: it needs no memory meanwhile."""
    from jupyter_cr.cli.progress import progress_bar
    from jupyter_cr.cli.routing import hibernate_target

    with progress_bar() as progress:
        result = hibernate_target(target, note=note, progress=progress)
    if as_json:
        _print_json(result)
    else:
        from jupyter_cr.cli.display import show_hibernation

        show_hibernation(result)


@cr.command()
@click.argument("kernel", metavar="KERNEL")
@click.argument("switch", type=click.Choice(["on", "off"]))
@_json_option
@_debug_option
def timeline(kernel: str, switch: str, as_json: bool) -> None:
    """Have a snapshot in memory before each cell of KERNEL, to undo it; or no more.

    It is remembered for the kernel's notebook. In JupyterLab each cell can be undone then;
    the server that looks after the kernel has to run.
    """
    from jupyter_cr.cli.routing import switch_timeline

    switched = switch_timeline(kernel, switch == "on")
    if as_json:
        _print_json(switched)
    else:
        click.echo(f"The timeline of kernel {switched.kernel_id} is {switch}.")


@cr.command("list")
@click.option("--limit", type=click.IntRange(1), help="The newest ones only.")
@click.option(
    "--tree", is_flag=True, help="Each below the one that its kernel was at before."
)
@_store_option
@_json_option
@_debug_option
def list_command(limit: int | None, tree: bool, where: str, as_json: bool) -> None:
    """All snapshots, oldest first."""
    from jupyter_cr.operations import list_snapshots
    from jupyter_cr.store.places import open_store

    snapshots = list_snapshots(limit=limit, store=open_store(where))
    if as_json:
        _print_json(snapshots)
    else:
        from jupyter_cr.cli.display import show_list, show_tree, show_twins

        (show_tree if tree else show_list)(snapshots)
        if warm := sum(snapshot.state in ("warm", "live") for snapshot in snapshots):
            from jupyter_cr.operations import twins_cost

            show_twins(warm, twins_cost())
        if not where:
            from jupyter_cr.cli.display import show_older
            from jupyter_cr.store import Store

            store = Store()
            show_older(store.root, store.untold())


@cr.command()
@click.argument("name")
@_store_option
@_json_option
@_debug_option
def show(name: str, where: str, as_json: bool) -> None:
    """What is in a snapshot: processes, descriptors, memory by kind."""
    from jupyter_cr.operations import show_snapshot
    from jupyter_cr.store.places import open_store

    details = show_snapshot(name, store=open_store(where))
    if as_json:
        _print_json(details)
    else:
        from jupyter_cr.cli.display import show_details

        show_details(details)


@cr.command()
@click.argument("before", metavar="NAME")
@click.argument("after", metavar="[NAME]", required=False)
@click.option(
    "--variables/--no-variables",
    default=True,
    help="Look at variables, too: in forks, which are thrown away.",
)
@_json_option
@_debug_option
def diff(before: str, after: str | None, variables: bool, as_json: bool) -> None:
    """How the second of two snapshots differs from the first: variables, the notebook,
    processes and files, memory.

    Without a second one, how what the kernel has now differs.
    """
    from jupyter_cr.cli.routing import compare

    found = compare(before, after, variables=variables)
    if as_json:
        _print_json(found)
    else:
        from jupyter_cr.cli.display import console
        from jupyter_cr.glue.comparison import show_comparison

        show_comparison(found, console())


@cr.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@_store_option
@_json_option
@_debug_option
def rm(names: tuple[str, ...], where: str, as_json: bool) -> None:
    """Remove snapshots: all, or none if one of the names is wrong."""
    from jupyter_cr.operations import remove_snapshots
    from jupyter_cr.store.places import open_store

    freed = remove_snapshots(names, store=open_store(where))
    if as_json:
        _print_json(freed)
    else:
        from jupyter_cr.cli.display import show_freed

        show_freed(freed)


@cr.command()
@click.argument("name")
@click.option(
    "--signer",
    metavar="WHO",
    help="Trust all that comes from whoever has exported it, and call that one WHO.",
)
@_json_option
@_debug_option
def trust(name: str, signer: str | None, as_json: bool) -> None:
    """Say that a snapshot from elsewhere may be restored.

    To restore a snapshot is to run its code, with all that you may do. Those that were
    taken here are trusted already.
    """
    from jupyter_cr.operations import trust_snapshot

    trusted = trust_snapshot(name, with_signer=signer)
    if as_json:
        _print_json(trusted)
        return
    sys.stdout.write(f"Snapshot {name} may be restored\n")


@cr.command("new-key")
@click.argument("file", type=click.Path(dir_okay=False))
@_json_option
@_debug_option
def new_key(file: str, as_json: bool) -> None:
    """Make a key with which snapshots are encrypted from now on, where JUPYTER_CR_KEY_FILE
    names its FILE. Keep it apart from them; without it they cannot be restored.
    """
    from jupyter_cr.store.key_file import KEY_VARIABLE, make_key

    path = Path(file).absolute()
    make_key(path)
    if as_json:
        _print_json({"file": str(path)})
    else:
        sys.stdout.write(f"export {KEY_VARIABLE}={shlex.quote(str(path))}\n")


@cr.command()
@click.option("--remove", metavar="WHO", help="Trust them no more: a name, or a key.")
@_json_option
@_debug_option
def signers(remove: str | None, as_json: bool) -> None:
    """Your own public key, and those of whom you trust."""
    from jupyter_cr.store.signers import Signers

    known = Signers()
    if remove is not None:
        found = [key for key, who in known.trusted().items() if remove in (key, who)]
        if not found:
            raise UsageError(f"Nobody called {remove} is trusted.", "jupyter cr signers")
        for key in found:
            known.distrust(key)
    if as_json:
        _print_json({"own": known.own(), "trusted": known.trusted()})
        return
    sys.stdout.write(f"{known.own()}  you\n")
    for key, who in known.trusted().items():
        sys.stdout.write(f"{key}  {who}\n")


@cr.command()
@click.argument("name")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option(
    "--with-files", is_flag=True, help="And the files that it had open under a name."
)
@_json_option
@_debug_option
def export(name: str, file: str, with_files: bool, as_json: bool) -> None:
    """Write a snapshot, and all that it needs of the store, to one FILE; - is standard
    output: jupyter cr export NAME - | ssh HOST jupyter cr import -

    It holds all that was in memory, passwords and keys included.
    """
    from jupyter_cr.bundles import export_snapshot

    if file == "-":
        export_snapshot(name, sys.stdout.buffer, with_files=with_files)
        return
    with new_file(Path(file)) as stream:
        facts = export_snapshot(name, stream, with_files=with_files)
    if as_json:
        _print_json(facts)
    else:
        sys.stdout.write(f"Snapshot {name} is in {file}\n")
        for found in facts.files:
            sys.stdout.write(f"with {printable(found.path)}\n")


@cr.command("import")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--name", help="Of the snapshot here; default: the one that it had.")
@click.option(
    "--with-files",
    is_flag=True,
    help="Put files that came with it where they were, if there is none.",
)
@_json_option
@_debug_option
def import_(file: str, name: str | None, with_files: bool, as_json: bool) -> None:
    """Take a snapshot out of a FILE that `jupyter cr export` has made; - is standard input.

    It can be restored if you trust whoever has exported it (`jupyter cr signers`), or
    after `jupyter cr trust`. What a restore would need and not find here is listed.
    """
    from jupyter_cr.bundles import import_snapshot

    with open_file(file) as stream:
        result = import_snapshot(stream, file, name=name, with_files=with_files)
    if as_json:
        _print_json(result)
    else:
        from jupyter_cr.cli.display import show_imported

        show_imported(result)


@cr.command()
@click.argument("name")
@click.argument("tags", metavar="[TAG]...", nargs=-1)
@click.option("--remove", metavar="TAG", multiple=True, help="Take it away again.")
@_store_option
@_json_option
@_debug_option
def tag(
    name: str, tags: tuple[str, ...], remove: tuple[str, ...], where: str, as_json: bool
) -> None:
    """Give a snapshot tags; without any, show those that it has."""
    from jupyter_cr.operations import tag_snapshot
    from jupyter_cr.store.places import open_store

    now = tag_snapshot(name, tags, remove, store=open_store(where))
    if as_json:
        _print_json(now)
    else:
        sys.stdout.write("".join(f"{word}\n" for word in now))


@cr.command()
@click.argument("name")
@click.argument("new_name", metavar="NEW_NAME")
@_store_option
@_json_option
@_debug_option
def rename(name: str, new_name: str, where: str, as_json: bool) -> None:
    """Give a snapshot another name."""
    from jupyter_cr.operations import rename_snapshot
    from jupyter_cr.store.places import open_store

    rename_snapshot(name, new_name, store=open_store(where))
    if as_json:
        _print_json({"name": new_name})
    else:
        sys.stdout.write(f"Snapshot {name} is called {new_name} now\n")


@cr.command()
@click.option(
    "--policy",
    help='What is kept, as in "last 10, one per day for a week, all named"; default: '
    "$JUPYTER_CR_RETENTION.",
)
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@_store_option
@_json_option
@_debug_option
def prune(policy: str | None, dry_run: bool, where: str, as_json: bool) -> None:
    """Remove the snapshots that a policy does not keep.

    \b
    keep last N                 the newest N of each kernel
    one per UNIT [for SPAN]     of each minute, hour, day, week, month or year
                                the last one
    for SPAN                    those that are not older
    all named                   those for whose name somebody asked
    tagged TAG, all tagged      those with that tag, or with any
    all                         every one

    SPAN is "a day", "12 hours", "2 weeks" and the like. What one of several rules
    keeps, with commas between them, is kept. So is what is in memory, in use, damaged, or
    hibernates.
    """
    from jupyter_cr.operations import prune_snapshots
    from jupyter_cr.store.keeping import retention_policy
    from jupyter_cr.store.places import open_store

    chosen = policy or retention_policy()
    if not chosen:
        raise UsageError(
            "There is no policy.", 'Give one: jupyter cr prune --policy "keep last 10"'
        )
    pruned = prune_snapshots(chosen, dry_run=dry_run, store=open_store(where))
    if as_json:
        _print_json(pruned)
    else:
        from jupyter_cr.cli.display import show_pruned

        show_pruned(pruned)


@cr.command()
@_store_option
@click.option(
    "--older-than",
    "hours",
    type=click.FloatRange(0),
    help="With --store URL: spare what was written in the last so many hours, as a push "
    "that is under way may need it; default: 24.",
)
@_json_option
@_debug_option
def gc(where: str, hours: float | None, as_json: bool) -> None:
    """Delete what killed processes have left, and put the catalogue right.

    Safe at any time, also while snapshots are being taken.
    """
    from jupyter_cr.operations import collect_garbage
    from jupyter_cr.store.places import open_store

    seconds = None if hours is None else hours * 3600
    freed = collect_garbage(older_than_s=seconds, store=open_store(where))
    if as_json:
        _print_json(freed)
    else:
        from jupyter_cr.cli.display import show_freed

        show_freed(freed)


@cr.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--all", "is_all", is_flag=True, help="All snapshots that there are.")
@_store_option
@_json_option
@_debug_option
def verify(names: tuple[str, ...], is_all: bool, where: str, as_json: bool) -> int:
    """Check every record and every page of snapshots.

    Exit code 7 if one is damaged.
    """
    from jupyter_cr.cli.progress import progress_bar
    from jupyter_cr.operations import verify_snapshot, verify_snapshots
    from jupyter_cr.store.places import open_store

    if is_all == bool(names):
        raise UsageError(
            "Which snapshots are to be verified?", "Give their names, or --all."
        )
    store = open_store(where)
    with progress_bar() as progress:
        if len(names) == 1:
            # Raises what is wrong with it.
            results: tuple[VerifyResult, ...]
            results = (verify_snapshot(names[0], store=store, progress=progress),)
        else:
            wanted = None if is_all else names
            results = verify_snapshots(wanted, store=store, progress=progress)
    if as_json:
        _print_json(results[0] if len(names) == 1 else results)
    else:
        from jupyter_cr.cli.display import show_verified

        for result in results:
            show_verified(result)
    is_sound = not any(result.problem for result in results)
    return 0 if is_sound else CorruptImage.exit_code


@cr.command()
@click.argument("name")
@click.option("--lazy", is_flag=True, help="Let it run before all of its memory is there.")
@_wait_option
@_store_option
@_json_option
@_debug_option
def restore(name: str, lazy: bool, wait: bool, where: str, as_json: bool) -> int:
    """Bring a snapshot back in place of what runs now: same pids, same ports.

    With --store, it is copied into your own store first.
    """
    from jupyter_cr.cli.progress import progress_bar
    from jupyter_cr.cli.routing import restore_snapshot

    _refuse_waiting_lazily(wait, lazy)
    with progress_bar() as progress:
        name = _obtain(name, where, progress)
        result = restore_snapshot(name, lazy=lazy, wait=wait, progress=progress)
    if as_json:
        _print_json(result)
    else:
        from jupyter_cr.cli.display import show_restored

        show_restored(result)
    return _wait(result) if wait else 0


@cr.command()
@click.argument("name")
@click.option(
    "--connection-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="To be written; a new kernel's in Jupyter's directory if not given.",
)
@click.option("--lazy", is_flag=True, help="Let it run before all of its memory is there.")
@click.option(
    "--keep-key",
    is_flag=True,
    help="Leave it the original's session key: who may talk to the one may talk to the "
    "other. Saves a moment.",
)
@_wait_option
@_store_option
@_json_option
@_debug_option
def fork(
    name: str,
    connection_file: Path | None,
    lazy: bool,
    keep_key: bool,
    wait: bool,
    where: str,
    as_json: bool,
) -> int:
    """Bring a snapshot back beside the original, on ports of its own.

    With --store, it is copied into your own store first.
    """
    from jupyter_cr.cli.progress import progress_bar
    from jupyter_cr.cli.routing import is_asked_within
    from jupyter_cr.operations import fork

    _refuse_waiting_lazily(wait, lazy)
    with progress_bar() as progress:
        name = _obtain(name, where, progress)
        result = fork(
            name,
            connection_file=connection_file,
            lazy=lazy,
            keep_key=keep_key,
            asked_within=is_asked_within(name),
            progress=progress,
        )
    if as_json:
        _print_json(result)
    else:
        from jupyter_cr.cli.display import show_forked

        show_forked(result)
    return _wait(result) if wait else 0


def _obtain(name: str, where: str, progress: Progress | None) -> str:
    """The name here of what is to be brought back."""
    if not where:
        return name
    from jupyter_cr.operations import obtain_snapshot

    return obtain_snapshot(name, where, progress=progress)


def _refuse_waiting_lazily(wait: bool, lazy: bool) -> None:
    if wait and lazy:
        raise UsageError(
            "--wait and --lazy do not go together.",
            "A lazily restored kernel belongs to the process that brings its pages.",
        )


def _wait(result: RestoreResult) -> int:
    """What was printed has to be seen now, not at the end."""
    from jupyter_cr.operations import wait_for_end

    sys.stdout.flush()
    return wait_for_end(result)


for _command in LESSON_COMMANDS:
    cr.add_command(_command)
