import type { CodeCell } from '@jupyterlab/cells';
import type * as nbformat from '@jupyterlab/nbformat';
import type { Kernel } from '@jupyterlab/services';

import { isHibernated, type SnapshotModel } from '../model';
import type { ITarget, Targets } from '../targets';
import type { IRunningRequest, ISnapshotEvent } from '../types';
import { ResumedCell } from './cell';
import { Heard } from './heard';
import { Moments } from './moments';

/** Requests that a kernel goes on with. */
interface IResumed {
  running: readonly IRunningRequest[];
  /** That has the notebook as it was; empty if that is what it shows. */
  snapshot: string;
  /** Whether somebody on this page has had it brought back. */
  isOurs: boolean;
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

  /** From the beginning: a kernel goes on before the server tells of it. */
  private listen(kernel: Kernel.IKernelConnection): Heard {
    let heard = this.heard.get(kernel);
    if (!heard) {
      heard = new Heard(kernel, this.counts);
      this.heard.set(kernel, heard);
    }
    return heard;
  }

  private onEvent(_: unknown, event: ISnapshotEvent): void {
    const kernelId = event.kernel_id ?? '';
    this.moments.note(event);
    if (event.action === 'saving' || event.action === 'created') {
      for (const { sessionContext } of this.targets.of(kernelId)) {
        this.listen(sessionContext.session!.kernel!).mark();
      }
    } else if (event.action === 'restored') {
      this.onRestored(kernelId, event);
    }
  }

  private onRestored(kernelId: string, event: ISnapshotEvent): void {
    const name = event.snapshot!;
    const targets = this.targets.of(kernelId);
    for (const { sessionContext } of targets) {
      this.listen(sessionContext.session!.kernel!).rewind(
        this.moments.frozen(name),
        this.moments.back(event)
      );
    }
    this.unseen.delete(kernelId);
    if (!event.running?.length) {
      return;
    }
    const snapshot = this.model.get(name);
    const resumed: IResumed = {
      running: event.running,
      // Of a kernel that hibernated, cells still show what they showed then; and the
      // snapshot is about to be removed.
      snapshot: snapshot && isHibernated(snapshot) ? '' : name,
      isOurs: this.model.activity(kernelId) !== undefined
    };
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

  private goOn(target: ITarget, resumed: IResumed): void {
    const { running, snapshot } = resumed;
    const { notebook, sessionContext } = target;
    const kernel = sessionContext.session?.kernel;
    if (!notebook || !kernel) {
      return;
    }
    const heard = this.listen(kernel);
    const document = snapshot ? this.model.client.document(snapshot) : null;
    for (const { msg_id, cell_id } of running) {
      const cell = notebook.content.widgets.find(
        widget => widget.model.type === 'code' && widget.model.id === cell_id
      ) as CodeCell | undefined;
      if (!cell) {
        continue;
      }
      const { future } = cell.outputArea;
      if (future && !future.isDisposed && future.msg.header.msg_id === msg_id) {
        if (!heard.hasEnded(msg_id)) {
          goBack(cell, heard);
          continue;
        }
        // It would go on where it ended.
        future.dispose();
      }
      // Where several people have it open, one writes what all see: whoever has been at
      // it all the time, or else has had it brought back.
      const isShared = notebook.context.model.collaborative;
      const isTheirs = cell.model.executionState === 'running';
      if (isShared && (isTheirs || !resumed.isOurs)) {
        continue;
      }
      const { outputs, isWhole } = heard.outputsOf(msg_id);
      heard.resume(msg_id);
      const before = isWhole
        ? Promise.resolve([])
        : document && outputsOf(document, cell_id);
      const count = this.counts.get(msg_id) ?? cell.model.executionCount;
      this.resumed.get(cell)?.dispose();
      this.resumed.set(
        cell,
        new ResumedCell(cell, kernel, msg_id, count, outputs, before)
      );
    }
  }

  private readonly moments = new Moments();
  private readonly heard = new WeakMap<Kernel.IKernelConnection, Heard>();
  private readonly resumed = new WeakMap<CodeCell, ResumedCell>();
  /**
   * Of requests that have not ended. The reply that tells it comes to the connection that
   * had sent the request, and a notebook whose kernel hibernated has another one.
   */
  private readonly counts = new Map<string, nbformat.ExecutionCount>();
  /** By kernels that no notebook here was connected with. */
  private readonly unseen = new Map<string, IResumed>();
}

/**
 * A cell has been at it all the time: have it show what the kernel knows of, and not what
 * came after the snapshot and comes again.
 */
function goBack(cell: CodeCell, heard: Heard): void {
  const { future, model, pendingInput } = cell.outputArea;
  const { outputs, isWhole } = heard.outputsOf(future.msg.header.msg_id);
  // Where the cell waits for input, that would go, too.
  if (isWhole && !pendingInput) {
    model.clear();
    outputs.forEach(output => void future.onIOPub(output));
  }
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
