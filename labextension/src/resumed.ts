import type { CodeCell } from '@jupyterlab/cells';
import type * as nbformat from '@jupyterlab/nbformat';
import { type Kernel, KernelMessage } from '@jupyterlab/services';

import { isHibernated, type SnapshotModel } from './model';
import type { ITarget, Targets } from './targets';
import type { IRunningRequest, ISnapshotEvent } from './types';

/** How many messages are kept of what kernels say that nobody expects. */
const MAX_UNEXPECTED = 1000;

/** Requests that a kernel goes on with. */
interface IResumed {
  running: readonly IRunningRequest[];
  /** That has the notebook as it was; empty if that is what it shows. */
  snapshot: string;
}

/**
 * Cells that were running when a snapshot was taken run again after it was restored: they
 * show what they showed then, and what the kernel prints goes on arriving there.
 *
 * JupyterLab has forgotten their requests when they had ended meanwhile.
 */
export class ResumedCells {
  constructor(
    private readonly model: SnapshotModel,
    private readonly targets: Targets,
    private readonly kernels: Kernel.IManager
  ) {
    model.happened.connect(this.onEvent, this);
    const look = () => {
      for (const target of targets.all()) {
        const kernel = target.sessionContext.session!.kernel!;
        this.listen(kernel);
        void this.catchUp(target, kernel);
      }
    };
    targets.changed.connect(look);
    look();
  }

  /** A kernel goes on before the server tells of it. */
  private listen(kernel: Kernel.IKernelConnection): void {
    if (!this.unexpected.has(kernel)) {
      this.unexpected.set(kernel, new Unexpected(kernel, this.counts));
    }
  }

  private onEvent(_: unknown, event: ISnapshotEvent): void {
    const kernelId = event.kernel_id!;
    if (event.action !== 'restored') {
      return;
    }
    this.unseen.delete(kernelId);
    if (!event.running?.length) {
      return;
    }
    const snapshot = this.model.get(event.snapshot!);
    const resumed: IResumed = {
      running: event.running,
      // Of a kernel that hibernated, cells still show what they showed then; and the
      // snapshot is about to be removed.
      snapshot: snapshot && isHibernated(snapshot) ? '' : event.snapshot!
    };
    const targets = this.targets.of(kernelId);
    targets.forEach(target => this.goOn(target, resumed));
    if (!targets.length) {
      this.unseen.set(kernelId, resumed);
    }
  }

  /** A kernel had gone on before its notebook was connected with it. */
  private async catchUp(
    target: ITarget,
    kernel: Kernel.IKernelConnection
  ): Promise<void> {
    const resumed = this.unseen.get(target.kernelId);
    if (!resumed || !target.notebook) {
      return;
    }
    this.unseen.delete(target.kernelId);
    await this.kernels.refreshRunning();
    const model = await this.kernels.findById(target.kernelId);
    // What has ended meanwhile does not run.
    if (!kernel.isDisposed && model?.execution_state === 'busy') {
      this.goOn(target, resumed);
    }
  }

  private goOn(target: ITarget, { running, snapshot }: IResumed): void {
    const { notebook, sessionContext } = target;
    const kernel = sessionContext.session?.kernel;
    // Where several people have it open, one writes what all see.
    const isOurs =
      !notebook?.context.model.collaborative ||
      this.model.activity(target.kernelId);
    if (!notebook || !kernel || !isOurs) {
      return;
    }
    const document = snapshot ? this.model.client.document(snapshot) : null;
    for (const { msg_id, cell_id } of running) {
      const cell = notebook.content.widgets.find(
        widget => widget.model.type === 'code' && widget.model.id === cell_id
      ) as CodeCell | undefined;
      if (!cell) {
        continue;
      }
      const { future } = cell.outputArea;
      const unexpected = this.unexpected.get(kernel);
      if (future && !future.isDisposed && future.msg.header.msg_id === msg_id) {
        if (!unexpected?.hasEnded(msg_id)) {
          // It has been at it all the time.
          continue;
        }
        // It would go on where it ended.
        future.dispose();
      }
      const missed = unexpected?.take(msg_id) ?? [];
      const outputs = document && outputsOf(document, cell_id);
      const count = this.counts.get(msg_id) ?? cell.model.executionCount;
      new ResumedCell(cell, kernel, msg_id, count, missed, outputs);
    }
  }

  private readonly unexpected = new WeakMap<
    Kernel.IKernelConnection,
    Unexpected
  >();
  /**
   * Of requests that have not ended. The reply that tells it comes to the connection that
   * had sent the request, and a notebook whose kernel hibernated has another one.
   */
  private readonly counts = new Map<string, nbformat.ExecutionCount>();
  /** By kernels that no notebook here was connected with. */
  private readonly unseen = new Map<string, IResumed>();
}

/**
 * What a kernel says of requests that had ended: it was brought back to before that.
 */
class Unexpected {
  /**
   * @param counts Is told the execution count of each request until that has ended.
   */
  constructor(
    kernel: Kernel.IKernelConnection,
    private readonly counts: Map<string, nbformat.ExecutionCount>
  ) {
    kernel.anyMessage.connect(this.hear, this);
  }

  /** Whether a request has been answered. */
  hasEnded(msgId: string): boolean {
    return this.ended.has(msgId);
  }

  /** What has been said of a request since it had ended. */
  take(msgId: string): KernelMessage.IMessage[] {
    const of = (message: KernelMessage.IMessage) => parentOf(message) === msgId;
    const taken = this.messages.filter(of);
    this.messages = this.messages.filter(message => !of(message));
    this.ended.delete(msgId);
    return taken;
  }

  private hear(_: unknown, { msg, direction }: Kernel.IAnyMessageArgs): void {
    const parent = direction === 'recv' ? parentOf(msg) : '';
    if (!parent) {
      return;
    }
    if (this.ended.has(parent)) {
      this.messages.push(msg);
      if (this.messages.length > MAX_UNEXPECTED) {
        this.messages.shift();
      }
    }
    if (KernelMessage.isExecuteInputMsg(msg as KernelMessage.IIOPubMessage)) {
      const { content } = msg as KernelMessage.IExecuteInputMsg;
      this.counts.set(parent, content.execution_count);
    } else if (isIdle(msg)) {
      this.counts.delete(parent);
      this.ended.add(parent);
    }
  }

  private readonly ended = new Set<string>();
  private messages: KernelMessage.IMessage[] = [];
}

/**
 * A cell that shows what comes of a request, until that is done.
 */
class ResumedCell {
  constructor(
    private readonly cell: CodeCell,
    private readonly kernel: Kernel.IKernelConnection,
    private readonly msgId: string,
    private count: nbformat.ExecutionCount,
    missed: KernelMessage.IMessage[],
    outputs: Promise<nbformat.IOutput[]> | null
  ) {
    this.waiting = missed;
    kernel.anyMessage.connect(this.hear, this);
    kernel.statusChanged.connect(this.onStatus, this);
    this.setRunning(true);
    if (outputs) {
      void outputs.then(outputs => this.begin(outputs));
    } else {
      this.begin(null);
    }
  }

  /** Show what there was at the snapshot, and what has come since. */
  private begin(outputs: nbformat.IOutput[] | null): void {
    const waiting = this.waiting ?? [];
    this.waiting = null;
    if (outputs && !this.cell.isDisposed) {
      this.cell.outputArea.model.fromJSON(outputs);
    }
    waiting.forEach(message => this.show(message));
  }

  private hear(_: unknown, { msg, direction }: Kernel.IAnyMessageArgs): void {
    if (direction !== 'recv' || parentOf(msg) !== this.msgId) {
      return;
    }
    if (this.waiting) {
      this.waiting.push(msg);
    } else {
      this.show(msg);
    }
  }

  private onStatus(_: unknown, status: Kernel.Status): void {
    if (status === 'dead' || status === 'restarting') {
      this.stop();
    }
  }

  private show(message: KernelMessage.IMessage): void {
    if (this.cell.isDisposed) {
      this.stop();
      return;
    }
    const outputs = this.cell.outputArea.model;
    if (KernelMessage.isExecuteReplyMsg(message)) {
      this.count = message.content.execution_count;
      if (this.isDone) {
        this.setRunning(false);
      }
    } else if (isIdle(message)) {
      this.stop();
    } else if (KernelMessage.isClearOutputMsg(message)) {
      outputs.clear(message.content.wait);
    } else if (
      KernelMessage.isStreamMsg(message) ||
      KernelMessage.isDisplayDataMsg(message) ||
      KernelMessage.isExecuteResultMsg(message) ||
      KernelMessage.isErrorMsg(message)
    ) {
      outputs.add({
        ...message.content,
        output_type: message.header.msg_type
      } as nbformat.IOutput);
    }
  }

  private stop(): void {
    this.isDone = true;
    this.kernel.statusChanged.disconnect(this.onStatus, this);
    // The reply may come after the status, on a channel of its own.
    window.setTimeout(
      () => this.kernel.anyMessage.disconnect(this.hear, this),
      1000
    );
    this.setRunning(false);
  }

  private setRunning(isRunning: boolean): void {
    const { cell } = this;
    if (cell.isDisposed) {
      return;
    }
    if (!isRunning) {
      cell.model.executionCount = this.count;
    }
    const { sharedModel } = cell.model as {
      sharedModel: { executionState?: 'idle' | 'running' };
    };
    // Since JupyterLab 4.2 the model tells all who look on.
    if ('executionState' in sharedModel) {
      sharedModel.executionState = isRunning ? 'running' : 'idle';
    }
    cell.setPrompt(isRunning ? '*' : `${this.count ?? ''}`);
  }

  private isDone = false;
  private waiting: KernelMessage.IMessage[] | null;
}

/** What a cell showed when the notebook was saved with the snapshot. */
async function outputsOf(
  document: Promise<unknown>,
  cellId: string
): Promise<nbformat.IOutput[]> {
  try {
    const { cells } = (await document) as nbformat.INotebookContent;
    const cell = cells.find(({ id }) => id === cellId);
    return (cell?.outputs as nbformat.IOutput[] | undefined) ?? [];
  } catch {
    // It was taken without the notebook.
    return [];
  }
}

function parentOf(message: KernelMessage.IMessage): string {
  const { msg_id } = message.parent_header as Partial<KernelMessage.IHeader>;
  return msg_id ?? '';
}

function isIdle(message: KernelMessage.IMessage): boolean {
  return (
    KernelMessage.isStatusMsg(message) &&
    message.content.execution_state === 'idle'
  );
}
