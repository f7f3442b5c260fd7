import type { CodeCell } from '@jupyterlab/cells';
import type * as nbformat from '@jupyterlab/nbformat';
import { type Kernel, KernelMessage } from '@jupyterlab/services';

import type { SnapshotModel } from './model';
import type { Targets } from './targets';
import type { ISnapshotEvent } from './types';

/** How many messages are kept of what kernels say that nobody expects. */
const MAX_UNEXPECTED = 1000;

/**
 * Cells that were running when a snapshot was taken run again after it was restored: they
 * show what they showed then, and what the kernel prints goes on arriving there.
 *
 * JupyterLab has forgotten their requests when they had ended meanwhile.
 */
export class ResumedCells {
  constructor(
    private readonly model: SnapshotModel,
    private readonly targets: Targets
  ) {
    model.happened.connect(this.onEvent, this);
    const listen = () => {
      for (const { sessionContext } of targets.all()) {
        this.listen(sessionContext.session!.kernel!);
      }
    };
    targets.changed.connect(listen);
    listen();
  }

  /** A kernel goes on before the server tells of it. */
  private listen(kernel: Kernel.IKernelConnection): void {
    if (!this.unexpected.has(kernel)) {
      this.unexpected.set(kernel, new Unexpected(kernel));
    }
  }

  private onEvent(_: unknown, event: ISnapshotEvent): void {
    if (event.action !== 'restored' || !event.running?.length) {
      return;
    }
    const kernelId = event.kernel_id!;
    for (const { notebook, sessionContext } of this.targets.of(kernelId)) {
      const kernel = sessionContext.session?.kernel;
      // Where several people have it open, one writes what all see.
      const isOurs =
        !notebook?.context.model.collaborative || this.model.activity(kernelId);
      if (!notebook || !kernel || !isOurs) {
        continue;
      }
      const document = this.model.client.document(event.snapshot!);
      for (const { msg_id, cell_id } of event.running) {
        const cell = notebook.content.widgets.find(
          widget => widget.model.type === 'code' && widget.model.id === cell_id
        ) as CodeCell | undefined;
        if (!cell) {
          continue;
        }
        const { future } = cell.outputArea;
        const unexpected = this.unexpected.get(kernel);
        if (future?.msg.header.msg_id === msg_id) {
          if (!unexpected?.hasEnded(msg_id)) {
            // It has been at it all the time.
            continue;
          }
          // It would go on where it ended.
          future.dispose();
        }
        const missed = unexpected?.take(msg_id) ?? [];
        const outputs = outputsOf(document, cell_id);
        new ResumedCell(cell, kernel, msg_id, missed, outputs);
      }
    }
  }

  private readonly unexpected = new WeakMap<
    Kernel.IKernelConnection,
    Unexpected
  >();
}

/**
 * What a kernel says of requests that had ended: it was brought back to before that.
 */
class Unexpected {
  constructor(kernel: Kernel.IKernelConnection) {
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
    if (isIdle(msg)) {
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
    missed: KernelMessage.IMessage[],
    outputs: Promise<nbformat.IOutput[]>
  ) {
    this.count = cell.model.executionCount;
    this.waiting = missed;
    kernel.anyMessage.connect(this.hear, this);
    kernel.statusChanged.connect(this.onStatus, this);
    this.setRunning(true);
    void outputs.then(outputs => this.begin(outputs));
  }

  /** Show what there was at the snapshot, and what has come since. */
  private begin(outputs: nbformat.IOutput[]): void {
    const waiting = this.waiting ?? [];
    this.waiting = null;
    if (!this.cell.isDisposed) {
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

  private count: nbformat.ExecutionCount;
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
