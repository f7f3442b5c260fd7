import { OutputAreaModel } from '@jupyterlab/outputarea';
import type { Kernel, KernelMessage } from '@jupyterlab/services';
import { type ISignal, Signal } from '@lumino/signaling';

import { SnapshotError } from '../api';
import type { IComparison, IForkAnswer } from '../types';

/** How far a trial is. */
export type Phase =
  | 'forking'
  | 'running'
  /** Its cell has ended well. */
  | 'done'
  /** Its cell has raised something. */
  | 'raised'
  /** There is no fork, or not any more. */
  | 'failed'
  | 'adopting'
  /** It has taken the kernel's place, or was thrown away. */
  | 'over';

/** What a trial needs of the server. */
export interface ILaboratory {
  /** Forks the kernel. */
  fork: (signal: AbortSignal) => Promise<IForkAnswer>;
  /** Talks with the fork. */
  connect: (kernelId: string) => Kernel.IKernelConnection;
  /** How the fork differs from what it was made from. */
  compare: (fork: IForkAnswer, signal: AbortSignal) => Promise<IComparison>;
  /** Ends the fork, if it is still there, and removes what it was made from. */
  clear: (fork: IForkAnswer, isFork: boolean) => Promise<void>;
}

/** The cell that is tried. */
export interface ITried {
  kernelId: string;
  cellId: string;
  source: string;
}

/**
 * A cell that runs in a fork of its kernel, until somebody decides what becomes of that.
 */
export class Trial {
  constructor(
    readonly tried: ITried,
    private readonly laboratory: ILaboratory
  ) {}

  /** What the cell prints and shows. */
  readonly outputs = new OutputAreaModel({ trusted: true });

  /** Any of what follows has changed. */
  get changed(): ISignal<this, void> {
    return this.hasChanged;
  }

  get phase(): Phase {
    return this.now;
  }

  /** Why there is no fork. */
  get problem(): SnapshotError | null {
    return this.failure;
  }

  /** Prompt of the cell in the fork. */
  get executionCount(): number | null {
    return this.count;
  }

  /** How long the cell ran, in ms. */
  get elapsed(): number {
    return this.duration;
  }

  /** The fork, as long as there is one. */
  get fork(): IForkAnswer | null {
    return this.made;
  }

  /** How the fork differs from what it was made from. */
  get comparison(): IComparison | null {
    return this.compared;
  }

  /** Why that is not known. */
  get comparisonProblem(): SnapshotError | null {
    return this.notCompared;
  }

  /**
   * Make the fork, run the cell in it, and compare.
   *
   * @param show Called with what the outputs come from, before there are any.
   */
  async run(show: (future: Future) => void): Promise<void> {
    try {
      const fork = await this.laboratory.fork(this.ending.signal);
      if (this.isOver) {
        await this.laboratory.clear(fork, true);
        return;
      }
      this.made = fork;
      this.connection = this.laboratory.connect(fork.kernel_id);
      this.go('running');
      const started = performance.now();
      const reply = await this.execute(this.connection, show);
      if (this.isOver) {
        return;
      }
      this.duration = performance.now() - started;
      this.count = reply.content.execution_count;
      this.go(reply.content.status === 'ok' ? 'done' : 'raised');
    } catch (error) {
      if (!this.isOver) {
        this.failure = asProblem(error);
        this.go('failed');
      }
      return;
    }
    await this.compare();
  }

  /** Find out what the cell has changed. */
  async compare(): Promise<void> {
    const fork = this.made;
    if (!fork || this.isOver) {
      return;
    }
    this.notCompared = null;
    this.hasChanged.emit();
    try {
      this.compared = await this.laboratory.compare(fork, this.ending.signal);
    } catch (error) {
      this.notCompared = asProblem(error);
    }
    this.hasChanged.emit();
  }

  /** Interrupt the cell. */
  async stop(): Promise<void> {
    await this.connection?.interrupt();
  }

  /**
   * Have the fork take the kernel's place.
   *
   * @param take Does it; resolves to whether it was done.
   */
  async adopt(take: (fork: IForkAnswer) => Promise<boolean>): Promise<void> {
    const fork = this.made;
    if (!fork || this.now !== 'done') {
      return;
    }
    this.go('adopting');
    if (await take(fork)) {
      await this.end(false);
    } else {
      this.go('done');
    }
  }

  /** Throw the fork away. */
  async discard(): Promise<void> {
    // Whoever adopts it ends it.
    if (this.now !== 'adopting' && !this.isOver) {
      await this.end(true);
    }
  }

  private get isOver(): boolean {
    return this.now === 'over';
  }

  private async execute(
    connection: Kernel.IKernelConnection,
    show: (future: Future) => void
  ): Promise<KernelMessage.IExecuteReplyMsg> {
    const { source, cellId } = this.tried;
    const future = connection.requestExecute(
      { code: source, allow_stdin: true, stop_on_error: true },
      false,
      { cellId }
    );
    show(future);
    const died = new Promise<never>((_, reject) => {
      connection.statusChanged.connect((_, status) => {
        if (status === 'dead' || status === 'autorestarting') {
          reject(
            new SnapshotError('The fork has died.', 'Run the cell again.')
          );
        }
      });
    });
    return Promise.race([future.done, died]);
  }

  private async end(isFork: boolean): Promise<void> {
    const fork = this.made;
    this.go('over');
    this.ending.abort();
    this.connection?.dispose();
    this.connection = null;
    this.made = null;
    if (fork) {
      await this.laboratory.clear(fork, isFork);
    }
    Signal.clearData(this);
  }

  private go(phase: Phase): void {
    this.now = phase;
    this.hasChanged.emit();
  }

  private readonly hasChanged = new Signal<this, void>(this);
  private readonly ending = new AbortController();
  private now: Phase = 'forking';
  private failure: SnapshotError | null = null;
  private made: IForkAnswer | null = null;
  private connection: Kernel.IKernelConnection | null = null;
  private count: number | null = null;
  private duration = 0;
  private compared: IComparison | null = null;
  private notCompared: SnapshotError | null = null;
}

/** What the outputs of a cell come from. */
export type Future = Kernel.IShellFuture<
  KernelMessage.IExecuteRequestMsg,
  KernelMessage.IExecuteReplyMsg
>;

function asProblem(error: unknown): SnapshotError {
  return error instanceof SnapshotError
    ? error
    : new SnapshotError((error as Error)?.message ?? String(error));
}
