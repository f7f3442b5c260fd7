/**
 * What the server says: the schemas of `jupyter_cr/server/openapi.yaml` and the events of
 * `jupyter_cr/server/event_schemas/snapshot/v1.yaml`, under the same names.
 */

/** In which state a snapshot is. */
export type State =
  | 'saving'
  | 'live'
  | 'memory'
  | 'warm'
  | 'durable'
  | 'corrupt'
  | 'future'
  | 'locked';

/** One line of a list of snapshots. */
export interface ISnapshot {
  name: string;
  /** Stays what it is when the name changes. */
  id: string;
  state: State;
  /** How much of it is on disk, from 0 to 1. */
  saved: number;
  /** ISO 8601. */
  created: string;
  /** On disk: `own` and `shared`. */
  bytes: number;
  /** Bytes of memory in it. */
  logical: number;
  /** Of its image, and of the pages that it was the first to have. */
  own: number;
  shared: number;
  /** Whether somebody asked for its name, or it was made up. */
  named: boolean;
  /** The snapshot that the kernel was at when it was taken; empty if none. */
  parent: string;
  tags: string[];
  /** Whether it was taken here, or its owner has said that it may be restored. */
  trusted: boolean;
  /** Public key of whoever has exported it; empty if it was taken here. */
  signer: string;
  note: string;
  /** Empty if it was no kernel. */
  kernel_id: string;
  kernel_name: string;
  /** Of the notebook that the kernel worked for; empty if there was none. */
  path: string;
  has_document: boolean;
  /** Why it was taken without being asked for; empty if it was asked for. */
  automatic: string;
  pid: number;
  comm: string;
  processes: number;
  /** How long the kernel stood still. */
  downtime_ms: number | null;
  /**
   * Prompt and first line of the cell that was run last, or, with `[*]`, that ran; empty if
   * that is not known, or encrypted.
   */
  cell: string;
  /** What is wrong with one that cannot be used. */
  problem: string;
}

/** Some of the snapshots, newest first. */
export interface IPage {
  snapshots: ISnapshot[];
  total: number;
  /** Id of each kernel that they were taken of, or that is at one, and the snapshot that it
   * last was at. */
  positions: { [kernelId: string]: string };
}

/** A front end's request that the kernel goes on with. */
export interface IRunningRequest {
  msg_id: string;
  /** Empty if it came from no cell. */
  cell_id: string;
}

/** A cell that was run. */
export interface ICell {
  /** As in its prompt. */
  number: number;
  /** Its first line that is not empty. */
  source: string;
}

/** All mappings of a kind, in bytes. */
export interface IMemory {
  kind: string;
  mappings: number;
  virtual: number;
  stored: number;
}

/** An open file of a process. */
export interface IDescriptor {
  fd: number;
  kind: string;
  what: string;
  /** The same wherever an open file is shared. */
  file: number;
  cloexec: boolean;
}

/** One process, with pids as it sees them itself. */
export interface IProcess {
  pid: number;
  ppid: number;
  name: string;
  command: string[];
  state: string;
  cwd: string;
  threads: string[];
  descriptors: IDescriptor[];
  memory: IMemory[];
}

/** All that is known of a snapshot. */
export interface ISnapshotDetails {
  snapshot: ISnapshot;
  header: {
    created: string;
    release: string;
    machine: string;
    tool: string;
    notebook: {
      path: string;
      type: string;
      running: IRunningRequest[];
      /** The one that had been run last; null if that is not known. */
      last_cell: ICell | null;
      /** The one that ran. */
      running_cell: ICell | null;
    };
  };
  outcome: { downtime_ms: number; elapsed_ms: number; bytes: number } | null;
  content: {
    processes: IProcess[];
    shared: { name: string; size: number; stored: number }[];
    /** Bytes of memory in all. */
    stored: number;
  };
}

/** A snapshot of a kernel was taken. */
export interface ICheckpointAnswer {
  name: string;
  state: State;
  downtime_ms: number;
  elapsed_ms: number;
  bytes: number;
  /** The snapshot that the kernel was at before; empty if at none. */
  parent: string;
  kernel_id: string;
  path: string;
  warnings: string[];
}

/** A kernel is what it was. */
export interface IRestoreAnswer {
  kernel_id: string;
  snapshot: string;
  /** The snapshot of what ran before. */
  kept: string | null;
  path: string;
  elapsed_ms: number;
  warnings: string[];
  running: IRunningRequest[];
  /** The snapshot that the kernel is at now. */
  position: string;
}

/** A new kernel runs. */
export interface IForkAnswer {
  snapshot: string;
  kernel_id: string;
  /** Of its notebook; empty if it has none. */
  path: string;
  /** Empty if it has none. */
  session_id: string;
  key_renewed: boolean;
  elapsed_ms: number;
  warnings: string[];
  running: IRunningRequest[];
  /** The snapshot that the new kernel is at. */
  position: string;
}

/** What has become of a run. */
export type Outcome =
  'running' | 'ok' | 'error' | 'aborted' | 'died' | 'restarted' | 'restored';

/** What has changed a kernel: a cell, or a restart or a restore. */
export interface IRun {
  /** Empty if it was no cell. */
  msg_id: string;
  cell_id: string;
  /** The beginning of it. */
  code: string;
  /** ISO 8601. */
  started: string;
  outcome: Outcome;
  /** Id of the notebook as it was just before; empty if nobody has told. */
  document: string;
}

/** A state of a kernel to go back to. */
export interface IPoint {
  /** Of the snapshot. */
  name: string;
  /** ISO 8601. */
  created: string;
  /** The point before; empty if there is none. */
  parent: string;
  /** What led from there to here. */
  runs: IRun[];
  document: string;
  /** Cells in the middle of which it was taken. */
  unfinished: IRun[];
}

/** The timeline of a kernel. */
export interface ITimelineAnswer {
  kernel_id: string;
  is_on: boolean;
  /** Whether somebody has said so. */
  is_chosen: boolean;
  /** Oldest first. */
  points: IPoint[];
  /** The point that the kernel has grown from. */
  base: string;
  /** What was run since. */
  since: IRun[];
  /** The point to which one step back leads; empty if there is none. */
  back: string;
  forward: string;
  /** Of memory that its points take. */
  bytes: number;
  /** That all points of the server may take; 0 if there is no limit. */
  limit: number;
  /** Why the last cell has no point before it. */
  problem: string;
  hint: string;
}

/** A kernel has gone to another point. */
export interface ITravelAnswer {
  kernel_id: string;
  point: string;
  /** The point that it has left; empty if it is lost. */
  left: string;
  /** Id of the notebook that belongs there; empty if there is none. */
  document: string;
  /** If it went back: the cell before which it is. */
  run: IRun | null;
  elapsed_ms: number;
  warnings: string[];
}

/** A snapshot came from elsewhere. */
export interface IImportResult {
  name: string;
  /** Public key of whoever has exported it, hexadecimal. */
  signer: string;
  /** Whether it can be restored as it is. */
  trusted: boolean;
  /** What a restore needs and does not find here, in sentences. */
  missing: string[];
  warnings: string[];
}

/** A prepared state that somebody has published. */
export interface ILesson {
  title: string;
  note: string;
  /** What that one is called here, or else by themselves. */
  publisher: string;
  /** ISO 8601. */
  published: string;
  /** Public key of whoever has published it, hexadecimal. */
  signer: string;
  /** Whether the user or the administrator trusts that one. */
  trusted: boolean;
  /** Whether this user has published it. */
  own: boolean;
  /** Of memory that it holds. */
  bytes: number;
  kernel_name: string;
  /** How often it was started; null if that is not known, or not to this user. */
  starts: number | null;
}

/** What is to be known of a lesson before it is started. */
export interface ILessonDetails {
  lesson: ILesson;
  /** What it needs and does not find on the server's machine, in sentences. */
  missing: string[];
}

/** What there is to start from. */
export interface ILessonsAnswer {
  /** URL or directory; empty if the administrator has named none. */
  where: string;
  lessons: ILesson[];
}

/** A lesson is published. */
export interface IPublishResult {
  title: string;
  /** Its name in the user's own store. */
  snapshot: string;
  url: string;
  /** Bytes of memory that it holds. */
  logical: number;
  /** That were sent. */
  bytes: number;
  elapsed_ms: number;
  warnings: string[];
}

/** A variable, as a person wants to see it. */
export interface IVariable {
  name: string;
  type: string;
  /** Or length; empty if it has none. */
  shape: string;
  /** A few words. */
  value: string;
}

/** A variable that is not the same, or may not be. */
export interface IVariableDifference {
  name: string;
  /** `unknown`: nobody can tell whether it is the same. */
  change: 'added' | 'removed' | 'changed' | 'unknown';
  before: IVariable | null;
  after: IVariable | null;
}

/** A cell whose source is not the same. */
export interface ICellDifference {
  id: string;
  change: 'added' | 'removed' | 'changed';
  /** The first line. */
  source: string;
  /** Lines of both, each with +, - or a space before it. */
  diff: string[];
}

/** A process that is not the same, by its own pid. */
export interface IProcessDifference {
  pid: number;
  name: string;
  change: 'added' | 'removed' | 'changed';
  /** Before and after, if that is not the same. */
  state: [string, string] | null;
  threads: [number, number] | null;
  opened: IDescriptor[];
  closed: IDescriptor[];
}

/** How the second of two snapshots differs from the first. */
export interface IComparison {
  before: string;
  /** Empty if that was the kernel as it is now. */
  after: string;
  variables: {
    differences: IVariableDifference[];
    /** How many are the same. */
    same: number;
    /** Why they could not be compared; empty if they were. */
    problem: string;
    /** How many were not looked at. */
    left_out: number;
  };
  document: {
    cells: ICellDifference[];
    /** All of it, as nbdime tells it; empty where that is not installed. */
    text: string;
    problem: string;
  };
  processes: IProcessDifference[];
  /** In bytes, of all processes that are in both. */
  memory: {
    changed: number;
    added: number;
    removed: number;
    same: number;
    problem: string;
  };
}

/** A problem document (RFC 9457). */
export interface IProblem {
  type: string;
  title: string;
  status: number;
  /** What happened, naming the object. */
  detail: string;
  /** The next step. */
  hint: string;
  /** The kind of error as one word. */
  error: string;
  exit_code: number;
  /** Whether it is only that what runs now could not be kept before a restore. */
  not_kept: boolean;
}

/** What a task does. */
export type Operation =
  | 'checkpoint'
  | 'hibernate'
  | 'restore'
  | 'resume'
  | 'fork'
  | 'undo'
  | 'import'
  | 'travel'
  | 'keep'
  | 'reset'
  | 'start'
  | 'publish'
  | 'diff'
  | 'adopt';

/** An operation, as it is now. */
export interface ITask {
  id: string;
  operation: Operation;
  kernel_id: string | null;
  snapshot: string | null;
  state: 'running' | 'done' | 'failed' | 'cancelled';
  progress: { phase: string; fraction: number };
  result:
    | ICheckpointAnswer
    | IRestoreAnswer
    | IForkAnswer
    | IImportResult
    | ITravelAnswer
    | IPublishResult
    | IComparison
    | ISnapshot
    | null;
  error: IProblem | null;
}

/** One thing that Linux permits or refuses on the server's machine. */
export interface ICapability {
  name: string;
  ok: boolean;
  /** What does not work without it. */
  required_for: string;
  detail: string;
  advice: string;
}

/** What the server's machine and user permit. */
export interface ICapabilities {
  can_checkpoint: boolean;
  /** And fork. */
  can_restore: boolean;
  /** Names of the items that stand in the way of either. */
  missing: string[];
  items: ICapability[];
}

/** What has happened, in `ISnapshotEvent`. */
export type Action =
  | 'created'
  | 'saving'
  | 'durable'
  | 'restored'
  | 'forked'
  | 'hibernated'
  | 'deleted'
  | 'updated'
  | 'failed'
  | 'timeline'
  | 'travelled';

/** An event. A field that has nothing to say is left out. */
export interface ISnapshotEvent {
  /** When it was told, ISO 8601 (jupyter_events). */
  __timestamp__?: string;
  action: Action;
  snapshot?: string;
  former_name?: string;
  kernel_id?: string;
  new_kernel_id?: string;
  path?: string;
  state?: State;
  /** The snapshot that the kernel was at when this one was taken. */
  parent?: string;
  /** The snapshot that the kernel is at now; of a fork, the new kernel. */
  position?: string;
  fraction?: number;
  /** `save`: a snapshot that could be restored already did not get onto the disk. */
  operation?: Operation | 'save';
  task?: string;
  message?: string;
  hint?: string;
  /** Id of the notebook that belongs to the point. */
  document?: string;
  running?: IRunningRequest[];
}

/** The schema of the events. */
export const EVENT_SCHEMA = 'https://schema.jupyter.org/jupyter_cr/snapshot/v1';
