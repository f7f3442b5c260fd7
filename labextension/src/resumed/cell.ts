import type { CodeCell } from '@jupyterlab/cells';
import type * as nbformat from '@jupyterlab/nbformat';
import { type Kernel, KernelMessage } from '@jupyterlab/services';

import { isIdle, isOutput, parentOf, received } from './messages';

/**
 * A cell that shows what comes of a request, until that is done.
 */
export class ResumedCell {
  constructor(
    private readonly cell: CodeCell,
    private readonly kernel: Kernel.IKernelConnection,
    private readonly msgId: string,
    private count: nbformat.ExecutionCount,
    messages: readonly KernelMessage.IMessage[],
    outputs: Promise<nbformat.IOutput[]> | null
  ) {
    this.waiting = [...messages];
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
    if (this.isDisposed) {
      return;
    }
    if (outputs && !this.cell.isDisposed) {
      this.cell.outputArea.model.fromJSON(outputs);
    }
    waiting.forEach(message => this.show(message));
  }

  /** Leave the cell to somebody else. */
  dispose(): void {
    this.kernel.statusChanged.disconnect(this.onStatus, this);
    this.kernel.anyMessage.disconnect(this.hear, this);
    this.isDisposed = true;
  }

  private hear(_: unknown, args: Kernel.IAnyMessageArgs): void {
    const message = received(args);
    if (!message || parentOf(message) !== this.msgId) {
      return;
    }
    if (this.waiting) {
      this.waiting.push(message);
    } else {
      this.show(message);
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
    } else if (KernelMessage.isUpdateDisplayDataMsg(message)) {
      const { transient, ...content } = message.content;
      const place = this.displays.get(transient.display_id ?? '');
      if (place !== undefined && place < outputs.length) {
        outputs.set(place, { ...content, output_type: 'display_data' });
      }
    } else if (isOutput(message)) {
      const { content, header } = message;
      outputs.add({
        ...content,
        output_type: header.msg_type
      } as nbformat.IOutput);
      const { transient } = content as KernelMessage.IDisplayDataMsg['content'];
      if (transient?.display_id) {
        this.displays.set(transient.display_id, outputs.length - 1);
      }
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

  private readonly displays = new Map<string, number>();
  private isDone = false;
  private isDisposed = false;
  private waiting: KernelMessage.IMessage[] | null;
}
