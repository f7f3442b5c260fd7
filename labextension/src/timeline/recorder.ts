import type { Cell } from '@jupyterlab/cells';
import type * as nbformat from '@jupyterlab/nbformat';
import {
  NotebookActions,
  type Notebook,
  type NotebookPanel
} from '@jupyterlab/notebook';
import type { Kernel, KernelMessage } from '@jupyterlab/services';

import type { SnapshotModel } from '../model';
import type { IPlace, Targets } from '../targets';
import type { Timelines } from './timelines';

/** A cell as it was when somebody had it run, before its outputs were cleared. */
interface IScheduled {
  content: nbformat.ICell;
  msgId: string;
}

/**
 * Tells the server how a notebook was just before each cell: only the page that has a cell
 * run knows, saved or not.
 *
 * A notebook is looked at when the kernel begins with the cell: what the cells before it
 * have printed is there by then, also in *Run All*. The outputs of those that wait have
 * been cleared, though, when they were sent: of them, we know what there was.
 */
export class Recorder {
  constructor(
    private readonly model: SnapshotModel,
    private readonly targets: Targets,
    private readonly timelines: Timelines
  ) {
    for (const place of targets.places()) {
      this.follow(place);
    }
    targets.opened.connect((_, place) => this.follow(place));
    NotebookActions.executionScheduled.connect(this.onScheduled, this);
  }

  private follow({ notebook, sessionContext }: IPlace): void {
    if (!notebook) {
      return;
    }
    let kernel: Kernel.IKernelConnection | null = null;
    const sent = (_: unknown, { msg, direction }: Kernel.IAnyMessageArgs) => {
      if (direction === 'send' && msg.header.msg_type === 'execute_request') {
        const { cellId } = msg.metadata as { cellId?: string };
        const scheduled = this.of(notebook).get(cellId ?? '');
        if (scheduled && !scheduled.msgId) {
          scheduled.msgId = msg.header.msg_id;
        }
      }
    };
    const heard = (_: unknown, msg: KernelMessage.IIOPubMessage) => {
      const { execution_state } = msg.content as { execution_state?: string };
      if (execution_state === 'busy' || execution_state === 'idle') {
        const { msg_id } = msg.parent_header as { msg_id?: string };
        this.onState(notebook, msg_id ?? '', execution_state);
      }
    };
    const change = () => {
      kernel?.anyMessage.disconnect(sent);
      kernel?.iopubMessage.disconnect(heard);
      kernel = sessionContext.session?.kernel ?? null;
      kernel?.anyMessage.connect(sent);
      kernel?.iopubMessage.connect(heard);
    };
    sessionContext.kernelChanged.connect(change);
    change();
  }

  private onScheduled(
    _: unknown,
    { notebook, cell }: { notebook: Notebook; cell: Cell }
  ): void {
    const target = [...this.targets.all()].find(
      each => each.notebook?.content === notebook
    );
    if (target?.notebook && this.timelines.isOn(target.kernelId)) {
      const scheduled = this.of(target.notebook);
      // What was scheduled before, and never sent, is not to be taken for this one.
      scheduled.delete(cell.model.id);
      scheduled.set(cell.model.id, { content: cell.model.toJSON(), msgId: '' });
    }
  }

  private onState(
    panel: NotebookPanel,
    msgId: string,
    state: 'busy' | 'idle'
  ): void {
    const scheduled = this.of(panel);
    for (const [cellId, { msgId: id }] of scheduled) {
      if (id === msgId && msgId) {
        if (state === 'busy') {
          void this.send(panel, msgId, contentOf(panel, scheduled));
        }
        scheduled.delete(cellId);
        return;
      }
    }
  }

  private async send(
    panel: NotebookPanel,
    msgId: string,
    content: nbformat.INotebookContent
  ): Promise<void> {
    const kernelId = panel.sessionContext.session?.kernel?.id;
    if (!kernelId) {
      return;
    }
    try {
      await this.model.client.noteDocument(
        kernelId,
        msgId,
        await packed(JSON.stringify(content))
      );
    } catch {
      // The kernel can be brought back without; that is said when somebody does.
    }
  }

  private of(panel: NotebookPanel): Map<string, IScheduled> {
    let scheduled = this.scheduled.get(panel);
    if (!scheduled) {
      this.scheduled.set(panel, (scheduled = new Map()));
    }
    return scheduled;
  }

  private readonly scheduled = new WeakMap<
    NotebookPanel,
    Map<string, IScheduled>
  >();
}

/** A notebook as it was before the cells that are scheduled. */
function contentOf(
  panel: NotebookPanel,
  scheduled: ReadonlyMap<string, IScheduled>
): nbformat.INotebookContent {
  const content = panel.content.model!.toJSON() as nbformat.INotebookContent;
  for (const cell of content.cells) {
    const before = scheduled.get(cell.id as string)?.content;
    if (before) {
      // What somebody has typed since stays.
      cell.outputs = before.outputs;
      cell.execution_count = before.execution_count;
    }
  }
  return content;
}

/** By gzip, where the browser can. */
async function packed(text: string): Promise<Blob> {
  const plain = new Blob([text]);
  if (typeof CompressionStream === 'undefined') {
    return plain;
  }
  const stream = plain.stream().pipeThrough(new CompressionStream('gzip'));
  return new Response(stream).blob();
}
