import type { CodeCell } from '@jupyterlab/cells';
import type * as nbformat from '@jupyterlab/nbformat';
import { type Kernel, KernelMessage } from '@jupyterlab/services';

import type { SnapshotModel } from './model';
import type { Targets } from './targets';
import type { IRunningRequest, ISnapshotEvent } from './types';

/**
 * Cells that were running when a snapshot was taken run again after it was restored: they
 * show it, and what the kernel prints goes on arriving there.
 *
 * JupyterLab has forgotten their requests if they had ended meanwhile.
 */
export class ResumedCells {
  constructor(
    model: SnapshotModel,
    private readonly targets: Targets
  ) {
    model.happened.connect(this.onEvent, this);
  }

  private onEvent(_: unknown, event: ISnapshotEvent): void {
    if (event.action !== 'restored') {
      return;
    }
    for (const { notebook, sessionContext } of this.targets.of(
      event.kernel_id!
    )) {
      const kernel = sessionContext.session?.kernel;
      for (const request of event.running ?? []) {
        const cell = notebook?.content.widgets.find(
          widget =>
            widget.model.type === 'code' && widget.model.id === request.cell_id
        ) as CodeCell | undefined;
        if (cell && kernel) {
          follow(cell, kernel, request);
        }
      }
    }
  }
}

/** Let a cell show what comes of a request until that is done. */
function follow(
  cell: CodeCell,
  kernel: Kernel.IKernelConnection,
  { msg_id }: IRunningRequest
): void {
  if (cell.outputArea.future?.msg.header.msg_id === msg_id) {
    // It has been at it all the time.
    return;
  }
  const stop = () => {
    kernel.iopubMessage.disconnect(hear);
    kernel.statusChanged.disconnect(onStatus);
    setRunning(cell, false);
  };
  const hear = (_: unknown, message: KernelMessage.IIOPubMessage) => {
    const parent = message.parent_header as Partial<KernelMessage.IHeader>;
    if (cell.isDisposed) {
      stop();
    } else if (parent.msg_id === msg_id) {
      if (show(cell, message)) {
        stop();
      }
    }
  };
  const onStatus = (_: unknown, status: Kernel.Status) => {
    if (status === 'dead' || status === 'restarting') {
      stop();
    }
  };
  kernel.iopubMessage.connect(hear);
  kernel.statusChanged.connect(onStatus);
  setRunning(cell, true);
}

/** Whether that was the last message. */
function show(cell: CodeCell, message: KernelMessage.IIOPubMessage): boolean {
  const outputs = cell.outputArea.model;
  if (KernelMessage.isStatusMsg(message)) {
    return message.content.execution_state === 'idle';
  }
  if (KernelMessage.isClearOutputMsg(message)) {
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
    if (KernelMessage.isExecuteResultMsg(message)) {
      cell.model.executionCount = message.content.execution_count;
    }
  }
  return false;
}

function setRunning(cell: CodeCell, isRunning: boolean): void {
  if (cell.isDisposed) {
    return;
  }
  // Since JupyterLab 4.2 the model says it to all who look on.
  const { sharedModel } = cell.model as {
    sharedModel: { executionState?: 'idle' | 'running' };
  };
  if ('executionState' in sharedModel) {
    sharedModel.executionState = isRunning ? 'running' : 'idle';
  }
  cell.setPrompt(isRunning ? '*' : `${cell.model.executionCount ?? ''}`);
}
