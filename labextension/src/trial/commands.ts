import type { JupyterFrontEnd } from '@jupyterlab/application';
import type { Cell } from '@jupyterlab/cells';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { ReadonlyPartialJSONObject } from '@lumino/coreutils';

import { forkIcon } from '../icons';
import type { SnapshotModel } from '../model';
import type { Targets } from '../targets';
import type { INotebookTarget, Trials } from './trials';

/** Ids of the commands that try something. */
export namespace TrialIDs {
  export const run = 'jupyter-cr:run-in-fork';
}

/** Add the command that runs a cell in a fork. */
export function addTrialCommands(parts: {
  app: JupyterFrontEnd;
  model: SnapshotModel;
  targets: Targets;
  trials: Trials;
  trans: TranslationBundle;
}): void {
  const { app, model, targets, trials, trans } = parts;

  function targetOf({
    kernelId
  }: ReadonlyPartialJSONObject): INotebookTarget | null {
    const target =
      typeof kernelId === 'string'
        ? targets.of(kernelId).find(({ notebook }) => notebook)
        : targets.current;
    return target?.notebook ? { ...target, notebook: target.notebook } : null;
  }

  /** The cell that is meant: clicked on, or else the active one. */
  function cellOf(
    args: ReadonlyPartialJSONObject,
    { notebook }: INotebookTarget
  ): Cell | null {
    const { activeCell, widgets } = notebook.content;
    const clicked = args.isContext
      ? app.contextMenuHitTest(node => node.classList.contains('jp-Cell'))
      : undefined;
    const cell = widgets.find(({ node }) => node === clicked) ?? activeCell;
    return cell?.model.type === 'code' ? cell : null;
  }

  app.commands.addCommand(TrialIDs.run, {
    label: trans.__('Run Cell in a Fork'),
    caption: args => {
      const target = targetOf(args);
      if (!model.canCheckpoint || !model.canRestore) {
        return trans.__('Kernels cannot be forked here');
      }
      return target && cellOf(args, target)
        ? trans.__(
            'Run the cell in a copy of the kernel, see what it does, and decide then whether it is to be so'
          )
        : trans.__('Choose a code cell of a notebook whose kernel runs');
    },
    icon: args => (args.isContext || args.isPalette ? forkIcon : undefined),
    isEnabled: args => {
      const target = targetOf(args);
      return (
        model.canCheckpoint &&
        model.canRestore &&
        target !== null &&
        cellOf(args, target) !== null &&
        !model.activity(target.kernelId)
      );
    },
    execute: args => {
      const target = targetOf(args);
      const cell = target && cellOf(args, target);
      if (cell) {
        trials.begin(target, cell.model);
      }
    },
    describedBy: {
      args: {
        type: 'object',
        properties: {
          kernelId: {
            type: 'string',
            description: trans.__(
              'Id of a kernel whose notebook is open on this page; that of the current one by default.'
            )
          }
        }
      }
    }
  });
}
