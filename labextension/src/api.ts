import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';
import type { ISignal } from '@lumino/signaling';

import type {
  ICapabilities,
  ICheckpointAnswer,
  IComparison,
  IForkAnswer,
  IImportResult,
  ILessonDetails,
  ILessonsAnswer,
  IPage,
  IProblem,
  IPublishResult,
  IRestoreAnswer,
  ISnapshot,
  ISnapshotDetails,
  Action,
  ISnapshotEvent,
  ITask,
  ITimelineAnswer,
  ITravelAnswer,
  Operation
} from './types';

/** How long to wait before a task is asked for that no event has told of, in ms. */
const UNHEARD_MS = 1000;

/** Events come a moment before their task has ended; how soon to ask again, in ms. */
const SETTLING_MS = 15;

/** How to go along with an operation. */
export interface IFollow {
  /** Told how far it is, from 0 to 1. */
  progress?: (fraction: number) => void;
  /** Calls it off. */
  signal?: AbortSignal;
}

/**
 * What went wrong, and what can be done about it.
 */
export class SnapshotError extends Error {
  /**
   * @param message What happened, naming the object.
   * @param hint The next step; may be empty.
   * @param kind The kind of error, as the server's `error` says.
   * @param status HTTP's; 0 if there was no answer.
   * @param isNotKept Whether it is only that what runs now could not be kept.
   */
  constructor(
    message: string,
    readonly hint = '',
    readonly kind = '',
    readonly status = 0,
    readonly isNotKept = false
  ) {
    super(message);
    this.name = 'SnapshotError';
  }

  /** Of a problem document. */
  static of(problem: IProblem): SnapshotError {
    return new SnapshotError(
      problem.detail,
      problem.hint,
      problem.error,
      problem.status,
      problem.not_kept
    );
  }

  /** Whether the server does not know of snapshots at all. */
  get isMissing(): boolean {
    return this.status === 404 && this.kind === '';
  }
}

/** Which snapshots are wanted: those to which all of it applies. */
export interface IQuery {
  kernel_id?: string;
  path?: string;
  q?: string;
  /** 0: all. */
  limit?: number;
}

/** What can be said of a snapshot to be taken. */
export interface ICheckpointOptions {
  /** Made up by the server by default. */
  name?: string;
  note?: string;
  warm?: boolean;
  /** The state of the snapshot in which that is done. */
  until?: 'durable' | 'live';
}

/** What can be said of a restore. */
export interface IRestoreOptions {
  keep?: boolean;
  document?: boolean;
  lazy?: boolean;
}

/** To which point of its timeline a kernel is to go, and with what. */
export interface ITravelOptions {
  /** So many back (negative) or forward; or to `point`. */
  steps?: number;
  point?: string;
  /** Whether what runs now is kept. */
  keep?: boolean;
  /** The notebook as it is now. */
  document?: object;
}

/**
 * The server's REST interface.
 *
 * Whatever fails is a `SnapshotError`.
 */
export class SnapshotClient {
  /**
   * @param serverSettings Of the server.
   * @param events Its events, so that nobody has to poll.
   */
  constructor(
    readonly serverSettings: ServerConnection.ISettings,
    private readonly events: ISignal<unknown, ISnapshotEvent>
  ) {}

  /** Snapshots, newest first. */
  async list(query: IQuery = {}): Promise<IPage> {
    const given = Object.entries({ limit: 0, ...query }).filter(
      ([, value]) => value !== undefined
    );
    const search = URLExt.objectToQueryString(
      Object.fromEntries(given.map(([key, value]) => [key, String(value)]))
    );
    return this.request<IPage>('GET', 'snapshots' + search);
  }

  /** A snapshot as it is in the list. */
  async summary(name: string): Promise<ISnapshot> {
    return this.request('GET', `${snapshotPath(name)}/summary`);
  }

  /** All that is known of a snapshot. */
  async details(name: string): Promise<ISnapshotDetails> {
    return this.request('GET', snapshotPath(name));
  }

  /** The notebook that was saved with a snapshot, in nbformat. */
  async document(name: string): Promise<unknown> {
    return this.request('GET', `${snapshotPath(name)}/document`);
  }

  /** Give a snapshot another name, or note, or both. */
  async update(
    name: string,
    change: { name?: string; note?: string }
  ): Promise<ISnapshot> {
    return this.request('PATCH', snapshotPath(name), change);
  }

  /**
   * Remove a snapshot.
   *
   * @param isLast Whether the page is about to go away.
   */
  async delete(name: string, isLast = false): Promise<void> {
    await this.request('DELETE', snapshotPath(name), undefined, {
      keepalive: isLast
    });
  }

  /** What the server's machine and user permit. */
  async capabilities(): Promise<ICapabilities> {
    return this.request('GET', 'capabilities');
  }

  /** Say that a snapshot from elsewhere may be restored. */
  async trust(name: string): Promise<ISnapshot> {
    return this.request('POST', `${snapshotPath(name)}/trust`);
  }

  /** Where a snapshot is, in one file, for the browser to save. */
  bundleUrl(name: string): string {
    const { token, appendToken } = this.serverSettings;
    return (
      this.url(`${snapshotPath(name)}/bundle`) +
      (appendToken && token ? URLExt.objectToQueryString({ token }) : '')
    );
  }

  /** Take a snapshot out of a file. */
  async import(file: File, follow: IFollow = {}): Promise<IImportResult> {
    const query = URLExt.objectToQueryString({ source: `“${file.name}”` });
    return this.run(`import${query}`, file, follow);
  }

  /** Take a snapshot of a kernel, which goes on. */
  async checkpoint(
    kernelId: string,
    options: ICheckpointOptions = {},
    follow: IFollow = {}
  ): Promise<ICheckpointAnswer> {
    return this.run(kernelPath(kernelId, 'checkpoint'), options, follow);
  }

  /** Save a kernel, and end it until it is resumed. */
  async hibernate(
    kernelId: string,
    follow: IFollow = {}
  ): Promise<ICheckpointAnswer> {
    return this.run(kernelPath(kernelId, 'hibernate'), {}, follow);
  }

  /** Bring a kernel back to a snapshot of it. */
  async restore(
    kernelId: string,
    snapshot: string,
    options: IRestoreOptions = {},
    follow: IFollow = {}
  ): Promise<IRestoreAnswer> {
    const body = { snapshot, ...options };
    return this.run(kernelPath(kernelId, 'restore'), body, follow);
  }

  /** Bring a kernel back to its last snapshot; done again, to the one before it. */
  async undo(kernelId: string, follow: IFollow = {}): Promise<IRestoreAnswer> {
    return this.run(kernelPath(kernelId, 'undo'), {}, follow);
  }

  /**
   * Start a new kernel from a snapshot.
   *
   * @param path Of the copy of its notebook; made up by the server by default.
   */
  async fork(
    snapshot: string,
    path?: string,
    follow: IFollow = {}
  ): Promise<IForkAnswer> {
    const body = path ? { path } : {};
    return this.run(`${snapshotPath(snapshot)}/fork`, body, follow);
  }

  /** Start a new kernel that goes on from where this one is now. */
  async forkKernel(
    kernelId: string,
    path?: string,
    follow: IFollow = {}
  ): Promise<IForkAnswer> {
    const body = path ? { path } : {};
    return this.run(kernelPath(kernelId, 'fork'), body, follow);
  }

  /**
   * The same without a notebook, to try something in.
   *
   * @returns With the name of a snapshot in memory that the fork can be compared with;
   * whoever asks deletes it.
   */
  async forkToTry(
    kernelId: string,
    follow: IFollow = {}
  ): Promise<IForkAnswer> {
    const body = { document: false, hold: true };
    return this.run(kernelPath(kernelId, 'fork'), body, follow);
  }

  /** Have a fork take a kernel's place. */
  async adopt(
    kernelId: string,
    fork: string,
    keep: boolean,
    follow: IFollow = {}
  ): Promise<IRestoreAnswer> {
    return this.run(kernelPath(kernelId, 'adopt'), { fork, keep }, follow);
  }

  /** How one snapshot differs from another. */
  async compare(
    before: string,
    after: string,
    follow: IFollow = {}
  ): Promise<IComparison> {
    return this.run(`${snapshotPath(before)}/diff`, { after }, follow);
  }

  /** How a kernel, as it is now, differs from a snapshot. */
  async compareNow(
    kernelId: string,
    before: string,
    follow: IFollow = {}
  ): Promise<IComparison> {
    return this.run(kernelPath(kernelId, 'diff'), { before }, follow);
  }

  /** The timeline of a kernel. */
  async timeline(kernelId: string): Promise<ITimelineAnswer> {
    return this.request('GET', kernelPath(kernelId, 'timeline'));
  }

  /** Have a point before each cell of a kernel, or not. */
  async switchTimeline(
    kernelId: string,
    isOn: boolean
  ): Promise<ITimelineAnswer> {
    const body = { is_on: isOn };
    return this.request('PUT', kernelPath(kernelId, 'timeline'), body);
  }

  /** Bring a kernel to another point of its timeline. */
  async travel(
    kernelId: string,
    where: ITravelOptions,
    follow: IFollow = {}
  ): Promise<ITravelAnswer> {
    return this.run(kernelPath(kernelId, 'timeline/travel'), where, follow);
  }

  /** Make a point a snapshot that stays. */
  async keepPoint(
    kernelId: string,
    point: string,
    name: string,
    follow: IFollow = {}
  ): Promise<ISnapshot> {
    const path = `timeline/points/${encodeURIComponent(point)}/keep`;
    return this.run(kernelPath(kernelId, path), { name }, follow);
  }

  /** Have the notebook kept as it was just before a cell. */
  async noteDocument(
    kernelId: string,
    msgId: string,
    content: Blob
  ): Promise<void> {
    const path = `timeline/runs/${encodeURIComponent(msgId)}/document`;
    await this.request('PUT', kernelPath(kernelId, path), content);
  }

  /** A notebook as it was at a point. */
  async timelineDocument(kernelId: string, id: string): Promise<unknown> {
    return this.request(
      'GET',
      kernelPath(kernelId, `timeline/documents/${id}`)
    );
  }

  /** The lessons that can be started. */
  async lessons(): Promise<ILessonsAnswer> {
    return this.request('GET', 'lessons');
  }

  /** What is to be known of one before it is started. */
  async lesson(title: string): Promise<ILessonDetails> {
    return this.request('GET', lessonPath(title));
  }

  /** Have others start from a snapshot. */
  async publish(
    body: { snapshot: string; title: string; note?: string },
    follow: IFollow = {}
  ): Promise<IPublishResult> {
    return this.run('lessons', body, follow);
  }

  /** Take a lesson away. */
  async withdraw(title: string): Promise<void> {
    await this.request('DELETE', lessonPath(title));
  }

  /**
   * Start a new kernel from a lesson, with a notebook of its own.
   *
   * @param body With the publisher's key, if somebody has just said that it is trusted.
   */
  async startLesson(
    title: string,
    body: { directory?: string; path?: string; trust?: string },
    follow: IFollow = {}
  ): Promise<IForkAnswer> {
    return this.run(`${lessonPath(title)}/start`, body, follow);
  }

  /** Bring a kernel back to the snapshot that it was forked from. */
  async reset(kernelId: string, follow: IFollow = {}): Promise<IRestoreAnswer> {
    return this.run(kernelPath(kernelId, 'reset'), {}, follow);
  }

  /** Begin an operation and wait for its result. */
  private async run<T>(
    path: string,
    body: object | Blob,
    { progress, signal }: IFollow
  ): Promise<T> {
    // From the beginning: what is short may have ended before the answer is here.
    const heard = new Listener(this.events);
    try {
      // What takes long to be asked for can be called off before there is a task.
      const sent = body instanceof Blob ? { signal } : {};
      let task = await this.request<ITask>('POST', path, body, sent);
      const { id } = task;
      const cancel = () => void this.request('DELETE', `tasks/${id}`);
      signal?.addEventListener('abort', cancel);
      while (task.state === 'running') {
        progress?.(task.progress.fraction);
        await heard.end(task, progress);
        task = await this.request<ITask>('GET', `tasks/${id}`);
      }
      signal?.removeEventListener('abort', cancel);
      if (task.error) {
        throw SnapshotError.of(task.error);
      }
      return task.result as T;
    } finally {
      heard.dispose();
    }
  }

  private async request<T>(
    method: string,
    path: string,
    body?: object | Blob,
    more: Pick<RequestInit, 'keepalive' | 'signal'> = {}
  ): Promise<T> {
    const init: RequestInit = { method, ...more };
    if (body !== undefined) {
      init.body = body instanceof Blob ? body : JSON.stringify(body);
    }
    let response: Response;
    try {
      response = await ServerConnection.makeRequest(
        this.url(path),
        init,
        this.serverSettings
      );
    } catch (error) {
      throw new SnapshotError((error as Error).message);
    }
    const text = await response.text();
    if (!response.ok) {
      throw errorOf(response, text);
    }
    return (text ? JSON.parse(text) : undefined) as T;
  }

  private url(path: string): string {
    return URLExt.join(this.serverSettings.baseUrl, 'jupyter-cr', path);
  }
}

/** The event with which an operation that goes well ends. */
const LAST: Record<Operation, Action> = {
  checkpoint: 'created',
  hibernate: 'hibernated',
  restore: 'restored',
  resume: 'restored',
  undo: 'restored',
  fork: 'forked',
  import: 'durable',
  travel: 'travelled',
  keep: 'durable',
  reset: 'restored',
  start: 'forked',
  adopt: 'restored',
  // No event tells of these: they are asked for.
  publish: 'failed',
  diff: 'failed'
};

/**
 * What has been told of tasks since it was made.
 */
class Listener {
  constructor(private readonly events: ISignal<unknown, ISnapshotEvent>) {
    events.connect(this.hear, this);
  }

  dispose(): void {
    this.events.disconnect(this.hear, this);
  }

  /** Wait until a task may have ended. */
  async end(task: ITask, progress: IFollow['progress']): Promise<void> {
    this.progress = event => {
      if (event.task === task.id) {
        progress?.(event.fraction ?? 0);
      }
    };
    const hasEnded = () =>
      this.heard.has(`${task.id} ${LAST[task.operation]}`) ||
      this.heard.has(`${task.id} failed`);
    if (!hasEnded()) {
      await new Promise<void>(resolve => {
        const timer = window.setTimeout(resolve, UNHEARD_MS);
        this.wake = () => {
          if (hasEnded()) {
            window.clearTimeout(timer);
            resolve();
          }
        };
      });
      this.wake = null;
    }
    await sleep(SETTLING_MS);
  }

  private hear(_: unknown, event: ISnapshotEvent): void {
    if (event.action === 'saving') {
      this.progress?.(event);
    } else if (event.task) {
      this.heard.add(`${event.task} ${event.action}`);
      this.wake?.();
    }
  }

  private readonly heard = new Set<string>();
  private progress: ((event: ISnapshotEvent) => void) | null = null;
  private wake: (() => void) | null = null;
}

function snapshotPath(name: string): string {
  return `snapshots/${encodeURIComponent(name)}`;
}

function lessonPath(title: string): string {
  return `lessons/${encodeURIComponent(title)}`;
}

function kernelPath(kernelId: string, operation: string): string {
  return `kernels/${encodeURIComponent(kernelId)}/${operation}`;
}

function errorOf(response: Response, text: string): SnapshotError {
  try {
    const problem = JSON.parse(text) as Partial<IProblem>;
    if (typeof problem.detail === 'string') {
      return SnapshotError.of(problem as IProblem);
    }
  } catch {
    // No problem document: a proxy's page, or a server without our extension.
  }
  return new SnapshotError(
    `${response.status} ${response.statusText}`,
    '',
    '',
    response.status
  );
}

function sleep(ms: number): Promise<void> {
  return new Promise(resolve => window.setTimeout(resolve, ms));
}
