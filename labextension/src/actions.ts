import type { JupyterFrontEnd } from '@jupyterlab/application';
import { Dialog, showDialog } from '@jupyterlab/apputils';
import type { IDocumentManager } from '@jupyterlab/docmanager';
import type * as nbformat from '@jupyterlab/nbformat';
import type { NotebookPanel } from '@jupyterlab/notebook';
import type { Kernel, ServiceManager } from '@jupyterlab/services';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { CommandRegistry } from '@lumino/commands';

import { SnapshotError } from './api';
import {
  baseName,
  formatBytes,
  formatDuration,
  nextName,
  stemOf
} from './format';
import type { Trust } from './bundles/trust';
import { isHibernated, type SnapshotModel } from './model';
import type { INoticeAction, Notices } from './notices';
import { save } from './saving';
import type { Settings } from './settings';
import type { Sleepers } from './sleep/sleepers';
import type { ITarget, Targets } from './targets';
import type { IForkAnswer, IRestoreAnswer, ISnapshot } from './types';

/**
 * What people do with snapshots: each with its document, and told how it went.
 */
export class Actions {
  constructor(private readonly parts: Actions.IParts) {
    // What was not undone until then is deleted all the same.
    window.addEventListener('pagehide', () => this.flush());
    parts.model.happened.connect((_, { action, operation, message, hint }) => {
      if (action === 'failed' && operation === 'save') {
        parts.notices.fail(new SnapshotError(message ?? '', hint));
      }
    });
  }

  /** Shows a snapshot in the panel. */
  show: (name: string) => void = () => undefined;

  /** Take a snapshot of what runs, which goes on. */
  async snapshot(
    target: ITarget,
    options: { name?: string; note?: string } = {}
  ): Promise<void> {
    const { model, notices, settings, trans } = this.parts;
    const { kernelId } = target;
    const cancel = new AbortController();
    await notices.during(
      trans.__('Taking a snapshot of the kernel…'),
      report =>
        model.during('checkpoint', kernelId, async progress => {
          await this.save(target);
          const take = (name?: string) =>
            model.client.checkpoint(
              kernelId,
              { ...options, name, warm: settings.now.warm, until: 'live' },
              follow(cancel, report, progress)
            );
          if (options.name !== undefined) {
            return take(options.name);
          }
          try {
            return await take(this.suggestName(target));
          } catch (error) {
            // By a snapshot that this page has not heard of, or in another window.
            if ((error as SnapshotError).kind !== 'NameTaken') {
              throw error;
            }
            return take();
          }
        }),
      answer => ({
        message: trans.__(
          'Snapshot “%1”: %2, the kernel paused for %3.',
          answer.name,
          formatBytes(answer.bytes),
          formatDuration(answer.downtime_ms)
        ),
        warnings: answer.warnings,
        actions: [
          {
            label: trans.__('Undo'),
            caption: trans.__('Delete this snapshot'),
            callback: () => void this.deleteNow(answer.name)
          },
          {
            label: trans.__('Show'),
            caption: trans.__('Show this snapshot in the panel'),
            isMain: true,
            callback: () => this.show(answer.name)
          }
        ]
      }),
      { cancel: () => cancel.abort() }
    );
  }

  /** Save a kernel, and end it until it is resumed. */
  async hibernate(target: ITarget): Promise<void> {
    const { model, notices, targets, trans } = this.parts;
    const { kernelId } = target;
    const cancel = new AbortController();
    await notices.during(
      trans.__('Hibernating the kernel…'),
      report =>
        model.during('hibernate', kernelId, async progress => {
          await Promise.all(targets.of(kernelId).map(open => this.save(open)));
          return model.client.hibernate(
            kernelId,
            follow(cancel, report, progress)
          );
        }),
      answer => ({
        message: trans.__(
          'The kernel hibernates in “%1”: %2 on disk, none in memory.',
          answer.name,
          formatBytes(answer.bytes)
        ),
        warnings: answer.warnings,
        actions: [
          {
            label: trans.__('Resume'),
            caption: trans.__('Have the kernel go on where it was'),
            callback: () => {
              const snapshot = model.get(answer.name);
              if (snapshot) {
                void this.resume(snapshot);
              }
            }
          },
          {
            label: trans.__('Show'),
            caption: trans.__('Show this snapshot in the panel'),
            isMain: true,
            callback: () => this.show(answer.name)
          }
        ]
      }),
      { cancel: () => cancel.abort() }
    );
  }

  /** Have a kernel that hibernates go on, and show what it works for. */
  async resume(snapshot: ISnapshot): Promise<void> {
    const { shell, sleepers } = this.parts;
    const [place] = sleepers.in(snapshot);
    if (!place) {
      // Not open, so there is no place that shows how it goes.
      await this.restore(snapshot, { document: false });
      return;
    }
    shell.activateById(place.widget.id);
    // Others that work with it hear of it.
    await sleepers.wake(place.widget);
  }

  /** Bring the kernel of a snapshot back to it, where it runs or where it ran. */
  async restore(
    snapshot: ISnapshot,
    options: { document?: boolean; keep?: boolean } = {}
  ): Promise<void> {
    const { settings, sleepers, targets, trans, trust } = this.parts;
    if (!options.document && sleepers.in(snapshot).length) {
      return this.resume(snapshot);
    }
    if (!(await trust.ask(snapshot, trans.__('Trust and Restore')))) {
      return;
    }
    const document = options.document ?? settings.now.restoreDocument;
    const keep = options.keep ?? settings.now.keepBeforeRestore;
    const kernelId = snapshot.kernel_id;
    const isRunning = await this.isRunning(kernelId);
    const panel = snapshot.path ? targets.notebook(snapshot.path) : undefined;
    if (isRunning && !keep && !(await this.mayLose(snapshot))) {
      return;
    }
    const other = panel?.sessionContext.session?.kernel?.id;
    if (!isRunning && other && (await this.isRunning(other))) {
      const choice = await this.replaceOrFork(snapshot);
      if (choice === 'cancel') {
        return;
      }
      if (choice === 'fork') {
        return this.fork(snapshot);
      }
    }
    await this.bringBack(snapshot.name, kernelId, document, (name, follow) =>
      this.parts.model.client.restore(kernelId, name, { keep }, follow)
    );
    if (!targets.of(kernelId).length) {
      await this.reopen(snapshot);
    }
  }

  /** Bring a kernel back to its last snapshot; done again, to the one before it. */
  async undo(target: ITarget): Promise<void> {
    await this.bringBack('', target.kernelId, false, (_, follow) =>
      this.parts.model.client.undo(target.kernelId, follow)
    );
  }

  /** Bring a kernel and its notebook back to the snapshot that it was started from. */
  async reset(target: ITarget, start: string): Promise<void> {
    const { client } = this.parts.model;
    await this.bringBack(
      start,
      target.kernelId,
      true,
      async (snapshot, follow) => ({
        ...(await client.reset(target.kernelId, follow)),
        // It may have come from memory, from another one that is the same.
        snapshot
      })
    );
  }

  /** Start a new kernel from a snapshot, beside whatever runs. */
  async fork(snapshot: ISnapshot): Promise<void> {
    const { model, trans, trust } = this.parts;
    if (!(await trust.ask(snapshot, trans.__('Trust and Fork')))) {
      return;
    }
    await this.doFork(
      trans.__('Forking “%1”…', snapshot.name),
      snapshot.kernel_id,
      async follow =>
        model.client.fork(
          snapshot.name,
          await this.pathOfFork(snapshot),
          follow
        )
    );
  }

  /** Start a new kernel that goes on from where this one is now. */
  async forkKernel(target: ITarget): Promise<void> {
    const { model, trans } = this.parts;
    await this.doFork(
      trans.__('Forking the kernel…'),
      target.kernelId,
      async follow => {
        await this.save(target);
        const path = target.notebook
          ? await this.freePath(`${stemOf(target.notebook.context.path)}-fork`)
          : undefined;
        return model.client.forkKernel(target.kernelId, path, follow);
      }
    );
  }

  /** Delete snapshots, unless somebody thinks better of it within some seconds. */
  delete(names: readonly string[]): void {
    const { model, notices, settings, trans } = this.parts;
    if (!names.length) {
      return;
    }
    const losesKernels = names.some(name => {
      const snapshot = model.get(name);
      return snapshot !== undefined && isHibernated(snapshot);
    });
    model.hide(names);
    const timer = window.setTimeout(
      () => void this.commit(names),
      settings.now.undoSeconds * 1000
    );
    this.deletions.set(names, timer);
    notices.tellFor(
      settings.now.undoSeconds * 1000,
      losesKernels
        ? trans._n(
            '%1 snapshot deleted, and with it a kernel that hibernates.',
            '%1 snapshots deleted, and with them kernels that hibernate.',
            names.length
          )
        : names.length === 1
          ? trans.__('Snapshot “%1” deleted.', names[0])
          : trans._n(
              '%1 snapshot deleted.',
              '%1 snapshots deleted.',
              names.length
            ),
      {
        label: trans.__('Undo'),
        isMain: true,
        callback: () => {
          window.clearTimeout(timer);
          if (this.deletions.delete(names)) {
            model.unhide(names);
          }
        }
      }
    );
  }

  /**
   * Give a snapshot another name.
   *
   * @returns Whether it has that name now.
   */
  async rename(name: string, newName: string): Promise<boolean> {
    return this.update(name, { name: newName });
  }

  /** Give a snapshot another note. */
  async annotate(name: string, note: string): Promise<boolean> {
    return this.update(name, { note });
  }

  private async update(
    name: string,
    change: { name?: string; note?: string }
  ): Promise<boolean> {
    try {
      await this.parts.model.client.update(name, change);
      return true;
    } catch (error) {
      this.parts.notices.fail(error);
      return false;
    }
  }

  /** A short name: the notebook's and a number. */
  private suggestName({ notebook }: ITarget): string | undefined {
    if (!notebook) {
      return undefined;
    }
    const stem = baseName(stemOf(notebook.context.path)).slice(0, 60);
    const isName = /^[^.\s/-][^/\p{C}]*$/u.test(stem);
    return isName
      ? nextName(
          stem.trimEnd(),
          this.parts.model.snapshots.map(({ name }) => name)
        )
      : undefined;
  }

  /** Restore, in whichever way, with the document. */
  private async bringBack(
    name: string,
    kernelId: string,
    document: boolean,
    work: (
      name: string,
      follow: { progress: (fraction: number) => void; signal: AbortSignal }
    ) => Promise<IRestoreAnswer>
  ): Promise<void> {
    const { model, notices, targets, trans } = this.parts;
    const cancel = new AbortController();
    const open = targets.of(kernelId);
    const answer = await notices.during(
      name
        ? trans.__('Bringing the kernel back to “%1”…', name)
        : trans.__('Bringing the kernel back…'),
      report =>
        model.during('restore', kernelId, async progress => {
          // What is kept holds the notebook as it is on the screen.
          await Promise.all(open.map(target => this.save(target, document)));
          const answer = await work(name, follow(cancel, report, progress));
          if (document) {
            await this.bringDocument(answer.snapshot, kernelId);
          }
          return answer;
        }),
      answer => ({
        message: document
          ? trans.__('Kernel and notebook are back at “%1”.', answer.snapshot)
          : trans.__('The kernel is back at “%1”.', answer.snapshot),
        warnings: answer.warnings,
        actions: answer.kept
          ? [this.undoRestore(kernelId, answer.kept, document)]
          : []
      }),
      {
        cancel: () => cancel.abort(),
        failure: error => this.restoreAnyway(error, name, document)
      }
    );
    if (answer?.kept) {
      this.watch(kernelId, answer.kept);
    }
  }

  /**
   * To go back to what a kernel was before something else was put in its place.
   *
   * @param kept The snapshot of that.
   * @param document Whether the notebook goes back, too.
   */
  undoRestore(
    kernelId: string,
    kept: string,
    document: boolean
  ): INoticeAction {
    const { model, trans } = this.parts;
    return {
      label: trans.__('Undo'),
      caption: trans.__('Go on from where the kernel was before'),
      isMain: true,
      callback: () => {
        // What has been run since is worth keeping, too.
        const hasRun = this.hasRun.has(kept) || !this.watched.has(kept);
        void this.bringBack(kept, kernelId, document, async (name, follow) => {
          const answer = await model.client.restore(
            kernelId,
            name,
            { keep: hasRun },
            follow
          );
          if (!hasRun) {
            await model.client.delete(kept);
          }
          return answer;
        });
      }
    };
  }

  /** Note whether the kernel runs anything after it was brought back. */
  private watch(kernelId: string, kept: string): void {
    const kernel =
      this.parts.targets.of(kernelId)[0]?.sessionContext.session?.kernel;
    if (!kernel) {
      return;
    }
    this.watched.add(kept);
    const look = (_: unknown, { msg }: Kernel.IAnyMessageArgs) => {
      if (msg.header.msg_type === 'execute_input') {
        this.hasRun.add(kept);
        kernel.anyMessage.disconnect(look);
      }
    };
    kernel.anyMessage.connect(look);
  }

  /** Put the notebook of a snapshot into all that show it, or else into the file. */
  private async bringDocument(name: string, kernelId: string): Promise<void> {
    const { model, services, targets } = this.parts;
    const content = await model.client.document(name);
    const panels = targets
      .of(kernelId)
      .map(target => target.notebook)
      .filter((panel): panel is NotebookPanel => panel !== null);
    for (const { context } of new Set(panels)) {
      context.model.sharedModel.transact(() =>
        context.model.fromJSON(content as nbformat.INotebookContent)
      );
      await save(context);
    }
    const path = model.get(name)?.path;
    if (!panels.length && path) {
      await services.contents.save(path, {
        type: 'notebook',
        format: 'json',
        content: content as nbformat.INotebookContent
      });
    }
  }

  private restoreAnyway(
    error: SnapshotError,
    name: string,
    document: boolean
  ): INoticeAction[] {
    const { model, trans } = this.parts;
    const snapshot = model.get(name);
    if (!snapshot || !error.isNotKept) {
      return [];
    }
    return [
      {
        label: trans.__('Restore anyway…'),
        caption: trans.__('What runs now will be lost'),
        callback: () => void this.restore(snapshot, { document, keep: false })
      }
    ];
  }

  private async mayLose(snapshot: ISnapshot): Promise<boolean> {
    const { trans } = this.parts;
    const { button } = await showDialog({
      title: trans.__('Restore “%1”?', snapshot.name),
      body: trans.__(
        'What the kernel holds now will be lost: it is not kept as a snapshot.'
      ),
      buttons: [
        Dialog.cancelButton(),
        Dialog.warnButton({ label: trans.__('Restore') })
      ]
    });
    return button.accept;
  }

  private async replaceOrFork(
    snapshot: ISnapshot
  ): Promise<'cancel' | 'fork' | 'replace'> {
    const { trans } = this.parts;
    const { button } = await showDialog({
      title: trans.__('%1 has another kernel now', baseName(snapshot.path)),
      body: trans.__(
        'The kernel of snapshot “%1” has ended, and the notebook got a new one. ' +
          'Restoring shuts the new one down; forking leaves it alone and opens a copy.',
        snapshot.name
      ),
      buttons: [
        Dialog.cancelButton(),
        Dialog.warnButton({
          label: trans.__('Replace the kernel'),
          actions: ['replace']
        }),
        Dialog.okButton({
          label: trans.__('Fork into a copy'),
          actions: ['fork']
        })
      ]
    });
    if (!button.accept) {
      return 'cancel';
    }
    return button.actions.includes('fork') ? 'fork' : 'replace';
  }

  /** Show the document of a kernel that has come back, where none does. */
  private async reopen(snapshot: ISnapshot): Promise<void> {
    const { docManager, services, sleepers, targets } = this.parts;
    await services.kernels.refreshRunning();
    if (!(await this.isRunning(snapshot.kernel_id))) {
      return;
    }
    const panel = snapshot.path ? targets.notebook(snapshot.path) : undefined;
    if (panel) {
      await sleepers.connect(panel, snapshot.kernel_id);
    } else if (snapshot.path.endsWith('.ipynb')) {
      docManager.openOrReveal(snapshot.path, 'default', {
        id: snapshot.kernel_id
      });
    } else {
      await this.openConsole(snapshot.kernel_id, null);
    }
  }

  private async doFork(
    pending: string,
    origin: string,
    work: (follow: {
      progress: (fraction: number) => void;
      signal: AbortSignal;
    }) => Promise<IForkAnswer>
  ): Promise<void> {
    const { model, notices, targets, trans } = this.parts;
    const cancel = new AbortController();
    const beside = targets.of(origin)[0] ?? null;
    const answer = await notices.during(
      pending,
      report =>
        model.during('fork', origin, progress =>
          work(follow(cancel, report, progress))
        ),
      answer => ({
        message: answer.path
          ? trans.__('Forked into %1.', baseName(answer.path))
          : trans.__('Forked.'),
        // That it has its original's key concerns programs outside this server.
        warnings: answer.key_renewed ? answer.warnings : [],
        actions: [
          {
            label: trans.__('Open'),
            callback: () => void this.openFork(answer, beside)
          }
        ]
      }),
      { cancel: () => cancel.abort() }
    );
    if (answer) {
      await this.openFork(answer, beside);
    }
  }

  private async openFork(
    answer: IForkAnswer,
    beside: ITarget | null
  ): Promise<void> {
    if (!answer.path) {
      return this.openConsole(answer.kernel_id, beside);
    }
    this.parts.docManager.openOrReveal(
      answer.path,
      'default',
      { id: answer.kernel_id },
      beside?.widget.isAttached
        ? { mode: 'split-right', ref: beside.widget.id }
        : undefined
    );
  }

  private async openConsole(
    kernelId: string,
    beside: ITarget | null
  ): Promise<void> {
    const { commands } = this.parts;
    if (commands.hasCommand('console:create')) {
      await commands.execute('console:create', {
        kernelPreference: { id: kernelId },
        ...(beside ? { insertMode: 'split-right', ref: beside.widget.id } : {})
      });
    }
  }

  /** Of the copy of a notebook: named after the snapshot, beside the original. */
  private async pathOfFork(snapshot: ISnapshot): Promise<string | undefined> {
    if (!snapshot.has_document || !snapshot.path) {
      return undefined;
    }
    const directory = snapshot.path.slice(0, -baseName(snapshot.path).length);
    const stem = baseName(stemOf(snapshot.path));
    const { name } = snapshot;
    return this.freePath(
      directory + (name.startsWith(stem) ? name : `${stem}-${name}`)
    );
  }

  /** A path of a notebook that there is not yet. */
  private async freePath(stem: string): Promise<string> {
    const { contents } = this.parts.services;
    for (let number = 1; ; number++) {
      const path = `${stem}${number > 1 ? `-${number}` : ''}.ipynb`;
      try {
        await contents.get(path, { content: false });
      } catch {
        return path;
      }
    }
  }

  private async isRunning(kernelId: string): Promise<boolean> {
    const { kernels } = this.parts.services;
    return (await kernels.findById(kernelId)) !== undefined;
  }

  /**
   * What the server is to read is on the screen.
   *
   * @param isNeeded Whether it would be lost otherwise, whatever the settings say.
   */
  async save({ notebook }: ITarget, isNeeded = false): Promise<void> {
    const context = notebook?.context;
    if (
      (isNeeded || this.parts.settings.now.saveDocument) &&
      context?.model.dirty &&
      !context.model.readOnly
    ) {
      await save(context);
    }
  }

  private async deleteNow(name: string): Promise<void> {
    try {
      await this.parts.model.client.delete(name);
    } catch (error) {
      this.parts.notices.fail(error);
    }
  }

  /** Delete what was not undone. */
  private async commit(
    names: readonly string[],
    isLast = false
  ): Promise<void> {
    if (!this.deletions.delete(names)) {
      return;
    }
    const { model, notices } = this.parts;
    const failures: unknown[] = [];
    await Promise.all(
      names.map(name =>
        model.client.delete(name, isLast).catch(error => failures.push(error))
      )
    );
    if (failures.length) {
      model.unhide(names);
      await model.refresh();
      notices.fail(failures[0]);
    }
  }

  private flush(): void {
    for (const [names, timer] of this.deletions) {
      window.clearTimeout(timer);
      void this.commit(names, true);
    }
  }

  private readonly deletions = new Map<readonly string[], number>();
  private readonly watched = new Set<string>();
  private readonly hasRun = new Set<string>();
}

/** What actions are made of. */
export namespace Actions {
  export interface IParts {
    model: SnapshotModel;
    targets: Targets;
    sleepers: Sleepers;
    shell: JupyterFrontEnd.IShell;
    notices: Notices;
    trust: Trust;
    settings: Settings;
    docManager: IDocumentManager;
    services: ServiceManager.IManager;
    commands: CommandRegistry;
    trans: TranslationBundle;
  }
}

function follow(
  cancel: AbortController,
  ...reports: ((fraction: number) => void)[]
) {
  return {
    signal: cancel.signal,
    progress: (fraction: number) => reports.forEach(report => report(fraction))
  };
}
