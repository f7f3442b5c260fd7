import type { JupyterFrontEnd } from '@jupyterlab/application';
import type { ICellModel, ICodeCellModel } from '@jupyterlab/cells';
import { URLExt } from '@jupyterlab/coreutils';
import type { NotebookPanel } from '@jupyterlab/notebook';
import { ServerConnection, type ServiceManager } from '@jupyterlab/services';
import type { TranslationBundle } from '@jupyterlab/translation';

import type { Actions } from '../actions';
import { baseName } from '../format';
import type { SnapshotModel } from '../model';
import type { Notices } from '../notices';
import type { Settings } from '../settings';
import { showTab } from '../tabs';
import type { ITarget, Targets } from '../targets';
import type { IForkAnswer } from '../types';
import { TrialTab } from './tab';
import { type ILaboratory, type ITried, Trial } from './trial';

/** What trials are made of. */
export interface ITrialParts {
  shell: JupyterFrontEnd.IShell;
  model: SnapshotModel;
  actions: Actions;
  targets: Targets;
  settings: Settings;
  services: ServiceManager.IManager;
  notices: Notices;
  trans: TranslationBundle;
}

/** A notebook whose kernel runs. */
export interface INotebookTarget extends ITarget {
  notebook: NotebookPanel;
}

/**
 * Runs cells in forks of their kernels, beside which nothing changes until somebody says so.
 */
export class Trials {
  constructor(private readonly parts: ITrialParts) {
    window.addEventListener('pagehide', () => {
      for (const { fork } of this.running) {
        if (fork) {
          this.leave(fork);
        }
      }
    });
  }

  /** Run a cell of a notebook in a fork. */
  begin(target: INotebookTarget, cell: ICellModel): void {
    const { shell, trans } = this.parts;
    const { notebook, kernelId } = target;
    const trial = new Trial(
      { kernelId, cellId: cell.id, source: cell.sharedModel.getSource() },
      this.laboratory(kernelId)
    );
    this.running.add(trial);
    const tab = new TrialTab({
      trial,
      name: baseName(notebook.context.path),
      rendermime: notebook.content.rendermime,
      decisions: {
        adopt: () => void this.adopt(trial, tab),
        discard: () => {
          this.running.delete(trial);
          void trial.discard();
          tab.dispose();
        }
      },
      trans
    });
    tab.id = `jupyter-cr-trial-${++this.count}`;
    showTab(shell, tab, { mode: 'split-right', ref: notebook.id });
    void trial.run(future => {
      tab.area.future = future;
    });
  }

  private laboratory(kernelId: string): ILaboratory {
    const { model, services } = this.parts;
    const { client } = model;
    return {
      fork: signal => client.forkToTry(kernelId, { signal }),
      connect: id => services.kernels.connectTo({ model: { id, name: '' } }),
      compare: ({ kernel_id, snapshot }, signal) =>
        client.compareNow(kernel_id, snapshot, { signal }),
      clear: async ({ kernel_id, snapshot }, isFork) => {
        // What has gone already need not go.
        await Promise.allSettled([
          client.delete(snapshot),
          isFork ? services.kernels.shutdown(kernel_id) : undefined
        ]);
      }
    };
  }

  private async adopt(
    trial: Trial,
    tab: TrialTab,
    keep = this.parts.settings.now.keepBeforeRestore
  ): Promise<void> {
    const { model, actions, notices, targets, trans } = this.parts;
    const { kernelId } = trial.tried;
    await trial.adopt(async fork => {
      const answer = await notices.during(
        trans.__('Adopting the fork…'),
        () =>
          model.during('adopt', kernelId, async () => {
            const open = targets.of(kernelId);
            // What is kept holds the notebook as it is before.
            await Promise.all(open.map(target => actions.save(target, true)));
            return model.client.adopt(kernelId, fork.kernel_id, keep);
          }),
        ({ kept, warnings }) => ({
          message: trans.__('The fork has taken the place of the kernel.'),
          warnings,
          actions: kept ? [actions.undoRestore(kernelId, kept, true)] : []
        }),
        {
          failure: error =>
            error.isNotKept
              ? [
                  {
                    label: trans.__('Adopt anyway'),
                    caption: trans.__('What runs now will be lost'),
                    callback: () => void this.adopt(trial, tab, false)
                  }
                ]
              : []
        }
      );
      if (answer) {
        this.bring(trial);
      }
      return answer !== undefined;
    });
    if (trial.phase === 'over') {
      this.running.delete(trial);
      tab.dispose();
    }
  }

  /** Put what the cell has printed and shown below it, where it is still there. */
  private bring({ tried, outputs, executionCount }: Trial): void {
    const shared = new Set<unknown>();
    for (const { notebook } of this.parts.targets.of(tried.kernelId)) {
      const cell = notebook && codeCell(notebook, tried);
      if (cell && !shared.has(cell.sharedModel)) {
        shared.add(cell.sharedModel);
        cell.outputs.fromJSON(outputs.toJSON());
        cell.executionCount = executionCount;
      }
    }
  }

  /** The page goes: whatever nobody can decide about any more goes with it. */
  private leave({ kernel_id, snapshot }: IForkAnswer): void {
    const { client } = this.parts.model;
    const { serverSettings } = this.parts.services;
    void client.delete(snapshot, true);
    void ServerConnection.makeRequest(
      URLExt.join(serverSettings.baseUrl, 'api/kernels', kernel_id),
      { method: 'DELETE', keepalive: true },
      serverSettings
    );
  }

  private readonly running = new Set<Trial>();
  private count = 0;
}

function codeCell(
  panel: NotebookPanel,
  { cellId }: ITried
): ICodeCellModel | undefined {
  const found = panel.content.widgets.find(({ model }) => model.id === cellId);
  return found?.model.type === 'code'
    ? (found.model as ICodeCellModel)
    : undefined;
}
